//! Creates of one project that wait together share a transaction.
//!
//! ```text
//!   ask ──► queue of the project ──► all that wait ──► choose ──► one transaction ──► each its own answer
//!               (bounded)               ▲                              │
//!                                       └── what did not fit, or ◄─────┘ a compare failed: who is to blame is
//!                                           was judged on old news       answered or judged anew
//! ```
//!
//! One task works for a project while anybody waits, and belongs to nobody who waits: a caller that goes away takes nothing
//! from the others. No timer shapes the batches: while one commits, the next one gathers.
//!
//! A refusal holds if the transaction that compared its basis was committed, or if the basis was read from the store; and only
//! if the request has not been accepted before, which is looked up last.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::{Error, ProjectId, Reason, Revision};
use kilonova_runtime::tasks::Tasks;
use kilonova_store::{Txn, TxnOutcome};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, oneshot};

use super::book::Book;
use super::lanes::Lanes;
use super::merge::{Ask, Basis, Choice, blame, choose};
use super::{TRIES, pause};
use crate::db::conflict;

/// Most requests of one project that wait.
const MAX_WAITING: usize = 1024;

/// How a request was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Now, at this revision.
    New(Revision),
    /// Before, with these ids.
    Earlier(Vec<String>),
}

/// A request and who waits for its answer.
struct Waiting {
    ask: Ask,
    reply: oneshot::Sender<Result<Accepted, Error>>,
}

impl Waiting {
    fn answer(self, answer: Result<Accepted, Error>) {
        // The caller may have gone; what was done stays done.
        let _ = self.reply.send(answer);
    }
}

/// The requests that wait, by project.
pub struct Batches {
    worker: Worker,
    tasks: Tasks,
}

#[derive(Clone)]
struct Worker {
    book: Arc<Book>,
    lanes: Arc<Lanes>,
    queues: Arc<Mutex<HashMap<ProjectId, Vec<Waiting>>>>,
}

impl Batches {
    /// Works in tasks of `tasks`.
    #[must_use]
    pub fn new(book: Arc<Book>, lanes: Arc<Lanes>, tasks: &Tasks) -> Self {
        Self { worker: Worker { book, lanes, queues: Arc::default() }, tasks: tasks.clone() }
    }

    /// Waits until a request is accepted or refused.
    pub async fn accept(&self, ask: Ask) -> Result<Accepted, Error> {
        let (reply, answer) = oneshot::channel();
        let project = ask.request.project.clone();
        let is_first = self.worker.push(&project, Waiting { ask, reply })?;
        if is_first {
            let turn = Turn { worker: self.worker.clone(), project, is_over: false };
            self.tasks.spawn("accepts", turn.run());
        }
        answer.await.unwrap_or_else(|_| {
            let message = "this conductor stopped before it was known whether the request was accepted";
            Err(Error::new(Reason::StoreOutcomeUnknown, message))
        })
    }
}

/// The work for one project, as long as anybody waits. The project's queue is there exactly as long.
struct Turn {
    worker: Worker,
    project: ProjectId,
    is_over: bool,
}

impl Drop for Turn {
    /// One that is cut leaves nobody waiting.
    fn drop(&mut self) {
        if !self.is_over {
            self.worker.queues.lock().remove(&self.project);
        }
    }
}

impl Turn {
    async fn run(mut self) {
        let worker = self.worker.clone();
        let mut waiting = Vec::new();
        loop {
            // Whoever comes until it is the project's turn is with them.
            let lane = worker.lanes.enter(self.project.as_str()).await;
            if !self.gather(&mut waiting) {
                return;
            }
            worker.settle(&self.project, lane, &mut waiting).await;
        }
    }

    /// Adds what waits to what is left; ends the turn when there is nothing.
    fn gather(&mut self, waiting: &mut Vec<Waiting>) -> bool {
        let mut queues = self.worker.queues.lock();
        if let Some(queue) = queues.get_mut(&self.project) {
            waiting.append(queue);
        }
        if waiting.is_empty() {
            queues.remove(&self.project);
            self.is_over = true;
        }
        !self.is_over
    }
}

impl Worker {
    /// Says whether nobody works for the project yet.
    fn push(&self, project: &ProjectId, new: Waiting) -> Result<bool, Error> {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(project) else {
            queues.insert(project.clone(), vec![new]);
            return Ok(true);
        };
        if queue.len() >= MAX_WAITING {
            let message = format!("{MAX_WAITING} requests of project {project} wait to be accepted");
            let error = Error::new(Reason::Overloaded, message);
            return Err(error.retry_after(Duration::from_millis(100)));
        }
        queue.push(new);
        Ok(false)
    }

