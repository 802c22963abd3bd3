//! The audit, end to end through every service, over both stores: what is right is left alone, whatever goes on; what is wrong is
//! found, healed, and not found again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod agents;
mod quiet;
mod records;
mod support;
