//! The server as its callers see it, over real connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod limits;
mod publish;
mod reflection;
mod setup;
mod stop;
