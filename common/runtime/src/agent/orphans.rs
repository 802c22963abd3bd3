//! What is on the host and in no record: left alone for a grace period, and removed only if it has been so all along.
//!
//! A record is written before its host is asked, and outlives what it is about, so an orphan is never what somebody waits
//! for. But the records may be the wrong ones: those of a store restored from an older copy, or of another cell that the
//! agent was pointed at by mistake. The grace is the operator's time to see that and stop the agent.

use std::collections::BTreeMap;
use std::time::Duration;

use kilonova_model::Error;
use kilonova_rpc::status::to_status;
use tokio::time::Instant;
use tonic::Status;

use super::executor::{Book, Executor};
use super::ledger::Stamp;
use super::work::{Work, answered};

/// What is in no record, and since when.
#[derive(Debug)]
pub struct Orphans<K> {
    grace: Duration,
    since: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Orphans<K> {
    /// None yet.
    pub fn new(grace: Duration) -> Self {
        Self { grace, since: BTreeMap::new() }
    }

    /// Takes what is in no record now, and gives those that were so for the whole grace, and those that are new.
    pub fn seen(&mut self, now: Instant, without_record: &BTreeMap<K, Stamp>) -> Seen<K> {
        self.since.retain(|id, _| without_record.contains_key(id));
        let (mut due, mut new) = (Vec::new(), Vec::new());
        for (id, stamp) in without_record {
            let since = *self.since.entry(*id).or_insert_with(|| {
                new.push(*id);
                now
            });
            if now.duration_since(since) >= self.grace {
                due.push((*id, *stamp));
            }
        }
        Seen { due, new }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.since.len()
    }

    /// How long they are left alone.
    pub fn grace(&self) -> Duration {
        self.grace
    }
}

/// What to do about orphans.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen<K> {
    /// To be removed, with the newest command for each.
    pub due: Vec<(K, Stamp)>,
    /// Seen for the first time.
    pub new: Vec<K>,
}

impl<W: Work> Executor<W> {
    /// What is there, to be compared with records that are read after this. What the driver has and the book knew nothing of,
    /// before it was asked and since, is entered first: `enter` claims its room.
    pub async fn take_stock<G>(
        &self,
        list: impl Future<Output = Result<Vec<G>, Error>>,
        id: impl Fn(&G) -> W::Id,
        enter: impl Fn(&mut Book<W>, G),
    ) -> Result<BTreeMap<W::Id, Stamp>, Status> {
        let before = self.read(|book| book.ledger.ids());
        let mut strays = answered(list).await.map_err(|error| to_status(&error))?;
        strays.retain(|one| !before.contains(&id(one)));
        if strays.is_empty() {
            return Ok(self.read(|book| book.ledger.idle()));
        }
        Ok(self.change(|book| {
            for one in strays {
                let id = id(&one);
                if book.ledger.view(id).is_none() {
                    tracing::warn!(%id, "the driver has a {} that nobody asked this agent for", W::VERBS.noun);
                    enter(book, one);
                }
            }
            book.ledger.idle()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orphans(ids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Stamp> {
        ids.into_iter().map(|id| (id, Stamp::default())).collect()
    }

    fn due(seen: Seen<u32>) -> Vec<u32> {
        seen.due.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn an_orphan_is_due_once_it_was_one_for_the_whole_grace() {
        let (start, grace) = (Instant::now(), Duration::from_secs(600));
        let mut known = Orphans::new(grace);
        assert_eq!(known.seen(start, &orphans([1])), Seen { due: Vec::new(), new: vec![1] });
        let later = start + grace / 2;
        assert_eq!(known.seen(later, &orphans([1, 2])), Seen { due: Vec::new(), new: vec![2] });
        assert_eq!(due(known.seen(start + grace, &orphans([1, 2]))), [1]);
        assert_eq!(due(known.seen(later + grace, &orphans([1, 2]))), [1, 2]);
        assert_eq!(known.count(), 2);
    }

    #[test]
    fn one_that_had_a_record_meanwhile_starts_anew() {
        let (start, grace) = (Instant::now(), Duration::from_secs(600));
        let mut known = Orphans::new(grace);
        known.seen(start, &orphans([1]));
        known.seen(start + grace, &orphans([]));
        assert_eq!(known.count(), 0);
        assert_eq!(due(known.seen(start + grace, &orphans([1]))), [] as [u32; 0]);
        assert_eq!(due(known.seen(start + grace * 2, &orphans([1]))), [1]);
    }

    #[test]
    fn without_grace_it_is_due_at_once() {
        assert_eq!(due(Orphans::new(Duration::ZERO).seen(Instant::now(), &orphans([1]))), [1]);
    }
}
