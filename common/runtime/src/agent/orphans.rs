//! What is on the host and in no record: kept, counted and said, and removed only if the operator has that done. Then it is left alone
//! for a grace period, removed only if it has been so all along, and not more of it in an hour than a share of what there is.
//!
//! A record is written before its host is asked, and stays as long as a host may have something of it. So an orphan says that the
//! records are not those that the host was asked by: it may be the last good copy of something.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kilonova_model::Error;
use kilonova_rpc::status::to_status;
use tokio::time::Instant;
use tonic::Status;

use super::executor::{Book, Executor};
use super::ledger::Stamp;
use super::work::{Work, answered};

const HOUR: Duration = Duration::from_secs(3600);

/// How orphans are treated.
#[derive(Debug, Clone, Copy)]
pub struct OrphanOptions {
    /// True has them removed, false keeps them.
    pub remove: bool,
    /// How long they are left alone.
    pub grace: Duration,
    /// The part of what there is that may be removed in an hour, 0 to 1; at least one of it may.
    pub share_per_hour: f64,
}

/// What is in no record, and since when.
#[derive(Debug)]
pub struct Orphans<K> {
    options: OrphanOptions,
    since: BTreeMap<K, Instant>,
    /// When those of the last hour were given to be removed, oldest first.
    removed: VecDeque<Instant>,
}

impl<K: Ord + Copy> Orphans<K> {
    /// None yet.
    pub fn new(options: OrphanOptions) -> Self {
        Self { options, since: BTreeMap::new(), removed: VecDeque::new() }
    }

    /// Takes what is in no record now, of `there` in all, and gives those that are to be removed, and those that are new.
    pub fn seen(&mut self, now: Instant, without_record: &BTreeMap<K, Stamp>, there: usize) -> Seen<K> {
        self.since.retain(|id, _| without_record.contains_key(id));
        while self.removed.front().is_some_and(|at| now.duration_since(*at) >= HOUR) {
            self.removed.pop_front();
        }
        let share = (there as f64 * self.options.share_per_hour).floor() as usize;
        let mut room = share.max(1).saturating_sub(self.removed.len());
        let mut seen = Seen { due: Vec::new(), new: Vec::new(), waiting: 0 };
        for (id, stamp) in without_record {
            let since = *self.since.entry(*id).or_insert_with(|| {
                seen.new.push(*id);
                now
            });
            if !self.options.remove || now.duration_since(since) < self.options.grace {
                continue;
            }
            if room == 0 {
                seen.waiting += 1;
                continue;
            }
            room -= 1;
            self.removed.push_back(now);
            seen.due.push((*id, *stamp));
        }
        seen
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.since.len()
    }

    /// How they are treated.
    pub fn options(&self) -> OrphanOptions {
        self.options
    }
}

/// What to do about orphans.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen<K> {
    /// To be removed, with the newest command for each.
    pub due: Vec<(K, Stamp)>,
    /// Seen for the first time.
    pub new: Vec<K>,
    /// How many would be to be removed if it were not too many for an hour.
    pub waiting: usize,
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

    fn known(grace: Duration, share_per_hour: f64) -> Orphans<u32> {
        Orphans::new(OrphanOptions { remove: true, grace, share_per_hour })
    }

    #[test]
    fn an_orphan_is_due_once_it_was_one_for_the_whole_grace() {
        let (start, grace) = (Instant::now(), Duration::from_secs(600));
        let mut known = known(grace, 1.0);
        assert_eq!(known.seen(start, &orphans([1]), 9), Seen { due: Vec::new(), new: vec![1], waiting: 0 });
        let later = start + grace / 2;
        assert_eq!(
            known.seen(later, &orphans([1, 2]), 9),
            Seen { due: Vec::new(), new: vec![2], waiting: 0 }
        );
        assert_eq!(due(known.seen(start + grace, &orphans([1, 2]), 9)), [1]);
        assert_eq!(due(known.seen(later + grace, &orphans([2]), 9)), [2]);
        assert_eq!(known.count(), 1);
    }

    #[test]
    fn one_that_had_a_record_meanwhile_starts_anew() {
        let (start, grace) = (Instant::now(), Duration::from_secs(600));
        let mut known = known(grace, 1.0);
        known.seen(start, &orphans([1]), 9);
        known.seen(start + grace, &orphans([]), 9);
        assert_eq!(known.count(), 0);
        assert_eq!(due(known.seen(start + grace, &orphans([1]), 9)), [] as [u32; 0]);
        assert_eq!(due(known.seen(start + grace * 2, &orphans([1]), 9)), [1]);
    }

    #[test]
    fn it_is_kept_and_counted_unless_the_operator_has_it_removed() {
        let options = OrphanOptions { remove: false, grace: Duration::ZERO, share_per_hour: 1.0 };
        let mut known = Orphans::new(options);
        let seen = known.seen(Instant::now(), &orphans([1]), 1);
        assert_eq!((seen, known.count()), (Seen { due: Vec::new(), new: vec![1], waiting: 0 }, 1));
    }

    #[test]
    fn without_grace_it_is_due_at_once() {
        assert_eq!(due(known(Duration::ZERO, 1.0).seen(Instant::now(), &orphans([1]), 1)), [1]);
    }

    #[test]
    fn no_more_than_a_share_is_removed_in_an_hour_and_one_always() {
        let start = Instant::now();
        let mut many = known(Duration::ZERO, 0.05);
        let seen = many.seen(start, &orphans(0..100), 100);
        assert_eq!((seen.due.len(), seen.waiting), (5, 95));
        let seen = many.seen(start + HOUR / 2, &orphans(5..100), 95);
        assert_eq!((seen.due.len(), seen.waiting), (0, 95));
        let seen = many.seen(start + HOUR, &orphans(5..100), 95);
        assert_eq!((seen.due.len(), seen.waiting), (4, 91));
        let mut few = known(Duration::ZERO, 0.0);
        assert_eq!(due(few.seen(start, &orphans([1, 2]), 2)), [1]);
        assert_eq!(few.seen(start + HOUR / 2, &orphans([2]), 1).waiting, 1);
    }
}
