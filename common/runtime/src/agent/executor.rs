//! Takes commands, does them, and has their end reported.
//!
//! A command is answered from the [`Ledger`] under one lock, in which the room is claimed too; what is to be done
//! then runs in a task of its own. Of one resource there is never more than one task: whoever finds work under way
//! leaves what is left to it.
//!
//! ```text
//!  make ──► ledger + claim ──► task: wait for a slot ─► driver makes ─┬─ ok ──────────────► Ready, reported
//!              │ refused                   │ cancelled                └─ failed ─┐
//!              ▼                           └────────────► driver unmakes ◄───────┘
//!            error                                         until it has   ◄── unmake ──► ledger ──► task
//!                                                                │
//!                                                    room is free, Failed or Gone, reported
//!
//!  act ──► ledger ──► task: driver acts ─┬─ ok or failed ──► Ready, with the act's end, reported
//!                                        └─ overtaken by an unmake ──► driver unmakes
//! ```
//!
//! - Room is given back only when the driver has confirmed that nothing is left; until then it is asked again, with
//!   backoff. So claims never say less than there is.
//! - Room and ledger change in one critical section, so no reader sees one without the other. The end of work is
//!   handed to the reporter in it too, so that an older report never replaces a newer one.
//! - An unmake during a make cancels it, and is done by the make's own task once the driver let go.
//! - A driver that panics has failed, and one that does not answer in time too.
//! - When the host stops, tasks are dropped where they are; the next start finds what is there and goes on from it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kilonova_model::{Error, Reason};
use kilonova_proto::types::v1::{Fault, Outcome as StepOutcome, Step};
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::ledger::{Act, Conclusion, Ledger, Make, Outcome, Stamp, Unmake};
use super::meters::Meters;
use super::orphans::{OrphanOptions, Orphans};
use super::reporter::Reporter;
use super::work::{Claims, Site, Stopwatch, Work};
use crate::tasks::Tasks;

/// How much at once, and how long.
#[derive(Debug, Clone, Copy)]
pub struct ExecutorOptions {
    /// Most makes in the driver at once; others wait, with their room claimed.
    pub max_concurrent: usize,
    /// How long the driver may take to make one.
    pub make_timeout: Duration,
    /// How long the driver may take to remove one before it is asked again.
    pub unmake_timeout: Duration,
    /// How long the driver may take over an act.
    pub act_timeout: Duration,
    /// How what is there and in no record is treated.
    pub orphans: OrphanOptions,
}

/// What the host knows and has promised.
pub struct Book<W: Work> {
    /// What was asked and how it ended.
    pub ledger: Ledger<W::Id, W::Made>,
    /// Who holds which room.
    pub claims: W::Claims,
    /// Makes that failed since the last that succeeded.
    pub failed_in_row: u32,
}

/// Does one host's work. Clones share it.
pub struct Executor<W: Work> {
    shared: Arc<Shared<W>>,
}

impl<W: Work> Clone for Executor<W> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<W: Work> {
    work: W,
    site: Site,
    tasks: Tasks,
    reporter: Reporter<W::Report>,
    options: ExecutorOptions,
    slots: Semaphore,
    book: Mutex<Book<W>>,
    orphans: Mutex<Orphans<W::Id>>,
    /// Counts the changes of the book.
    changes: watch::Sender<u64>,
    meters: Meters,
}

