//! Whether the store is still the one that was followed. One that was restored from an earlier copy, and another one at the
//! same address, answer as if nothing had happened.
//!
//! Kept are the cluster's id, the greatest revision it named, and the newest change seen, the *witness*. It is the same store
//! while its id is the same, its revision has not fallen, and at the revision of the witness it has the witness. The last
//! also finds a copy whose revisions have meanwhile grown past all that was seen before.
//!
//! A restored etcd was stopped, so that every stream to it breaks: each watch looks here before it goes on. A look every few seconds
//! serves those behind a proxy that kept the stream, and those who do not watch.

use etcd_client::ResponseHeader;
use kilonova_model::Revision;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::KeyValue;

/// What is remembered of the store.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// How often it was another one.
    pub(super) count: u64,
    /// The cluster's id; 0 before it named one.
    pub(super) cluster: u64,
    /// The greatest revision known to have been reached.
    pub(super) revision: Revision,
    /// The newest change known.
    pub(super) witness: Option<KeyValue>,
    /// A key that this user may read.
    pub(super) readable: String,
}

/// What the store says of itself now. Read after what it is compared with was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) cluster: u64,
    pub(super) revision: Revision,
}

impl Present {
    pub(super) fn of(header: &ResponseHeader) -> Self {
        let revision = Revision(u64::try_from(header.revision()).unwrap_or_default());
        Self { cluster: header.cluster_id(), revision }
    }
}

/// The witness's key as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Past {
    /// At the revision of the witness.
    Then(Option<KeyValue>),
    /// Now, for that revision is compacted.
    Now(Option<KeyValue>),
}

/// Why the store is not the one that was followed; none if nothing says so.
pub(super) fn differs(seen: &Seen, now: Present, past: Option<&Past>) -> Option<&'static str> {
    if seen.cluster != 0 && now.cluster != 0 && seen.cluster != now.cluster {
        return Some("another_cluster");
    }
    if now.revision < seen.revision {
        return Some("revision_fell");
    }
    let witness = seen.witness.as_ref()?;
    let is_witness =
        |item: &KeyValue| item.mod_revision == witness.mod_revision && item.value == witness.value;
    let agrees = match past? {
        Past::Then(found) => found.as_ref().is_some_and(is_witness),
        // What was changed or deleted since cannot be compared any more.
        Past::Now(None) => true,
        Past::Now(Some(found)) => found.mod_revision > witness.mod_revision || is_witness(found),
    };
    (!agrees).then_some("history_differs")
}

/// What is remembered, shared by all watches of a process.
#[derive(Debug)]
pub(super) struct History {
    seen: Mutex<Seen>,
    count: watch::Sender<u64>,
}

impl History {
    pub(super) fn new() -> Self {
        Self { seen: Mutex::default(), count: watch::Sender::new(0) }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().clone()
    }

    /// How often the store was another one. What was read under another count is not of this one.
    pub(super) fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until the store is another one than under this count.
    pub(super) async fn ended(&self, count: u64) {
        let mut counts = self.subscribe();
        // The sender lives as long as `self`.
        let _ = counts.wait_for(|now| *now != count).await;
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }

    /// Remembers a key that this user may read.
    pub(super) fn may_read(&self, key: &str) {
        let mut seen = self.seen.lock();
        if seen.readable.is_empty() {
            key.clone_into(&mut seen.readable);
        }
    }

    /// A change was seen, by one who had asked under that count.
    pub(super) fn saw(&self, count: u64, change: &KeyValue) {
        let mut seen = self.seen.lock();
        let is_newest = seen.witness.as_ref().is_none_or(|known| known.mod_revision < change.mod_revision);
        if seen.count == count && is_newest {
            seen.revision = seen.revision.max(change.mod_revision);
            seen.witness = Some(change.clone());
        }
    }

    /// Nothing says that it is another store.
    pub(super) fn confirm(&self, count: u64, now: Present, past: Option<Past>) {
        let mut seen = self.seen.lock();
        if seen.count != count {
            return;
        }
        seen.cluster = now.cluster;
        seen.revision = seen.revision.max(now.revision);
        // A witness that cannot be asked for any more is replaced by what is there.
        if let Some(Past::Now(found)) = past {
            seen.witness = found;
        }
    }

    /// It is another store. Said once of each.
    pub(super) fn begin_anew(&self, count: u64, now: Present, reason: &'static str) {
        let mut seen = self.seen.lock();
        if seen.count != count {
            return;
        }
        tracing::error!(
            reason, seen = %seen.revision, now = %now.revision,
            "the store went back to an earlier state, or is another one; all that is known of it is read anew"
        );
        metrics::counter!("kilonova_store_went_back_total", "reason" => reason).increment(1);
        let readable = std::mem::take(&mut seen.readable);
        *seen =
            Seen { count: count + 1, cluster: now.cluster, revision: now.revision, witness: None, readable };
        self.count.send_replace(count + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(value: &str, revision: u64) -> KeyValue {
        let (create_revision, mod_revision) = (Revision(1), Revision(revision));
        KeyValue {
            key: "k".into(),
            value: value.to_owned().into(),
            create_revision,
            mod_revision,
            leased: false,
        }
    }

    fn seen(revision: u64, witness: Option<KeyValue>) -> Seen {
        Seen { cluster: 7, revision: Revision(revision), witness, ..Seen::default() }
    }

    fn now(revision: u64) -> Present {
        Present { cluster: 7, revision: Revision(revision) }
    }

    #[test]
    fn a_store_that_only_went_on_is_the_same() {
        let witness = || Some(item("1", 10));
        assert_eq!(differs(&seen(12, None), now(12), None), None);
        assert_eq!(differs(&seen(12, witness()), now(15), Some(&Past::Then(witness()))), None);
        for later in [None, witness(), Some(item("2", 14))] {
            assert_eq!(differs(&seen(12, witness()), now(15), Some(&Past::Now(later))), None);
        }
        assert_eq!(differs(&Seen::default(), now(1), None), None, "nothing was seen before");
    }

    #[test]
    fn an_earlier_state_or_another_store_is_told_apart() {
        let witness = || Some(item("1", 10));
        assert_eq!(differs(&seen(12, witness()), now(11), None), Some("revision_fell"));
        let other = Present { cluster: 8, revision: Revision(100) };
        assert_eq!(differs(&seen(12, None), other, None), Some("another_cluster"));
        // Its revisions have grown past all that was seen.
        for then in [None, Some(item("1", 9)), Some(item("2", 10))] {
            let past = Past::Then(then);
            assert_eq!(differs(&seen(12, witness()), now(100), Some(&past)), Some("history_differs"));
        }
        let older = Past::Now(Some(item("0", 8)));
        assert_eq!(differs(&seen(12, witness()), now(100), Some(&older)), Some("history_differs"));
    }

    #[test]
    fn what_was_asked_of_the_store_before_says_nothing_of_this_one() {
        let history = History::new();
        history.saw(0, &item("1", 50));
        history.begin_anew(0, now(5), "revision_fell");
        history.begin_anew(0, now(4), "revision_fell");
        history.saw(0, &item("1", 60));
        history.confirm(0, now(70), None);
        let seen = history.seen();
        assert_eq!((seen.count, seen.revision, seen.witness), (1, Revision(5), None));
        assert_eq!(history.count(), 1);
    }
}
