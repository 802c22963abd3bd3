//! An api over real connections, before conductors that do as they are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod fake;
mod setup;
mod surface;
mod watches;
