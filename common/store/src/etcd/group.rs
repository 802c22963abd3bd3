//! Transactions that wait together are committed as one of etcd's, each answered on its own.
//!
//! ```text
//!   txn ──► queue ──► those that wait ──► groups that do not touch each other's keys ──► one transaction each
//!                                                                                          │ a compare failed
//!                                                                                          └──► one by one
//! ```
//!
//! A few groups are under way at once, and no timer shapes them: while they are, the next ones gather. Members of a group
//! are all committed at one revision. What goes away with a lease goes alone, so that its revisions are its own.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use futures::{FutureExt, future};
use kilonova_model::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::cluster::{Cluster, revision_of};
use super::convert;
use super::failure::Effect;
use crate::txn::{MAX_TXN_BYTES, MAX_TXN_OPS};
use crate::{KeyValue, Op, StoreError, Txn, TxnOutcome};

/// How many transactions may wait.
const QUEUE: usize = 4096;
/// How many are looked at together.
const GATHER: usize = 256;
/// How many groups are under way at once.
const UNDER_WAY: usize = 4;

type Outcome = Result<TxnOutcome, StoreError>;

struct Waiting {
    txn: Txn,
    reply: oneshot::Sender<Outcome>,
}

/// The queue, and the task that works it off for as long as this is there.
pub(super) struct Groups {
    queue: mpsc::Sender<Waiting>,
    cluster: Arc<Cluster>,
    _task: JoinSet<()>,
}

impl Groups {
    /// Starts working.
    pub(super) fn start(cluster: Arc<Cluster>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(work(cluster.clone(), waiting));
        Self { queue, cluster, _task: task }
    }

    /// Commits a transaction with whatever waits beside it.
    pub(super) async fn commit(&self, txn: Txn) -> Outcome {
        if !may_share(&txn) {
            return alone(&self.cluster, &txn).await;
        }
        let deadline = tokio::time::Instant::now() + self.cluster.options.call_deadline;
        let (reply, answer) = oneshot::channel();
        match timeout_at(deadline, self.queue.send(Waiting { txn, reply })).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(StoreError::unavailable("the store's task has stopped")),
            Err(_) => return Err(StoreError::unavailable("the queue of transactions is full")),
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(StoreError::unknown("the store's task stopped before it answered")),
            Err(_) => Err(StoreError::unknown("the transaction took too long")),
        }
    }
}

async fn work(cluster: Arc<Cluster>, mut queue: mpsc::Receiver<Waiting>) {
    let mut under_way = FuturesUnordered::new();
    let mut waiting = Vec::with_capacity(GATHER);
    loop {
        tokio::select! {
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            count = queue.recv_many(&mut waiting, GATHER), if under_way.len() < UNDER_WAY => {
                if count == 0 {
                    break;
                }
                // Whoever has given up is not waited for.
                waiting.retain(|one| !one.reply.is_closed());
                for group in groups(std::mem::take(&mut waiting), |one| &one.txn) {
                    under_way.push(answer(&cluster, group).boxed());
                }
            }
        }
    }
    under_way.collect::<()>().await;
}

/// Commits a group and answers its members.
async fn answer(cluster: &Cluster, group: Vec<Waiting>) {
    if group.len() > 1 {
        let all = group.iter().fold(Txn::new(), |all, one| all.and(one.txn.clone()));
        let outcome = alone(cluster, &all).await;
        if !is_for_each(&outcome) {
            for one in group {
                // The caller may have gone; what was done stays done.
                let _ = one.reply.send(outcome.clone());
            }
            return;
        }
    }
    let singly = group.into_iter().map(|one| async move {
        let outcome = alone(cluster, &one.txn).await;
        let _ = one.reply.send(outcome);
    });
    future::join_all(singly).await;
}

/// Whether nothing was done for a reason that need not be every member's.
fn is_for_each(outcome: &Outcome) -> bool {
    match outcome {
        Ok(TxnOutcome::Committed { .. }) => false,
        Ok(TxnOutcome::Conflict { .. }) => true,
        Err(error) => !error.is_transient(),
    }
}

async fn alone(cluster: &Cluster, txn: &Txn) -> Outcome {
    let (request, history) = (convert::txn_request(txn), cluster.history.count());
    let call = || async { cluster.kv().txn(request.clone()).await };
    let answer = cluster.call(Effect::Write, call).await;
    let answer = answer.map_err(|failure| failure.into_error(Effect::Write))?;
    let revision = revision_of(answer.header()).map_err(|failure| failure.into_error(Effect::Write))?;
    let outcome = convert::txn_outcome(txn, &answer, revision);
    if let (TxnOutcome::Committed { .. }, Some(written)) = (&outcome, written_by(txn, revision)) {
        cluster.history.saw(history, &written);
    }
    Ok(outcome)
}

