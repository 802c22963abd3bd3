//! Watches: a prefix followed through outages, as a stream of events.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::stream::{BoxStream, StreamExt};
use kilonova_model::Revision;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::KeyValue;

/// Where a watch starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// With all that is there, then the changes.
    Snapshot,
    /// With the first change after this revision; with a snapshot if the store no longer remembers that far.
    After(Revision),
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// All there is under the prefix. It replaces whatever the consumer knew.
    Snapshot {
        /// The keys, in key order.
        items: Vec<KeyValue>,
        /// The revision at which they were read.
        revision: Revision,
        /// The store is another one, or an earlier state of it: nothing that was known before holds, not even that revisions grow.
        went_back: bool,
    },
    /// A key was written.
    Put(KeyValue),
    /// A key was deleted, or its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl WatchEvent {
    /// The revision it brings the consumer to.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Snapshot { revision, .. } | Self::Delete { revision, .. } => *revision,
            Self::Put(item) => item.mod_revision,
        }
    }
}

/// Whether a watch is in touch with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchHealth {
    /// While false, the consumer's knowledge grows stale; nothing is lost.
    pub connected: bool,
    /// Since when it is so.
    pub since: Instant,
}

impl WatchHealth {
    /// In that state from now on.
    #[must_use]
    pub fn now(connected: bool) -> Self {
        Self { connected, since: Instant::now() }
    }
}

/// The changes under one prefix, in the order of their revisions: every one once, none left out.
///
/// Revisions fall only with a snapshot that says that the store went back.
///
/// It reconnects and resumes by itself. When the changes it would have to resume from are no longer kept, or the consumer
/// is too slow for the store to keep them, one [`WatchEvent::Snapshot`] stands for them. Only closing the
/// store ends it; dropping it cancels it.
pub struct Watch {
    events: BoxStream<'static, WatchEvent>,
    health: watch::Receiver<WatchHealth>,
}

impl Watch {
    /// Makes a watch of a stream of events.
    #[must_use]
    pub fn new(
        events: impl Stream<Item = WatchEvent> + Send + 'static,
        health: watch::Receiver<WatchHealth>,
    ) -> Self {
        Self { events: events.fuse().boxed(), health }
    }

    /// Whether it is in touch with the store.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<WatchHealth> {
        self.health.clone()
    }
}

impl Stream for Watch {
    type Item = WatchEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<WatchEvent>> {
        self.events.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("health", &*self.health.borrow()).finish_non_exhaustive()
    }
}
