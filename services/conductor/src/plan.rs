//! What to do next with a record: pure, so that every crash ends in the same place as no crash.
//!
//! ```text
//!                 Select / TakeAlternate           Build, then READY reported
//!   BUILDING, no host ───────────────► BUILDING, at a host ──────────────────► there
//!        ▲  │ no place, or too many attempts     │
//!        │  └──────────► ERROR                   │ refused, FAILED reported, or too late
//!        └───────────────────────────────────────┘ (the next attempt, elsewhere; a refusal is counted apart)
//!
//!   there, with operations:  Operate the first ──► the host did or did not, reported, or was too late
//!                                                      └──► Conclude, where others have a part in it
//!
//!   any, unwanted:  Terminate at every receipt ──► receipts gone ──► Finish ──► DELETED ──► Purge
//! ```
//!
//! A receipt is written before a host is asked for anything and removed only when that host says that nothing
//! is left. So whatever the record says about where it *is*, its receipts say where something of it may *be*, and
//! the same rule cleans up after a failed attempt and after a delete.
//!
//! A build that left a host goes elsewhere once that host has said that nothing is left there. A host that is not
//! registered or cannot be connected to is not waited for, and any other for `leave_timeout` at most.
//!
//! Times are elapsed times on this conductor's own monotonic clock: a deadline counts from the moment this owner first saw
//! the step, so that members whose clocks differ do not cut each other's steps short.

use std::time::Duration;

use kilonova_model::Epoch;
use kilonova_proto::conductor::v1::{Operation, Receipt};
use tokio::time::Instant;

use crate::placed::{Phase, Site, Status, Wanted, only_prepared, stays};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Ask a scheduler for a place.
    Select,
    /// Take the next place the scheduler named.
    TakeAlternate,
    /// Send the build to its host.
    Build,
    /// The host took too long or left; go elsewhere.
    LeaveHost(Leave),
    /// As many hosts were tried as may be.
    GiveUp,
    /// Send the first operation to the host.
    Operate,
    /// The host did not do its part in time, or cannot.
    GiveUpOperation(Leave),
    /// The hosts that had to be cleared for the first operation are: go on with it.
    GoOn,
    /// An operator said that the host is off: it runs nothing, which is all its part was.
    SkipHost,
    /// The host did its part of the first operation: do what is left of it.
    Conclude,
    /// Have this host remove what it may hold.
    Terminate(Receipt),
    /// Nothing of it is left anywhere: it is gone. `forced` when a host that left the registry may still hold a copy.
    Finish {
        /// Whether a host could not be asked.
        forced: bool,
    },
    /// The record has been kept long enough.
    Purge,
    /// Nothing before this time, unless something is heard.
    Wait(Duration),
    /// Nothing.
    Done,
}

/// Why a host is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It did not report in time.
    Late,
    /// It is not registered.
    NotRegistered,
    /// It was found to have a copy that no attempt put there, which may run: no other is made to.
    Found,
}

/// A command that was sent and accepted by an agent's incarnation. Kept in memory only: after a crash it is sent
/// again, which is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Which command.
    pub verb: Verb,
    /// To which host.
    pub host: String,
    /// To which incarnation.
    pub epoch: Epoch,
    /// For which generation.
    pub generation: u64,
    /// For which attempt.
    pub attempt: u32,
    /// When.
    pub at: Instant,
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Build.
    Build,
    /// The operation of that generation.
    Operate,
    /// Terminate.
    Terminate,
}

