//! What to do about what an earlier incarnation left: the conductor's records against what is on the host. Done at start,
//! with every new incarnation, since a host that was cut off may have been given up meanwhile, and every so often.
//!
//! | record says           | on the host          | then                                                    |
//! |-----------------------|----------------------|---------------------------------------------------------|
//! | there is none at all  | it                   | an orphan: kept, or removed after a grace               |
//! | not listed, wanted    | it                   | a stray: left alone, and said loudly                    |
//! | elsewhere, or absent  | it, or nothing       | removed if there, reported gone                         |
//! | being made            | of that generation   | it had been made: reported ready                        |
//! | being made            | nothing              | the conductor sends it again to the new incarnation     |
//! | there                 | it                   | belongs here; nothing to do                             |
//! | there                 | nothing              | said in the log: it is not this agent's to decide       |
//!
//! Commands may arrive meanwhile. They are newer than what was found, and the ledger lets them win. What is there is looked
//! at before the records are read: a record is written before its host is asked, so what was there is in them if it is wanted.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tonic::Status;

use super::executor::Executor;
use super::ledger::Stamp;
use super::work::Work;

/// What a record says of a resource that is or may be on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is to be absent, or belongs elsewhere.
    Unwanted,
    /// It is being made.
    Making,
    /// It is there.
    There,
    /// It failed; there may be something of it or not.
    Broken,
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<K> {
    /// The resource.
    pub id: K,
    /// The command that is due.
    pub stamp: Stamp,
    /// What it says.
    pub standing: Standing,
}

/// What to do about one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<K> {
    /// Remove what there is of it and report it gone.
    Unwanted(K, Stamp),
    /// There is no record of it among those of the host.
    Unlisted(K, Stamp),
    /// Report it ready.
    Ready(K, Stamp),
    /// It should be there and is not.
    Missing(K),
}

/// Decides about everything that is not as it should be. `records` are those of what is or may be on this host; `found` is
/// what was there before they were read, with the newest command for each.
pub fn plan<K: Copy + Ord>(
    records: impl IntoIterator<Item = Record<K>>,
    found: &BTreeMap<K, Stamp>,
) -> Vec<Verdict<K>> {
    let mut unclaimed = found.clone();
    let mut verdicts = Vec::new();
    for record in records {
        let there = unclaimed.remove(&record.id);
        verdicts.extend(verdict(record, there));
    }
    verdicts.extend(unclaimed.into_iter().map(|(id, stamp)| Verdict::Unlisted(id, stamp)));
    verdicts
}

fn verdict<K>(Record { id, stamp, standing }: Record<K>, there: Option<Stamp>) -> Option<Verdict<K>> {
    match (standing, there) {
        (Standing::Unwanted, _) => Some(Verdict::Unwanted(id, stamp)),
        (Standing::Making, Some(made)) => {
            (made.generation == stamp.generation).then_some(Verdict::Ready(id, stamp))
        }
        (Standing::There, None) => Some(Verdict::Missing(id)),
        (Standing::Making, None) | (Standing::There, Some(_)) | (Standing::Broken, _) => None,
    }
}