/// A change that a committed transaction made.
fn written_by(txn: &Txn, revision: Revision) -> Option<KeyValue> {
    txn.ops.iter().find_map(|op| match op {
        Op::Put { key, value, lease } => Some(KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: revision,
            mod_revision: revision,
            leased: lease.is_some(),
        }),
        Op::Delete { .. } => None,
    })
}

/// Whether a transaction may be committed together with others.
fn may_share(txn: &Txn) -> bool {
    !txn.ops.is_empty() && !txn.ops.iter().any(|op| matches!(op, Op::Put { lease: Some(_), .. }))
}

/// Puts transactions together that one after the other do the same as all at once: none looks at or writes what one before
/// it in its group writes.
fn groups<T>(all: Vec<T>, txn_of: impl Fn(&T) -> &Txn) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut room = Room::default();
    for one in all {
        let txn = txn_of(&one);
        let is_with = room.takes(txn);
        if !is_with {
            room = Room::default();
        }
        room.add(txn);
        match groups.last_mut().filter(|_| is_with) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// What a group has taken up of one transaction.
#[derive(Default)]
struct Room {
    written: HashSet<String>,
    compares: usize,
    ops: usize,
    bytes: usize,
}

impl Room {
    fn takes(&self, txn: &Txn) -> bool {
        let compared = txn.compares.iter().map(crate::Compare::key);
        let mut touched = compared.chain(txn.ops.iter().map(Op::key));
        self.compares + txn.compares.len() <= MAX_TXN_OPS
            && self.ops + txn.ops.len() <= MAX_TXN_OPS
            && self.bytes + txn.bytes() <= MAX_TXN_BYTES
            && !touched.any(|key| self.written.contains(key))
    }

    fn add(&mut self, txn: &Txn) {
        self.compares += txn.compares.len();
        self.ops += txn.ops.len();
        self.bytes += txn.bytes();
        self.written.extend(txn.ops.iter().map(|op| op.key().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compare, LeaseId};

    fn sizes(all: Vec<Txn>) -> Vec<usize> {
        groups(all, |txn| txn).iter().map(Vec::len).collect()
    }

    fn fenced(key: &str) -> Txn {
        Txn::new().when(Compare::CreateRevision("fence".into(), Revision(3))).put(key, "1")
    }

    #[test]
    fn what_touches_nothing_of_the_others_goes_together() {
        assert_eq!(sizes(vec![fenced("a"), fenced("b"), fenced("c")]), [3]);
        assert_eq!(sizes(vec![fenced("a"), fenced("a"), fenced("b")]), [1, 2], "both write a");
        let reader = Txn::new().when_absent("a").put("b", "1");
        assert_eq!(sizes(vec![fenced("a"), reader.clone()]), [1, 1], "one looks at what the other writes");
        assert_eq!(sizes(vec![reader, fenced("a")]), [2], "it looked before");
    }

    #[test]
    fn a_group_is_no_larger_than_a_transaction_may_be() {
        let many = (0..200).map(|n| fenced(&n.to_string())).collect();
        assert_eq!(sizes(many), [128, 72]);
        let large = |key: &str| Txn::new().put(key, vec![0; MAX_TXN_BYTES / 2]);
        assert_eq!(sizes(vec![large("a"), large("b"), large("c")]), [1, 1, 1]);
    }

    #[test]
    fn leased_keys_and_bare_compares_go_alone() {
        assert!(may_share(&fenced("a")));
        assert!(!may_share(&fenced("a").put_leased("b", "1", LeaseId(7))));
        assert!(!may_share(&Txn::new().when_absent("a")));
    }

    #[test]
    fn one_that_is_refused_is_not_refused_for_the_others() {
        let committed = TxnOutcome::Committed { revision: Revision(5) };
        let conflict = TxnOutcome::Conflict { failed: vec![1], revision: Revision(5) };
        assert!(!is_for_each(&Ok(committed)) && is_for_each(&Ok(conflict)));
        assert!(is_for_each(&Err(StoreError::Denied { message: String::new() })));
        assert!(!is_for_each(&Err(StoreError::unknown("lost"))), "it may have been done: never again");
        assert!(!is_for_each(&Err(StoreError::unavailable("away"))));
    }
}
