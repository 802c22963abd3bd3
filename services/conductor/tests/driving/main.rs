//! The accept path, the shards and the engine over the embedded store, with agents that the tests play.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod accepting;
mod builds;
mod conductors;
mod deletes;
mod evacuations;
mod groups;
mod merging;
mod operations;
mod support;
