//! Forgetting request ids once their time is over.
//!
//! No wall clock is asked: that of one conductor may be a day ahead. What was written up to a revision is forgotten once the store was there
//! long enough ago, as counted on the monotonic clocks of those who had this duty. What they counted is kept in the store, so that the next
//! one goes on from it; time in which nobody counts does not pass.

use std::time::Duration;

use kilonova_model::{Error, Revision};
use kilonova_proto::conductor::v1::{AgesRecord, RevisionAge};
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tokio::time::Instant;

use crate::db::{Db, Read, decode, store_error};
use crate::shards::Shards;

/// How many requests are looked at together.
const PAGE: usize = 100;
/// Whoever owns this name's shard forgets the requests of the whole cell.
const DUTY: &str = "requests";
/// How many times the retention is counted: as much longer an id may stay, and twice as much is not counted when the owner changes.
const MEASURES: u32 = 100;

/// Forgets for ever what is older than `retention`, whenever this conductor has the duty.
pub async fn run(db: Db, shards: Shards, retention: Duration) {
    let mut went_back = db.went_back();
    let mut forgetting = Forgetting::new(db, retention);
    loop {
        tokio::time::sleep(retention / MEASURES).await;
        if went_back.has_changed().unwrap_or(false) || !shards.owns(&DUTY) {
            went_back.mark_unchanged();
            forgetting.counted = None;
            continue;
        }
        match forgetting.pass(Instant::now).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::debug!(forgotten, "forgot old requests"),
            Err(error) => tracing::warn!(%error, "cannot forget old requests yet"),
        }
    }
}

/// One conductor's part in the counting.
pub struct Forgetting {
    db: Db,
    retention: Duration,
    /// The revision at which it stored the ages, and what its clock said then.
    counted: Option<(Revision, Instant)>,
}

impl Forgetting {
    /// Has counted nothing yet.
    #[must_use]
    pub fn new(db: Db, retention: Duration) -> Self {
        Self { db, retention, counted: None }
    }

    /// Counts on, if nobody else did since the last pass, and forgets what is over; says how many.
    pub async fn pass(&mut self, clock: impl Fn() -> Instant) -> Result<usize, Error> {
        let key = self.db.keys.ages();
        let (found, reached) = self.db.store.get(&key).await.map_err(store_error)?;
        // After the store was asked: no revision is taken for older than it is.
        let now = clock();
        let Read { mut record, revision } = match &found {
            Some(item) => decode::<AgesRecord>(item)?,
            None => Read { record: AgesRecord::default(), revision: Revision(0) },
        };
        let since = self.counted.filter(|(at, _)| *at == revision).map_or(now, |(_, since)| since);
        let over = count(&mut record, now.duration_since(since), reached, self.retention);
        let as_read = Txn::new().when(Compare::ModRevision(key.clone(), revision));
        let forgotten = match over {
            Some(over) => forget(&self.db, over, &as_read).await?,
            None => 0,
        };
        self.counted = match self.db.commit(as_read.put(key, record.encode_to_vec())).await? {
            TxnOutcome::Committed { revision } => Some((revision, now)),
            TxnOutcome::Conflict { .. } => None,
        };
        Ok(forgotten)
    }
}

/// Counts `passed` for each revision, and begins with the one that is `reached`. Returns the newest that was reached at least `retention`
/// ago, once.
fn count(
    record: &mut AgesRecord,
    passed: Duration,
    reached: Revision,
    retention: Duration,
) -> Option<Revision> {
    // Of another history: nothing that was noted says how old these revisions are.
    if record.ages.last().is_some_and(|last| reached.0 < last.revision) {
        record.ages.clear();
    }
    let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
    for one in &mut record.ages {
        one.milliseconds = one.milliseconds.saturating_add(passed);
    }
    let is_past = |one: &RevisionAge, long: Duration| Duration::from_millis(one.milliseconds) >= long;
    let past = record.ages.iter().take_while(|one| is_past(one, retention)).count();
    let over = record.ages.drain(..past).next_back().map(|one| Revision(one.revision));
    if record.ages.last().is_none_or(|last| is_past(last, retention / MEASURES)) {
        record.ages.push(RevisionAge { revision: reached.0, milliseconds: 0 });
    }
    over
}

/// Forgets what was written up to a revision, while `holds` does; says how many.
async fn forget(db: &Db, over: Revision, holds: &Txn) -> Result<usize, Error> {
    let prefix = db.keys.all_requests();
    let (mut after, mut forgotten) = (None, 0);
    loop {
        let page = db.store.list(&prefix, after.as_deref(), PAGE).await.map_err(store_error)?;
        let mut txn = holds.clone();
        for item in page.items.iter().filter(|item| item.mod_revision <= over) {
            txn = txn.when(Compare::ModRevision(item.key.clone(), item.mod_revision)).delete(&item.key);
        }
        let count = txn.ops.len();
        // A request is never changed once it is stored: another conductor counts now, or the store is not what it was.
        if count > 0 && db.commit(txn).await?.committed().is_none() {
            return Ok(forgotten);
        }
        forgotten += count;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(forgotten),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const RETENTION: Duration = HOUR.saturating_mul(24);

    #[test]
    fn what_is_old_enough_is_named_once_and_another_history_is_counted_anew() {
        let mut record = AgesRecord::default();
        let mut passed = |hours, reached| count(&mut record, HOUR * hours, Revision(reached), RETENTION);
        assert_eq!(passed(0, 100), None);
        assert_eq!(passed(12, 200), None);
        assert_eq!(passed(11, 300), None);
        assert_eq!(passed(1, 400), Some(Revision(100)));
        assert_eq!(passed(0, 500), None);
        assert_eq!(passed(23, 600), Some(Revision(300)), "the newest of two");
        assert_eq!(passed(1, 50), None, "the store went back");
        assert_eq!(passed(23, 90), None);
        assert_eq!(passed(1, 95), Some(Revision(50)));
    }

    #[test]
    fn owners_that_change_all_the_time_do_not_fill_the_record() {
        let mut record = AgesRecord::default();
        for reached in 0..1000 {
            count(&mut record, Duration::ZERO, Revision(reached), RETENTION);
        }
        assert_eq!(record.ages.len(), 1);
        for reached in 1000..2000 {
            count(&mut record, RETENTION / MEASURES, Revision(reached), RETENTION);
            assert!(record.ages.len() <= 101);
        }
    }
}
