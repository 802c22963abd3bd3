//! What callers notice of faults: members that die, freeze, refuse and leave, a registry that is away, a network that
//! is cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dead;
mod drain;
mod frozen;
mod garbled;
mod load;
mod many;
mod network;
mod outage;
mod overload;
mod silent;
mod support;
mod traffic;