impl<W: Work> Executor<W> {
    /// Nothing is known yet but `claims`.
    pub fn new(
        work: W,
        claims: W::Claims,
        site: Site,
        tasks: Tasks,
        reporter: Reporter<W::Report>,
        options: ExecutorOptions,
    ) -> Self {
        let meters = Meters::new(&site, W::VERBS.noun);
        let book = Book { ledger: Ledger::default(), claims, failed_in_row: 0 };
        let shared = Shared {
            work,
            site,
            tasks,
            reporter,
            options,
            slots: Semaphore::new(options.max_concurrent),
            book: Mutex::new(book),
            orphans: Mutex::new(Orphans::new(options.orphans)),
            changes: watch::Sender::new(0),
            meters,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Reads the book.
    pub fn read<T>(&self, read: impl FnOnce(&Book<W>) -> T) -> T {
        read(&self.shared.book.lock())
    }

    /// Changes the book: for what is found at start.
    pub fn change<T>(&self, change: impl FnOnce(&mut Book<W>) -> T) -> T {
        self.shared.change(change)
    }

    /// Tells of every change of the book.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Looks at what is in no record, or changes what is known of it.
    pub(super) fn orphans<T>(&self, look: impl FnOnce(&mut Orphans<W::Id>) -> T) -> T {
        let mut orphans = self.shared.orphans.lock();
        let result = look(&mut orphans);
        self.shared.meters.orphans.set(f64::from(u32::try_from(orphans.count()).unwrap_or(u32::MAX)));
        result
    }

    /// Shows whether the records are in another store than the data are known to.
    pub fn show_foreign_store(&self, foreign: bool) {
        self.shared.meters.foreign_store.set(f64::from(u8::from(foreign)));
    }

    /// Shows how many of what is there a record wants that does not list it here.
    pub(super) fn show_strays(&self, count: usize) {
        self.shared.meters.strays.set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }

    /// Where the work is done.
    pub fn site(&self) -> &Site {
        &self.shared.site
    }

    /// Changes the book, and reports the end that it gives, if any. Whether it gave one.
    pub fn conclude(
        &self,
        id: W::Id,
        change: impl FnOnce(&mut Book<W>) -> Option<Conclusion<W::Made>>,
    ) -> bool {
        self.shared.conclude(id, change)
    }

    /// Takes a make command: OK means that its room is claimed and its end will be reported. `admit` is asked before
    /// anything new is begun.
    pub fn make(
        &self,
        id: W::Id,
        stamp: Stamp,
        mut order: W::Order,
        admit: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let watch = Stopwatch::start("claim", stamp.attempt);
        let taken = self.shared.change(|book| {
            let claims = &mut book.claims;
            let taken =
                book.ledger.make(id, stamp, || admit().and_then(|()| claims.claim(id, &mut order)))?;
            if let Make::Report(conclusion) = &taken {
                self.shared.report(id, conclusion);
            }
            Ok::<_, Error>(taken)
        })?;
        match taken {
            Make::Underway | Make::Report(_) => {}
            Make::Start(detail, cancel) => {
                self.shared.meters.started.increment(1);
                let steps = vec![watch.step(&self.shared.site, StepOutcome::Succeeded, detail, None)];
                let run = self.shared.clone().run_make(id, stamp, order, cancel, steps);
                self.shared.tasks.spawn(format!("{} {id}", W::VERBS.make), run);
            }
        }
        Ok(())
    }

    /// Takes an unmake command: OK means that its end will be reported.
    pub fn unmake(&self, id: W::Id, stamp: Stamp) -> Result<(), Error> {
        let taken = self.shared.change(|book| {
            let taken = book.ledger.unmake(id, stamp)?;
            if let Unmake::Report(conclusion) = &taken {
                self.shared.report(id, conclusion);
            }
            Ok::<_, Error>(taken)
        })?;
        match taken {
            Unmake::Underway | Unmake::Report(_) => {}
            Unmake::Start => {
                let run = self.shared.clone().run_unmake(id, stamp, None, Vec::new());
                self.shared.tasks.spawn(format!("{} {id}", W::VERBS.unmake), run);
            }
        }
        Ok(())
    }
}

impl<W: Work> Executor<W> {
    /// Takes an act command: OK means that its end will be reported.
    pub fn act(&self, id: W::Id, stamp: Stamp, mut act: W::Act) -> Result<(), Error> {
        let kind = W::kind(&act);
        let taken = self.shared.change(|book| {
            let claims = &mut book.claims;
            let claim = || W::claim_act(claims, id, &mut act);
            let taken = book.ledger.act(id, stamp, kind, W::NOT_FOUND, claim)?;
            if let Act::Report(conclusion) = &taken {
                self.shared.report(id, conclusion);
            }
            Ok::<_, Error>(taken)
        })?;
        match taken {
            Act::Underway | Act::Report(_) => {}
            Act::Start(cancel) => {
                let run = self.shared.clone().run_act(id, stamp, act, cancel);
                self.shared.tasks.spawn(format!("{} {id}", kind.as_str_name()), run);
            }
        }
        Ok(())
    }
}

impl<W: Work> Shared<W> {
    async fn run_act(self: Arc<Self>, id: W::Id, stamp: Stamp, act: W::Act, cancel: CancellationToken) {
        let name = W::act_name(&act);
        let watch = Stopwatch::start(name, stamp.attempt);
        let call = AssertUnwindSafe(self.work.act(id, stamp, &act, &cancel)).catch_unwind();
        let result = match tokio::time::timeout(self.options.act_timeout, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(panicked(name)),
            Err(_) => {
                let limit = self.options.act_timeout;
                let error =
                    Error::new(Reason::OperationTimeout, format!("{name} was not done within {limit:?}"));
                Err(error.with("limit_seconds", limit.as_secs_f64()))
            }
        };
        let (result, step) = match result {
            Ok(made) => (Ok(made), watch.step(&self.site, StepOutcome::Succeeded, "", None)),
            Err(error) => {
                tracing::warn!(%id, %stamp, %error, "{name} failed");
                let fault = self.site.fault(&error, stamp.attempt);
                let told = Some(Fault::clone(&fault));
                (Err(fault), watch.step(&self.site, StepOutcome::Failed, error.message.as_str(), told))
            }
        };
        let there = self.conclude(id, |book| {
            if result.is_err() {
                W::act_failed(&mut book.claims, id, &act);
            }
            book.ledger.acted(id, result, vec![step.clone()])
        });
        if !there {
            self.run_unmake(id, stamp, None, vec![step]).await;
        }
    }

    async fn run_make(
        self: Arc<Self>,
        id: W::Id,
        stamp: Stamp,
        order: W::Order,
        cancel: CancellationToken,
        mut steps: Vec<Step>,
    ) {
        let slot = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            slot = self.slots.acquire() => slot.ok(),
        };
        let watch = Stopwatch::start(W::VERBS.driver_make, stamp.attempt);
        let result = match &slot {
            Some(_) => self.driver_make(id, stamp, &order, &cancel).await,
            None => Err(Error::new(Reason::DriverFailed, "no longer wanted before it was begun")),
        };
        let error = match result {
            Ok(made) => {
                self.meters.took.record(watch.took());
                steps.push(watch.step(&self.site, StepOutcome::Succeeded, "", None));
                self.meters.succeeded.increment(1);
                let ready = self.conclude(id, |book| {
                    book.failed_in_row = 0;
                    book.ledger.made(id, made, &steps)
                });
                if ready {
                    return;
                }
                None
            }
            Err(error) => Some(error),
        };
        let fault = error.map(|error| self.note_failure(id, stamp, watch, &error, &mut steps));
        // Removing is not held up by makes, nor the other way round.
        drop(slot);
        self.run_unmake(id, stamp, fault, steps).await;
    }

    /// Writes down that a make failed, or that it was overtaken by an unmake.
    fn note_failure(
        &self,
        id: W::Id,
        stamp: Stamp,
        watch: Stopwatch,
        error: &Error,
        steps: &mut Vec<Step>,
    ) -> Box<Fault> {
        let fault = self.site.fault(error, stamp.attempt);
        let overtaken = self.change(|book| {
            let overtaken = book.ledger.overtaken(id);
            if !overtaken {
                book.failed_in_row = book.failed_in_row.saturating_add(1);
            }
            overtaken
        });
        if overtaken {
            self.meters.overtaken.increment(1);
            steps.push(watch.step(&self.site, StepOutcome::Superseded, error.message.as_str(), None));
        } else {
            self.meters.failed.increment(1);
            tracing::warn!(%id, %stamp, %error, "{} failed", W::VERBS.make);
            let fault = Some(Fault::clone(&fault));
            steps.push(watch.step(&self.site, StepOutcome::Failed, error.message.as_str(), fault));
        }
        fault
    }

    /// Removes what there is until the driver confirms it, then gives the room back and reports.
    async fn run_unmake(
        self: Arc<Self>,
        id: W::Id,
        stamp: Stamp,
        fault: Option<Box<Fault>>,
        mut steps: Vec<Step>,
    ) {
        let watch = Stopwatch::start(W::VERBS.driver_unmake, stamp.attempt);
        let mut backoff = Backoff::new(BackoffPolicy::reconnect());
        while let Err(error) = self.driver_unmake(id, stamp).await {
            tracing::warn!(%id, %error, failures = backoff.failures() + 1, "cannot {}; trying again",
                W::VERBS.driver_unmake);
            tokio::time::sleep(backoff.next_delay()).await;
        }
        self.conclude(id, |book| {
            book.claims.release(id);
            if fault.is_none() || book.ledger.overtaken(id) {
                steps.push(watch.step(&self.site, StepOutcome::Succeeded, "", None));
            }
            let conclusion = book.ledger.unmade(id, fault, steps);
            if matches!(conclusion.outcome, Outcome::Gone) {
                self.meters.removed.increment(1);
            }
            Some(conclusion)
        });
    }

    async fn driver_make(
        &self,
        id: W::Id,
        stamp: Stamp,
        order: &W::Order,
        cancel: &CancellationToken,
    ) -> Result<W::Made, Error> {
        let call = AssertUnwindSafe(self.work.make(id, stamp, order, cancel)).catch_unwind();
        match tokio::time::timeout(self.options.make_timeout, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(panicked(W::VERBS.driver_make)),
            Err(_) => {
                let limit = self.options.make_timeout;
                let message = format!("{} was not done within {limit:?}", W::VERBS.driver_make);
                Err(Error::new(Reason::BuildTimeout, message).with("limit_seconds", limit.as_secs_f64()))
            }
        }
    }

    async fn driver_unmake(&self, id: W::Id, stamp: Stamp) -> Result<(), Error> {
        let call = AssertUnwindSafe(self.work.unmake(id, stamp)).catch_unwind();
        match tokio::time::timeout(self.options.unmake_timeout, call).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(panicked(W::VERBS.driver_unmake)),
            Err(_) => Err(Error::new(Reason::DriverFailed, "the driver did not answer in time")),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Book<W>) -> T) -> T {
        let result = change(&mut self.book.lock());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    fn conclude(&self, id: W::Id, change: impl FnOnce(&mut Book<W>) -> Option<Conclusion<W::Made>>) -> bool {
        self.change(|book| change(book).map(|conclusion| self.report(id, &conclusion)).is_some())
    }

    /// Only for what changes the book: an end reported after the book is released may replace a later one.
    fn report(&self, id: W::Id, conclusion: &Conclusion<W::Made>) {
        self.reporter.put(self.work.report(id, conclusion));
    }
}

fn panicked(what: &str) -> Error {
    Error::new(Reason::DriverFailed, format!("the driver panicked in {what}"))
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
