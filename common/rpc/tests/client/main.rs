//! The client half against real servers on loopback, discovered through an embedded store.

#![allow(clippy::unwrap_used, reason = "tests")]

mod faults;
mod peers;
mod registry;
mod retries;
mod subscribe;
mod support;
