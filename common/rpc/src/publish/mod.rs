//! State that many watch: one encode an update, however many the subscribers.
//!
//! A [`Publication`] holds the newest value of every key, already encoded, in the order in which it was written.
//! A subscriber is nothing but a place in that order. It has no queue: woken, it takes what changed after its place,
//! each key once, so that a reader who was away for ten changes of a key gets the tenth, and one who stopped reading
//! costs what an idle one costs.
//!
//! ```text
//!   generation   1    2    3    4    5    6    7
//!   written      a    b    c    a    -c   b    d        -c: c was removed
//!   kept                        a    -c   b    d        one entry a key; its older ones are dropped
//!                ▲                   ▲         ▲
//!                late: gets 4 to 7   │         idle: gets nothing
//!                                    gets 6 and 7
//! ```
//!
//! The frame of an update (header, event, resume token) is made once, when it is written: the token names the update's
//! own generation, so it is the same for all who get it. What differs between subscribers is rare: the snapshot, what a
//! resumed reader missed, and heartbeats.
//!
//! ```text
//!   no token ──► snapshot, by key ────────┐
//!                                         ├─► snapshot_end ──► updates and deletes, heartbeats ──┬─ DRAINING
//!   token ─────► what changed since it ───┘                                                      └─ SLOW_CONSUMER
//!      └ of another epoch, or older than the removals still known: RESUME_TOKEN_EXPIRED
//! ```
//!
//! A snapshot is taken in pieces, and values change meanwhile. It goes by key, so that no key that was there all the
//! time is missed, and afterwards the subscriber follows from where the snapshot *began*: it may see a value twice, and
//! misses none. Within it there is no token, for there is nothing yet to resume.
//!
//! Removals are kept for those who have not heard of them, up to a bound. Whoever stands before the oldest of them
//! can no longer be told what is gone and has to begin anew.

mod log;
mod publication;
mod serve;
mod shape;
mod subscriber;
mod token;

pub use publication::{Counts, Publication, PublishOptions};
pub use serve::{Framed, Frames};
pub use shape::{Part, Shape};
pub use subscriber::Ask;

/// What one message of a watch says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<V> {
    /// Part of the snapshot.
    Snapshot(V),
    /// The snapshot is complete, or a reader that resumed has caught up.
    SnapshotEnd,
    /// New or changed.
    Update(V),
    /// Gone.
    Delete(String),
    /// Nothing new.
    Heartbeat,
}
