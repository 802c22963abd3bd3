//! The writer: one thread that owns the writing connection and the leases.
//!
//! ```text
//!            ┌──────────── wait for a request, or for a lease to run out
//!            │                       │
//!            │      take whatever else is waiting: that is the group
//!            │                       │
//!            │      judge and write each, end overdue leases       one SQLite transaction
//!            │                       │
//!            │                    commit                           one fsync
//!            │                       │
//!            └────── publish to the watches, then answer everybody
//! ```
//!
//! No timer shapes the groups: while one commits, the next one gathers. Leases that ran out while this thread stood still, or
//! was at one group for long, are left for as long as it takes to renew them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use kilonova_model::Revision;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::database;
use super::group::Group;
use super::hub::Hub;
use super::leases::{Lease, Leases};
use crate::{LeaseId, StoreError, Txn, TxnOutcome, WatchEvent};

/// How long keys of an ended lease wait when deleting them failed.
const RETRY_EXPIRY: Duration = Duration::from_secs(1);

/// Where an answer goes. Holds the request's place in the queue until then.
pub(super) struct Reply<T> {
    pub(super) sender: oneshot::Sender<Result<T, StoreError>>,
    pub(super) place: OwnedSemaphorePermit,
}

impl<T> Reply<T> {
    fn send(self, result: Result<T, StoreError>) {
        drop(self.place);
        // The caller may have gone; what was done stays done.
        let _ = self.sender.send(result);
    }
}

/// What the writer is asked to do.
pub(super) enum Job {
    Txn(Txn, Reply<TxnOutcome>),
    Grant(Duration, Reply<LeaseId>),
    KeepAlive(LeaseId, Reply<()>),
    Revoke(LeaseId, Reply<()>),
}

/// The answers that wait for the commit.
#[derive(Default)]
struct Answers {
    txns: Vec<(Reply<TxnOutcome>, Result<TxnOutcome, StoreError>)>,
    revoked: Vec<(Reply<()>, LeaseId, Lease)>,
}

/// The thread's state.
pub(super) struct Writer {
    db: Connection,
    revision: Revision,
    leases: Leases,
    hub: Arc<Hub>,
    max_group: usize,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.hub.close();
    }
}

impl Writer {
    pub(super) fn new(db: Connection, revision: Revision, hub: Arc<Hub>, max_group: usize) -> Self {
        Self { db, revision, leases: Leases::default(), hub, max_group }
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        while let Some(first) = self.wait(queue) {
            let mut jobs: Vec<_> = first.into_iter().collect();
            jobs.extend(queue.try_iter().take(self.max_group.saturating_sub(jobs.len())));
            self.run_group(jobs);
        }
    }

    /// The next request, nothing when a lease ran out first; none at the end.
    fn wait(&self, queue: &Receiver<Job>) -> Option<Option<Job>> {
        let Some(deadline) = self.leases.next_deadline() else { return queue.recv().ok().map(Some) };
        match queue.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(job) => Some(Some(job)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn run_group(&mut self, jobs: Vec<Job>) {
        let size = jobs.len();
        let started = Instant::now();
        let mut answers = Answers::default();
        let mut overdue = Vec::new();
        let written = self.write(jobs, &mut answers, &mut overdue);
        if let Err(error) = &written {
            tracing::error!(%error, requests = size, "group commit failed");
            let retry_at = Instant::now() + RETRY_EXPIRY;
            overdue.into_iter().for_each(|lease| self.leases.restore_overdue(lease, retry_at));
            for (_, id, lease) in &answers.revoked {
                self.leases.put_back(*id, *lease);
            }
        } else if !answers.txns.is_empty() {
            metrics::histogram!("kilonova_store_group_seconds").record(started.elapsed().as_secs_f64());
            metrics::histogram!("kilonova_store_group_requests").record(size as f64);
        }
        for (reply, result) in answers.txns {
            reply.send(result.and_then(|outcome| written.clone().map(|()| outcome)));
        }
        answers.revoked.into_iter().for_each(|(reply, ..)| reply.send(written.clone()));
    }

    /// Everything up to the answers. Renewals and grants need no commit and are answered on the way.
    fn write(
        &mut self,
        jobs: Vec<Job>,
        answers: &mut Answers,
        overdue: &mut Vec<LeaseId>,
    ) -> Result<(), StoreError> {
        let mut spoiled = None;
        let tx = match self.db.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let error = database::from_sqlite(&error);
                jobs.into_iter().for_each(|job| job.refuse(&error));
                return Err(error);
            }
        };
        let mut group = Group::new(tx, self.revision);
        for job in jobs {
            if let Some(error) = &spoiled {
                job.refuse(error);
                continue;
            }
            match job {
                Job::Txn(txn, reply) => match group.apply(&txn, &self.leases) {
                    Ok(result) => answers.txns.push((reply, result)),
                    Err(error) => {
                        let error = database::from_sqlite(&error);
                        reply.send(Err(error.clone()));
                        spoiled = Some(error);
                    }
                },
                Job::Grant(ttl, reply) => reply.send(Ok(self.leases.grant(ttl, Instant::now()))),
                Job::KeepAlive(lease, reply) => {
                    let alive = self.leases.renew(lease, Instant::now());
                    reply.send(if alive { Ok(()) } else { Err(StoreError::LeaseGone) });
                }
                Job::Revoke(id, reply) => match self.leases.remove(id) {
                    Some(lease) => {
                        answers.revoked.push((reply, id, lease));
                        spoiled = group.end_lease(id).err().map(|error| database::from_sqlite(&error));
                    }
                    None => reply.send(Err(StoreError::LeaseGone)),
                },
            }
        }
        if let Some(error) = spoiled {
            return Err(error);
        }
        let now = Instant::now();
        let forgiven = self.leases.forgive(now);
        if forgiven > 0 {
            tracing::warn!(
                leases = forgiven,
                "leases ran out while this process stood still; waiting for renewals"
            );
        }
        overdue.extend(self.leases.take_overdue(now));
        for lease in overdue {
            tracing::debug!(%lease, "lease ended");
            group.end_lease(*lease).map_err(|error| database::from_sqlite(&error))?;
        }
        let (tx, revision, changes) = group.finish().map_err(|error| database::from_sqlite(&error))?;
        match tx.commit() {
            Ok(()) => {
                self.publish(revision, changes);
                Ok(())
            }
            Err(error) => Err(self.commit_failed(&error)),
        }
    }