/// All a plan is made from.
pub struct View<'a> {
    /// The record's figures.
    pub status: &'a Status,
    /// Where something of it may be.
    pub receipts: &'a [Receipt],
    /// The hosts among them that are to keep it.
    pub keeps: &'a [String],
    /// Whether a place has to be found for it, and built at.
    pub placing: bool,
    /// Where it is being built.
    pub building_at: Option<&'a Site>,
    /// Where the host's part of the operation is done.
    pub acts_at: &'a Site,
    /// The hosts that have to be cleared before the operation goes on.
    pub clears: &'a [String],
    /// The host whose copy is the one to go on with once that is cleared: while it is not registered nothing is removed.
    pub clears_for: Option<&'a str>,
    /// Whether the operation moves the resource between hosts: one that is gone is not waited for until the deadline.
    pub moves: bool,
    /// Whether the host's part is only to stop running the resource.
    pub lets_go: bool,
    /// Whether the host's part makes the resource run.
    pub starts: bool,
    /// How many places were tried.
    pub tried: usize,
    /// How many of them refused it and did nothing.
    pub refusals: usize,
    /// How many places are left to try.
    pub alternates: usize,
    /// What is being done with it now that it is there.
    pub operation: Option<&'a Operation>,
    /// Since when this owner sees the present task.
    pub since: Instant,
    /// When the present task is late.
    pub deadline: Instant,
    /// When the first operation is late.
    pub operation_deadline: Instant,
    /// For how long yet the record of what is gone is kept.
    pub kept: Duration,
    /// What was sent and not yet answered.
    pub sent: &'a [Sent],
    /// The incarnation of a registered host.
    pub epoch_of: &'a dyn Fn(&str) -> Option<Epoch>,
    /// For how long a host has not been registered, as far as this conductor knows.
    pub gone_for: &'a dyn Fn(&str) -> Duration,
    /// Whether an operator said of a host that is not registered that it is off.
    pub is_fenced: &'a dyn Fn(&str) -> bool,
    /// Whether the host of an attempt could not be connected to for a while.
    pub is_unreachable: &'a dyn Fn(u32) -> bool,
    /// The time.
    pub now: Instant,
    /// Most places where it came to nothing.
    pub max_attempts: u32,
    /// Most places that refused it.
    pub max_refusals: u32,
    /// Whether there is no other place than the one: it is waited for until the deadline.
    pub only_place: bool,
    /// For how long yet a host that is not registered is waited for: the registry is only now being followed.
    pub settling: Duration,
    /// When to send an unanswered command again.
    pub resend: Duration,
    /// How long a host that was left is waited for to say that nothing is left there.
    pub leave_timeout: Duration,
    /// For how long a host has to be gone before a move gives it up.
    pub gone_after: Duration,
}

/// Decides.
#[must_use]
pub fn plan(view: &View<'_>) -> Decision {
    let status = view.status;
    if status.phase == Phase::Gone {
        let kept = view.kept;
        // As long as a host may have something of it and be back, its record says that it is to be removed there.
        let is_held = view.receipts.iter().any(|receipt| !(view.is_fenced)(&receipt.host));
        return match clean_up(view, &[]) {
            _ if kept.is_zero() && !is_held => Decision::Purge,
            Some(Decision::Wait(wait)) if kept.is_zero() => Decision::Wait(wait),
            Some(Decision::Wait(wait)) if !view.unreachable() => Decision::Wait(wait.min(kept)),
            Some(Decision::Wait(_)) | None => Decision::Wait(kept),
            Some(decision) => decision,
        };
    }
    if status.wanted == Wanted::Absent {
        return remove(view);
    }
    match (view.building_at, view.operation) {
        _ if view.is_about_to_run_another() => Decision::GiveUpOperation(Leave::Found),
        _ if view.placing && view.is_late_move() => Decision::GiveUpOperation(Leave::Late),
        _ if view.placing && view.is_source_gone() => Decision::GiveUpOperation(Leave::NotRegistered),
        (Some(site), _) if view.placing => build(view, site),
        _ if view.placing => place(view),
        (_, Some(operation)) if operation.host_done => Decision::Conclude,
        (_, Some(operation)) if view.clears.is_empty() => operate(view, operation),
        (_, Some(_)) => clear(view),
        (_, None) => clean_up(view, view.keeps).unwrap_or(Decision::Done),
    }
}

/// The next place, once the hosts that were left have said that nothing is left there, as far as they can be asked.
fn place(view: &View<'_>) -> Decision {
    let found = view.status.phase == Phase::Building && view.receipts.iter().any(|one| view.may_run(one));
    if found || view.is_tried_enough() {
        return Decision::GiveUp;
    }
    if view.status.phase == Phase::Building && view.awaits_left_hosts() {
        let patience = until(view.since + view.leave_timeout, view.now);
        match clean_up(view, view.keeps) {
            Some(Decision::Wait(_)) if patience.is_zero() => {}
            Some(Decision::Wait(wait)) => return Decision::Wait(wait.min(patience)),
            Some(decision) => return decision,
            None => {}
        }
    }
    if view.alternates > 0 { Decision::TakeAlternate } else { Decision::Select }
}

fn build(view: &View<'_>, site: &Site) -> Decision {
    let Some(epoch) = (view.epoch_of)(&site.host) else {
        let patience = if view.only_place { until(view.deadline, view.now) } else { view.settling };
        return match patience {
            Duration::ZERO => Decision::LeaveHost(Leave::NotRegistered),
            patience => Decision::Wait(patience),
        };
    };
    let sent = view.sent(Verb::Build, &site.host, epoch, view.status.generation, site.attempt);
    let late = until(view.deadline, view.now);
    if late.is_zero() {
        // The host may have finished long ago and not have been heard: ask once more before leaving it.
        return match sent.filter(|sent| sent.at >= view.deadline) {
            Some(sent) if view.is_unanswered(sent) => Decision::Wait(view.until_resend(sent)),
            Some(_) => Decision::LeaveHost(Leave::Late),
            None => Decision::Build,
        };
    }
    if !sent.is_some_and(|sent| view.is_unanswered(sent)) {
        return Decision::Build;
    }
    match clean_up(view, view.keeps) {
        Some(Decision::Wait(wait)) => Decision::Wait(wait.min(late)),
        Some(decision) => decision,
        None => Decision::Wait(late),
    }
}

