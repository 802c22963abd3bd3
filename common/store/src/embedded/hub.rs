//! The recent changes, kept for the watches to pull.
//!
//! The writer only ever appends to a bounded ring; each watch has its own cursor and pulls at its own pace. A watch
//! whose cursor fell off the ring reads a snapshot. So no watch can hold up the writer or another watch.

use std::collections::VecDeque;
use std::sync::Arc;

use kilonova_model::Revision;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::WatchEvent;

/// The most bytes of keys and values kept, whatever the number of changes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// The most groups one pull returns.
const MAX_PULL: usize = 256;

/// The changes of one group commit.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) last: Revision,
    pub(super) events: Vec<WatchEvent>,
    bytes: usize,
}

/// How far the store has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) revision: Revision,
    pub(super) open: bool,
}

#[derive(Debug)]
pub(super) struct Hub {
    ring: Mutex<Ring>,
    tip: watch::Sender<Tip>,
}

impl Hub {
    pub(super) fn new(revision: Revision, max_events: usize) -> Self {
        let ring = Ring { floor: revision, batches: VecDeque::new(), events: 0, bytes: 0, max_events };
        Self { ring: Mutex::new(ring), tip: watch::Sender::new(Tip { revision, open: true }) }
    }

    pub(super) fn publish(&self, last: Revision, events: Vec<WatchEvent>) {
        let bytes = events.iter().map(size).sum();
        self.ring.lock().push(Arc::new(Batch { last, events, bytes }));
        self.tip.send_modify(|tip| tip.revision = last);
    }

    /// Sends every watch to a snapshot.
    pub(super) fn forget(&self, revision: Revision) {
        self.ring.lock().clear(revision);
        self.tip.send_modify(|tip| tip.revision = revision);
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        self.tip.send_modify(|tip| tip.open = false);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Tip> {
        self.tip.subscribe()
    }

    /// The groups after a revision, oldest first; none when the ring does not go back that far.
    pub(super) fn since(&self, cursor: Revision) -> Option<Vec<Arc<Batch>>> {
        self.ring.lock().since(cursor)
    }
}

fn size(event: &WatchEvent) -> usize {
    match event {
        WatchEvent::Put(item) => item.key.len() + item.value.len(),
        WatchEvent::Delete { key, .. } => key.len(),
        WatchEvent::Snapshot { .. } => 0,
    }
}

#[derive(Debug)]
struct Ring {
    /// Everything after this revision is in the ring.
    floor: Revision,
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    bytes: usize,
    max_events: usize,
}

impl Ring {
    fn push(&mut self, batch: Arc<Batch>) {
        self.events += batch.events.len();
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
        while self.events > self.max_events || self.bytes > MAX_BYTES {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.events -= oldest.events.len();
            self.bytes -= oldest.bytes;
            self.floor = oldest.last;
        }
    }

    fn clear(&mut self, floor: Revision) {
        self.batches.clear();
        (self.events, self.bytes, self.floor) = (0, 0, floor);
    }

    fn since(&self, cursor: Revision) -> Option<Vec<Arc<Batch>>> {
        if cursor < self.floor {
            return None;
        }
        let start = self.batches.partition_point(|batch| batch.last <= cursor);
        Some(self.batches.range(start..).take(MAX_PULL).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64) -> Vec<WatchEvent> {
        vec![WatchEvent::Delete { key: "k".into(), revision: Revision(revision) }]
    }

    #[test]
    fn forgets_the_oldest_and_says_so() {
        let hub = Hub::new(Revision(1), 2);
        let lasts = |cursor| {
            hub.since(Revision(cursor))
                .map(|found| found.iter().map(|batch| batch.last.0).collect::<Vec<_>>())
        };
        assert_eq!(lasts(1), Some(vec![]));
        (2..=3).for_each(|n| hub.publish(Revision(n), change(n)));
        assert_eq!(lasts(1), Some(vec![2, 3]));
        assert_eq!(lasts(2), Some(vec![3]));
        hub.publish(Revision(4), change(4));
        assert_eq!(lasts(1), None, "revision 2 is gone");
        assert_eq!(lasts(2), Some(vec![3, 4]));
        assert_eq!(lasts(9), Some(vec![]), "a snapshot may be ahead of the ring");
        hub.forget(Revision(5));
        assert_eq!(lasts(4), None);
    }
}
