//! The cluster harness: any number of each service in one process, real gRPC on loopback, either store.

pub mod cluster;
pub mod journal;
pub mod waiting;

pub use cluster::{Backing, Cluster, Plan};