/// Nothing may be left at some hosts before the operation goes on. One of which an operator said that it is off counts as
/// cleared.
fn clear(view: &View<'_>) -> Decision {
    let holds = |host: &&String| view.receipts.iter().any(|receipt| receipt.host == **host);
    let mut left = view.clears.iter().filter(holds).filter(|host| !(view.is_fenced)(host)).peekable();
    if left.peek().is_none() {
        return Decision::GoOn;
    }
    let late = until(view.operation_deadline, view.now);
    // Where it is to run afterwards: while that host is away, what is elsewhere may be the last good copy.
    let needed = view.clears_for.filter(|host| (view.epoch_of)(host).is_none() && !view.is_only_prepared());
    let away = left.find(|host| (view.epoch_of)(host).is_none()).map(String::as_str);
    let given_up = [needed, away].into_iter().flatten().any(|host| view.is_given_up(host));
    if late.is_zero() || given_up {
        let why = if needed.or(away).is_some() { Leave::NotRegistered } else { Leave::Late };
        return Decision::GiveUpOperation(why);
    }
    if let Some(host) = needed {
        return Decision::Wait(late.min(view.until_given_up(host)));
    }
    match clean_up(view, view.keeps) {
        Some(Decision::Wait(wait)) => Decision::Wait(wait.min(late)),
        Some(decision) => decision,
        None => Decision::Wait(late),
    }
}

/// Unlike a build, an operation can only be done where the resource is: a host that has left may be back in time.
fn operate(view: &View<'_>, operation: &Operation) -> Decision {
    let Site { host, attempt } = view.acts_at;
    let deadline = view.operation_deadline;
    let late = until(deadline, view.now);
    let Some(epoch) = (view.epoch_of)(host) else {
        if view.lets_go && (view.is_fenced)(host) {
            return Decision::SkipHost;
        }
        return if late.is_zero() || (view.moves && view.is_given_up(host)) {
            Decision::GiveUpOperation(Leave::NotRegistered)
        } else if view.moves {
            Decision::Wait(late.min(view.until_given_up(host)))
        } else {
            Decision::Wait(late)
        };
    };
    match view.sent(Verb::Operate, host, epoch, operation.generation, *attempt) {
        Some(sent) if view.is_unanswered(sent) => match clean_up(view, view.keeps) {
            _ if late.is_zero() && sent.at < deadline => Decision::Operate,
            Some(Decision::Wait(wait)) => Decision::Wait(wait.min(view.until_resend(sent))),
            Some(decision) => decision,
            None => Decision::Wait(view.until_resend(sent)),
        },
        // The host may have done it long ago and not have been heard: it was asked once more.
        Some(sent) if sent.at >= deadline => Decision::GiveUpOperation(Leave::Late),
        _ => Decision::Operate,
    }
}

fn remove(view: &View<'_>) -> Decision {
    match clean_up(view, &[]) {
        None => Decision::Finish { forced: false },
        Some(Decision::Wait(wait)) => {
            let unreachable = view.unreachable();
            let late = until(view.deadline, view.now);
            if unreachable && late.is_zero() {
                Decision::Finish { forced: true }
            } else if unreachable {
                Decision::Wait(wait.min(late))
            } else {
                Decision::Wait(wait)
            }
        }
        Some(decision) => decision,
    }
}

/// The next receipt to have removed, other than those of `keep`; a wait while the rest is under way or out of reach. While the
/// host of what is to be there is away, or it is in ERROR, what is elsewhere may be the last good copy: only what was never to run is
/// removed. So may be what was found.
fn clean_up(view: &View<'_>, keep: &[String]) -> Option<Decision> {
    let is_prepared = |host: &str| only_prepared(view.receipts, host);
    let goes = |receipt: &&Receipt| {
        !keep.contains(&receipt.host)
            && (is_prepared(&receipt.host) || !view.is_home_in_doubt())
            && !view.is_to_stay(receipt)
    };
    let left: Vec<&Receipt> = view.receipts.iter().filter(goes).collect();
    let mut wait = view.resend;
    for receipt in &left {
        let Some(epoch) = (view.epoch_of)(&receipt.host) else { continue };
        match view.sent(Verb::Terminate, &receipt.host, epoch, view.status.generation, receipt.attempt) {
            Some(sent) if view.is_unanswered(sent) => wait = wait.min(view.until_resend(sent)),
            _ => return Some(Decision::Terminate((*receipt).clone())),
        }
    }
    (!left.is_empty()).then_some(Decision::Wait(wait))
}

