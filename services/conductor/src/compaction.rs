//! Forgetting the store's history of changes: one conductor of the cell has etcd compact it, so that it does not grow for ever.
//!
//! Watches resume from what is kept; one that was away for longer starts over with a listing. Nothing else needs what was.

use std::collections::VecDeque;
use std::time::Duration;

use kilonova_model::Revision;
use tokio::time::Instant;

use crate::db::Db;
use crate::shards::Shards;

/// Whoever owns this name's shard has the store of the whole cell compacted.
const DUTY: &str = "compaction";
/// How many times the history that is kept is measured: as much more may be kept.
const MEASURES: u32 = 10;
/// The longest time between two.
const LONGEST: Duration = Duration::from_secs(60);

/// Which revision was reached when.
#[derive(Debug, Default)]
struct Reached {
    marks: VecDeque<(Instant, Revision)>,
}

impl Reached {
    /// Notes the revision of now. Returns the newest that was reached at least `history` ago, once.
    fn note(&mut self, now: Instant, revision: Revision, history: Duration) -> Option<Revision> {
        // Of another history: nothing that was noted says how old these revisions are.
        if self.marks.back().is_some_and(|(_, last)| revision < *last) {
            self.marks.clear();
        }
        self.marks.push_back((now, revision));
        let mut old = None;
        while self.marks.front().is_some_and(|(at, _)| now.duration_since(*at) >= history) {
            old = self.marks.pop_front().map(|(_, revision)| revision);
        }
        old
    }
}

/// Compacts for ever, whenever this conductor has the duty. All of the history is kept if `history` is nothing.
pub async fn run(db: Db, shards: Shards, history: Duration) {
    if history.is_zero() {
        return;
    }
    let mut went_back = db.went_back();
    let mut reached = Reached::default();
    loop {
        tokio::time::sleep((history / MEASURES).min(LONGEST)).await;
        if went_back.has_changed().unwrap_or(false) || !shards.owns(&DUTY) {
            went_back.mark_unchanged();
            reached = Reached::default();
            continue;
        }
        let revision = match db.store.get(&db.keys.shards()).await {
            Ok((_, revision)) => revision,
            Err(error) => {
                tracing::debug!(%error, "the store's revision is not known now");
                continue;
            }
        };
        let Some(old) = reached.note(Instant::now(), revision, history) else { continue };
        match db.store.compact(old).await {
            Ok(()) => {
                tracing::debug!(revision = %old, kept = revision.0 - old.0, "the store's history is compacted");
                metrics::gauge!("conductor_compacted_revision").set(old.0 as f64);
            }
            Err(error) => tracing::warn!(%error, "cannot compact the store's history; trying on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_enough_is_named_once_and_another_history_is_measured_anew() {
        let (start, history) = (Instant::now(), Duration::from_secs(600));
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let mut reached = Reached::default();
        for minute in 0..10 {
            assert_eq!(reached.note(at(minute), Revision(minute * 100), history), None);
        }
        assert_eq!(reached.note(at(10), Revision(1000), history), Some(Revision(0)));
        assert_eq!(reached.note(at(13), Revision(1300), history), Some(Revision(300)));
        assert_eq!(reached.note(at(13), Revision(1300), history), None);
        assert_eq!(reached.note(at(14), Revision(50), history), None, "the store went back");
        assert_eq!(reached.note(at(24), Revision(90), history), Some(Revision(50)));
    }
}