    fn publish(&mut self, revision: Revision, changes: Vec<WatchEvent>) {
        self.revision = revision;
        if !changes.is_empty() {
            self.hub.publish(revision, changes);
        }
    }

    /// Whether a failed commit will be found after a crash nobody can say. What this process sees is read again, and the
    /// watches start over from there.
    fn commit_failed(&mut self, error: &rusqlite::Error) -> StoreError {
        if let Ok(revision) = database::revision(&self.db)
            && revision != self.revision
        {
            self.revision = revision;
            self.hub.forget(revision);
        }
        StoreError::unknown(error)
    }
}

impl Job {
    fn refuse(self, error: &StoreError) {
        match self {
            Self::Txn(_, reply) => reply.send(Err(error.clone())),
            Self::Grant(_, reply) => reply.send(Err(error.clone())),
            Self::KeepAlive(_, reply) | Self::Revoke(_, reply) => reply.send(Err(error.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::Semaphore;

    type Answer<T> = oneshot::Receiver<Result<T, StoreError>>;

    fn reply<T>() -> (Reply<T>, Answer<T>) {
        let (sender, answer) = oneshot::channel();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Reply { sender, place }, answer)
    }

    fn put(key: &str, bytes: usize) -> (Job, Answer<TxnOutcome>) {
        let (reply, answer) = reply();
        (Job::Txn(Txn::new().put(key, vec![1; bytes]), reply), answer)
    }

    #[test]
    fn a_group_that_cannot_be_written_is_not_done_and_the_next_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let db = database::open_writer(&dir.path().join("store.db")).unwrap();
        let hub = Arc::new(Hub::new(Revision(1), 100));
        let mut writer = Writer::new(db, Revision(1), Arc::clone(&hub), 100);
        let lease = writer.leases.grant(Duration::from_secs(3600), Instant::now());
        let pages: i64 = writer.db.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        writer.db.pragma_update(None, "max_page_count", pages + 4).unwrap();

        let (revoke, revoked) = reply();
        let (jobs, answers): (Vec<_>, Vec<_>) =
            [put("a", 1), put("b", 1_000_000), put("c", 1)].into_iter().unzip();
        writer.run_group(std::iter::once(Job::Revoke(lease, revoke)).chain(jobs).collect());
        for mut answer in answers {
            assert!(matches!(answer.try_recv(), Ok(Err(StoreError::Unavailable { .. }))));
        }
        assert!(matches!({ revoked }.try_recv(), Ok(Err(StoreError::Unavailable { .. }))));
        assert!(writer.leases.is_alive(lease), "until its keys are deleted");
        let in_an_hour = writer.leases.next_deadline().unwrap() > Instant::now() + Duration::from_secs(3000);
        assert!(in_an_hour, "what was said not to be done is not done later either");
        assert_eq!(hub.since(Revision(1)).map(|batches| batches.len()), Some(0));

        let (job, mut answer) = put("d", 1);
        writer.run_group(vec![job]);
        assert_eq!(answer.try_recv().unwrap(), Ok(TxnOutcome::Committed { revision: Revision(2) }));
        assert_eq!(database::get(&writer.db, "a").unwrap(), (None, Revision(2)));
    }
}