impl View<'_> {
    /// A host that refuses what it has no room for says that its scheduler was late, not that the build fails.
    fn is_tried_enough(&self) -> bool {
        let failed = self.tried.saturating_sub(self.refusals);
        let most = (self.max_attempts as usize, self.max_refusals as usize);
        failed >= most.0 || self.refusals >= most.1 || (self.only_place && self.tried > 0)
    }

    /// Whether a move has no destination yet and should have one.
    fn is_late_move(&self) -> bool {
        let waits =
            self.status.phase == Phase::Ready && self.operation.is_some() && self.building_at.is_none();
        waits && self.operation_deadline <= self.now
    }

    /// Whether a destination is looked for, or asked, for a resource whose own host is gone: it could not let go of it.
    fn is_source_gone(&self) -> bool {
        self.status.phase == Phase::Ready && self.is_given_up(&self.status.host)
    }

    /// Whether it is to be there, and its host is not registered, or may not have the copy to go on with: which it is of those that
    /// an ERROR left, a user says.
    fn is_home_in_doubt(&self) -> bool {
        let Status { wanted, phase, host, .. } = self.status;
        let is_in_doubt = match phase {
            Phase::Ready => (self.epoch_of)(host).is_none(),
            Phase::Failed => true,
            Phase::Building | Phase::Gone => false,
        };
        *wanted == Wanted::Present && !host.is_empty() && is_in_doubt
    }

    /// As [`Placed::is_to_stay`](crate::placed::Placed::is_to_stay).
    fn is_to_stay(&self, receipt: &Receipt) -> bool {
        stays(receipt, self.status.wanted, self.clears)
    }

    /// Whether it is a copy that was found: it may be the good one, and may run, unless an operator said that it does not.
    fn may_run(&self, receipt: &Receipt) -> bool {
        self.is_to_stay(receipt) && !receipt.vouched && !(self.is_fenced)(&receipt.host)
    }

    /// Whether the operation that goes on is to make it run while a copy that was found may do so elsewhere.
    fn is_about_to_run_another(&self) -> bool {
        let waits = self.operation.is_some_and(|operation| !operation.host_done);
        let is_to_run = waits && self.status.phase == Phase::Ready && (self.placing || self.starts);
        let is_it =
            |host: &String| *host == self.status.host || (!self.placing && *host == self.acts_at.host);
        is_to_run && self.receipts.iter().any(|receipt| !is_it(&receipt.host) && self.may_run(receipt))
    }

    /// Whether nothing that has to be cleared was ever to run.
    fn is_only_prepared(&self) -> bool {
        self.clears.iter().all(|host| only_prepared(self.receipts, host))
    }

    /// Whether a host that is not registered is no longer waited for.
    fn is_given_up(&self, host: &str) -> bool {
        (self.epoch_of)(host).is_none() && self.until_given_up(host).is_zero()
    }

    fn until_given_up(&self, host: &str) -> Duration {
        let patience = self.gone_after.saturating_sub((self.gone_for)(host));
        patience.max(self.settling)
    }

    /// Whether a host that was left can still say that nothing is left there.
    fn awaits_left_hosts(&self) -> bool {
        self.receipts.iter().any(|receipt| {
            !self.keeps.contains(&receipt.host)
                && !self.is_to_stay(receipt)
                && (self.epoch_of)(&receipt.host).is_some()
                && !(self.is_unreachable)(receipt.attempt)
        })
    }

    /// What was sent to that incarnation.
    fn sent(&self, verb: Verb, host: &str, epoch: Epoch, generation: u64, attempt: u32) -> Option<&Sent> {
        self.sent.iter().find(|sent| {
            sent.verb == verb
                && sent.host == host
                && sent.epoch == epoch
                && sent.generation == generation
                && sent.attempt == attempt
        })
    }

    /// Whether an answer may still come.
    fn is_unanswered(&self, sent: &Sent) -> bool {
        self.now.duration_since(sent.at) < self.resend
    }

    fn until_resend(&self, sent: &Sent) -> Duration {
        until(sent.at + self.resend, self.now)
    }

    /// Whether no host with a receipt can be asked.
    fn unreachable(&self) -> bool {
        self.receipts.iter().all(|receipt| (self.epoch_of)(&receipt.host).is_none())
    }
}

fn until(at: Instant, now: Instant) -> Duration {
    at.saturating_duration_since(now)
}

#[cfg(test)]
mod tests;