    /// Answers some of those that wait, at least one.
    async fn settle(&self, project: &ProjectId, lane: MutexGuard<'_, ()>, waiting: &mut Vec<Waiting>) {
        let mut basis = self.book.remembered(project);
        let mut is_read = false;
        for attempt in 0..TRIES {
            let choice = choose(project, &basis, waiting.iter().map(|waiting| &waiting.ask));
            if choice.taken.is_empty() && is_read {
                drop(lane);
                return self.refuse(take(waiting, choice.refused)).await;
            }
            if !choice.taken.is_empty() {
                match self.book.db.commit(self.transaction(project, &basis, &choice, waiting)).await {
                    Ok(TxnOutcome::Committed { revision }) => {
                        self.book.counted(project, choice.used, revision);
                        drop(lane);
                        return self.committed(waiting, choice, revision).await;
                    }
                    Ok(TxnOutcome::Conflict { failed, .. }) => {
                        if self.repeated(waiting, &choice, &failed).await {
                            return;
                        }
                    }
                    Err(error) => {
                        let taken = choice.taken.iter().map(|index| (*index, ()));
                        let taken = take(waiting, taken);
                        return taken.into_iter().for_each(|(one, ())| one.answer(Err(error.clone())));
                    }
                }
                pause(attempt).await;
            }
            match self.book.read(project).await {
                Ok(read) => (basis, is_read) = (read, true),
                Err(error) => return all(waiting, &error),
            }
        }
        all(waiting, &conflict(&format!("the usage of project {project}")));
    }

    fn transaction(&self, project: &ProjectId, basis: &Basis, choice: &Choice, waiting: &[Waiting]) -> Txn {
        let counted = basis.count(&self.book.db.keys, project, &choice.used);
        choice.taken.iter().fold(counted, |txn, index| txn.and(waiting[*index].ask.txn.clone()))
    }

    /// Answers those that were taken, and then those that were refused beside them.
    async fn committed(&self, waiting: &mut Vec<Waiting>, choice: Choice, revision: Revision) {
        metrics::histogram!("conductor_accepts_merged").record(choice.taken.len() as f64);
        let taken = choice.taken.into_iter().map(|index| (index, None));
        let refused = choice.refused.into_iter().map(|(index, refusal)| (index, Some(refusal)));
        let mut refusals = Vec::new();
        for (one, refusal) in take(waiting, taken.chain(refused)) {
            match refusal {
                None => one.answer(Ok(Accepted::New(revision))),
                Some(refusal) => refusals.push((one, refusal)),
            }
        }
        self.refuse(refusals).await;
    }

    /// Answers those that were accepted before, given which compares failed; says whether there were any.
    async fn repeated(&self, waiting: &mut Vec<Waiting>, choice: &Choice, failed: &[usize]) -> bool {
        let compares = choice.taken.iter().map(|index| waiting[*index].ask.txn.compares.len());
        let mut answers = Vec::new();
        for position in blame(failed, compares).asks {
            let index = choice.taken[position];
            let request = &waiting[index].ask.request;
            match self.book.replay(request).await {
                Ok(Some(ids)) => answers.push((index, Ok(Accepted::Earlier(ids)))),
                Ok(None) if request.id.is_none() => answers.push((index, Err(conflict("the record")))),
                // Forgotten in between: judged anew.
                Ok(None) => {}
                Err(error) => answers.push((index, Err(error))),
            }
        }
        let any = !answers.is_empty();
        take(waiting, answers).into_iter().for_each(|(one, answer)| one.answer(answer));
        any
    }

    /// Refuses requests, unless they were accepted before.
    async fn refuse(&self, refused: Vec<(Waiting, Error)>) {
        let answers = refused.into_iter().map(|(one, refusal)| async {
            let verdict = match self.book.replay(&one.ask.request).await {
                Ok(Some(ids)) => Ok(Accepted::Earlier(ids)),
                Ok(None) => Err(refusal),
                Err(error) => Err(error),
            };
            one.answer(verdict);
        });
        join_all(answers).await;
    }
}

/// Takes those at these places out, each with what comes with its place, and leaves the others waiting.
fn take<T>(waiting: &mut Vec<Waiting>, places: impl IntoIterator<Item = (usize, T)>) -> Vec<(Waiting, T)> {
    let mut slots: Vec<Option<Waiting>> = std::mem::take(waiting).into_iter().map(Some).collect();
    let taken = places.into_iter().filter_map(|(place, with)| Some((slots[place].take()?, with)));
    let taken = taken.collect();
    waiting.extend(slots.into_iter().flatten());
    taken
}

/// Gives all the same answer.
fn all(waiting: &mut Vec<Waiting>, error: &Error) {
    waiting.drain(..).for_each(|one| one.answer(Err(error.clone())));
}
