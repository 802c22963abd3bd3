//! The client half against real servers on loopback, discovered through an embedded store.

#![allow(clippy::unwrap_used, reason = "tests")]

mod deadlines;
mod faults;
mod hold;
mod lanes;
mod outage;
mod peers;
mod registry;
mod retries;
mod snapshot;
mod subscribe;
mod support;
mod targets;
