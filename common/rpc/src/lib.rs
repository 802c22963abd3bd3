//! How the services of Kilonova find and call each other: a registry in the store, channels over the members
//! that are up, deadlines on everything, and errors that say whether the thing may have happened.
//!
//! From the bottom: [`status`] and [`outcome`] give errors their meaning; [`registry`] says who exists;
//! [`peers`] turns that into channels for the generated clients and holds the verbs; [`subscribe`] makes a stream
//! into a watch that heals itself, by one's [`patience`]; [`server`] is the other end, and [`publish`] what it streams. [`deadline`]s pass through all of it, and
//! [`transport`] is what it runs on.

pub mod backoff;
pub mod caller;
pub mod deadline;
pub mod outcome;
pub mod patience;
pub mod peers;
pub mod publish;
pub mod registry;
pub mod server;
mod service_config;
pub mod status;
pub mod subscribe;
pub mod transport;
mod wire;