impl<W: Work> Executor<W> {
    /// Brings what there is in line with the records; `found` is what was there before they were read. `wanted` says which of what
    /// is not among them a record wants all the same, and where: that is left alone. Ends once what is not wanted is removed:
    /// whoever is ready has nothing of it left.
    pub async fn reconcile(
        &self,
        records: impl IntoIterator<Item = Record<W::Id>>,
        found: &BTreeMap<W::Id, Stamp>,
        wanted: impl AsyncFnOnce(Vec<W::Id>) -> Result<BTreeMap<W::Id, String>, Status>,
    ) -> Result<(), Status> {
        let (mut unlisted, mut verdicts) = (BTreeMap::new(), Vec::new());
        for verdict in plan(records, found) {
            match verdict {
                Verdict::Unlisted(id, stamp) => {
                    unlisted.insert(id, stamp);
                }
                verdict => verdicts.push(verdict),
            }
        }
        // What was removed since it was looked for is not asked about.
        unlisted.retain(|id, _| self.read(|book| book.ledger.is_there(*id)));
        let strays = if unlisted.is_empty() {
            BTreeMap::new()
        } else {
            wanted(unlisted.keys().copied().collect()).await?
        };
        self.show_strays(strays.len());
        for (id, host) in &strays {
            unlisted.remove(id);
            tracing::error!(%id, belongs_to = host, "this {} is here and its record wants it elsewhere: it is left alone; look \
                whether this agent has the name and the data it should have", W::VERBS.noun);
        }
        verdicts.extend(self.orphaned(&unlisted, found.len()));
        let mut changes = self.changes();
        let unwanted: Vec<_> = verdicts.into_iter().filter_map(|verdict| self.begin(verdict)).collect();
        while self.read(|book| unwanted.iter().any(|id| book.ledger.overtaken(*id))) {
            if changes.changed().await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The orphans that are to be removed, of `there` in all.
    fn orphaned(
        &self,
        without_record: &BTreeMap<W::Id, Stamp>,
        there: usize,
    ) -> impl Iterator<Item = Verdict<W::Id>> {
        let (seen, options) =
            self.orphans(|orphans| (orphans.seen(Instant::now(), without_record, there), orphans.options()));
        for id in seen.new {
            let then = if options.remove {
                "removed after the grace"
            } else {
                "kept: `kilonova audit --heal` removes it"
            };
            tracing::warn!(%id, grace = ?options.grace, "there is no record of this {}: {then}", W::VERBS.noun);
        }
        if seen.waiting > 0 {
            tracing::error!(
                waiting = seen.waiting,
                share_per_hour = options.share_per_hour,
                "more {}s without a record than may be removed in an hour: the rest waits",
                W::VERBS.noun
            );
        }
        seen.due.into_iter().map(|(id, stamp)| Verdict::Unwanted(id, stamp))
    }

    /// Begins one, and gives what is being removed.
    fn begin(&self, verdict: Verdict<W::Id>) -> Option<W::Id> {
        match verdict {
            Verdict::Unwanted(id, stamp) | Verdict::Unlisted(id, stamp) => match self.unmake(id, stamp) {
                Ok(()) => {
                    tracing::info!(%id, %stamp, "not wanted here any more: being removed, or gone already");
                    return Some(id);
                }
                Err(error) => tracing::info!(%id, %error, "left alone: a newer command came first"),
            },
            Verdict::Ready(id, stamp) => {
                if self.conclude(id, |book| book.ledger.adopt(id, stamp)) {
                    tracing::info!(%id, %stamp, "the {} had been done", W::VERBS.make);
                }
            }
            Verdict::Missing(id) => tracing::warn!(%id, "the records have it here, and the driver does not"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::{Attempt, Generation};

    fn at(generation: u64, attempt: u32) -> Stamp {
        Stamp { generation: Generation(generation), attempt: Attempt(attempt) }
    }

    fn verdicts(standing: Option<Standing>, there: Option<Stamp>) -> Vec<Verdict<u32>> {
        let record = standing.map(|standing| Record { id: 7, stamp: at(2, 3), standing });
        plan(record, &there.map(|stamp| (7, stamp)).into_iter().collect())
    }

    #[test]
    fn what_nobody_wants_is_removed() {
        assert_eq!(verdicts(None, Some(at(1, 1))), [Verdict::Unlisted(7, at(1, 1))]);
        for there in [None, Some(at(1, 1))] {
            assert_eq!(verdicts(Some(Standing::Unwanted), there), [Verdict::Unwanted(7, at(2, 3))]);
        }
    }

    #[test]
    fn what_was_being_made_is_ready_or_left_to_the_next_command() {
        assert_eq!(verdicts(Some(Standing::Making), Some(at(2, 1))), [Verdict::Ready(7, at(2, 3))]);
        assert_eq!(verdicts(Some(Standing::Making), Some(at(1, 1))), []);
        assert_eq!(verdicts(Some(Standing::Making), None), []);
    }

    #[test]
    fn what_belongs_here_stays() {
        assert_eq!(verdicts(Some(Standing::There), Some(at(1, 1))), []);
        assert_eq!(verdicts(Some(Standing::There), None), [Verdict::Missing(7)]);
        assert_eq!(verdicts(Some(Standing::Broken), Some(at(1, 1))), []);
        assert_eq!(verdicts(Some(Standing::Broken), None), []);
    }
}
