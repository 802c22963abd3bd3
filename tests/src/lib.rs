//! The cluster harness: any number of each service in one process, real gRPC on loopback, either store. Members in
//! processes of their own, where a test needs to kill or freeze one.

pub mod api;
pub mod asking;
pub mod checker;
pub mod cluster;
pub mod echo;
pub mod journal;
pub mod measure;
pub mod placement;
pub mod points;
pub mod process;
pub mod publishers;
pub mod stores;
pub mod user;
pub mod waiting;

pub use api::Api;
pub use cluster::{Backing, Cluster, Plan};

/// Runs each of these tests over both stores.
#[macro_export]
macro_rules! over_both_stores {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name($crate::Backing::Embedded).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() { super::$name($crate::Backing::Etcd).await; })*
        }
    };
}
