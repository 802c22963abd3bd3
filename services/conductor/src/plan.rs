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

use std::time::{Duration, SystemTime};

use kilonova_model::Epoch;
use kilonova_model::time::system_time;
use kilonova_proto::conductor::v1::{Operation, Receipt};

use crate::placed::{Phase, Site, Status, Wanted, until};

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
    /// The host that had to be cleared for the first operation is: go on with it.
    GoOn,
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
    pub at: SystemTime,
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
    /// The host that has to be cleared before the operation goes on.
    pub clears: Option<&'a str>,
    /// How many places were tried.
    pub tried: usize,
    /// How many of them refused it and did nothing.
    pub refusals: usize,
    /// How many places are left to try.
    pub alternates: usize,
    /// What is being done with it now that it is there.
    pub operation: Option<&'a Operation>,
    /// When the present task is late.
    pub deadline: Option<SystemTime>,
    /// When the record may be removed.
    pub expiry: Option<SystemTime>,
    /// What was sent and not yet answered.
    pub sent: &'a [Sent],
    /// The incarnation of a registered host.
    pub epoch_of: &'a dyn Fn(&str) -> Option<Epoch>,
    /// The time.
    pub now: SystemTime,
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
}

/// Decides.
#[must_use]
pub fn plan(view: &View<'_>) -> Decision {
    let status = view.status;
    if status.phase == Phase::Gone {
        let kept = view.expiry.map_or(Duration::ZERO, |expiry| until(expiry, view.now));
        return match clean_up(view, &[]) {
            _ if kept.is_zero() => Decision::Purge,
            Some(Decision::Wait(wait)) if !view.unreachable() => Decision::Wait(wait.min(kept)),
            Some(Decision::Wait(_)) | None => Decision::Wait(kept),
            Some(decision) => decision,
        };
    }
    if status.wanted == Wanted::Absent {
        return remove(view);
    }
    match (view.building_at, view.operation) {
        (Some(site), _) if view.placing => build(view, site),
        (_, Some(operation)) if view.placing && view.is_late(operation) => {
            Decision::GiveUpOperation(Leave::Late)
        }
        _ if view.placing => {
            if view.is_tried_enough() {
                Decision::GiveUp
            } else if view.alternates > 0 {
                Decision::TakeAlternate
            } else {
                Decision::Select
            }
        }
        (_, Some(operation)) if operation.host_done => Decision::Conclude,
        (_, Some(operation)) => match view.clears {
            Some(host) => clear(view, operation, host),
            None => operate(view, operation),
        },
        (_, None) => clean_up(view, view.keeps).unwrap_or(Decision::Done),
    }
}

fn build(view: &View<'_>, site: &Site) -> Decision {
    let Some(epoch) = (view.epoch_of)(&site.host) else {
        let patience = match view.deadline.filter(|_| view.only_place) {
            Some(deadline) => until(deadline, view.now),
            None => view.settling,
        };
        return match patience {
            Duration::ZERO => Decision::LeaveHost(Leave::NotRegistered),
            patience => Decision::Wait(patience),
        };
    };
    let sent = view.sent(Verb::Build, &site.host, epoch, view.status.generation, site.attempt);
    let deadline = view.deadline.unwrap_or(view.now + view.resend);
    let late = until(deadline, view.now);
    if late.is_zero() {
        // The host may have finished long ago and not have been heard: ask once more before leaving it.
        return match sent.filter(|sent| sent.at >= deadline) {
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

/// Nothing may be left at a host before the operation goes on.
fn clear(view: &View<'_>, operation: &Operation, host: &str) -> Decision {
    if view.receipts.iter().all(|receipt| receipt.host != host) {
        return Decision::GoOn;
    }
    let late = view.until_late(operation);
    match clean_up(view, view.keeps) {
        _ if late.is_zero() => {
            let registered = (view.epoch_of)(host).is_some();
            Decision::GiveUpOperation(if registered { Leave::Late } else { Leave::NotRegistered })
        }
        Some(Decision::Wait(wait)) => Decision::Wait(wait.min(late)),
        Some(decision) => decision,
        None => Decision::Wait(late),
    }
}

/// Unlike a build, an operation can only be done where the resource is: a host that has left may be back in time.
fn operate(view: &View<'_>, operation: &Operation) -> Decision {
    let Site { host, attempt } = view.acts_at;
    let deadline = view.deadline_of(operation);
    let late = until(deadline, view.now);
    let Some(epoch) = (view.epoch_of)(host) else {
        return if late.is_zero() {
            Decision::GiveUpOperation(Leave::NotRegistered)
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
            let late = view.deadline.map_or(Duration::ZERO, |deadline| until(deadline, view.now));
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

/// The next receipt to have removed, other than those of `keep`; a wait while the rest is under way or out of reach.
fn clean_up(view: &View<'_>, keep: &[String]) -> Option<Decision> {
    let left: Vec<&Receipt> = view.receipts.iter().filter(|receipt| !keep.contains(&receipt.host)).collect();
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

    fn deadline_of(&self, operation: &Operation) -> SystemTime {
        operation.deadline_time.as_ref().and_then(system_time).unwrap_or(self.now)
    }

    fn until_late(&self, operation: &Operation) -> Duration {
        until(self.deadline_of(operation), self.now)
    }

    fn is_late(&self, operation: &Operation) -> bool {
        self.status.phase == Phase::Ready && self.until_late(operation).is_zero()
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

    /// Whether an answer may still come. A time in the future is that of a clock that was set back.
    fn is_unanswered(&self, sent: &Sent) -> bool {
        self.now.duration_since(sent.at).is_ok_and(|ago| ago < self.resend)
    }

    fn until_resend(&self, sent: &Sent) -> Duration {
        until(sent.at + self.resend, self.now)
    }

    /// Whether no host with a receipt can be asked.
    fn unreachable(&self) -> bool {
        self.receipts.iter().all(|receipt| (self.epoch_of)(&receipt.host).is_none())
    }
}

#[cfg(test)]
mod tests;
