//! How the services of Kilonova find and call each other: a registry in the store, channels over the members
//! that are up, deadlines on everything, and errors that say whether the thing may have happened.
//!
//! From the bottom: [`status`] and [`outcome`] give errors their meaning; [`registry`] says who exists;
//! [`peers`] turns that into channels for the generated clients; [`retry`] and [`subscribe`] are what callers
//! build on them; [`server`] is the other end, and [`publish`] what it streams.

pub mod backoff;
pub mod caller;
pub mod outcome;
pub mod peers;
pub mod publish;
pub mod registry;
pub mod retry;
pub mod server;
pub mod status;
pub mod subscribe;
mod wire;
