//! An instance's way from one host to another, from the record's point of view: pure.
//!
//! # Theory of operation
//!
//! A resize, a migration and a revert are operations with a [`Move`]: who has the guest, who gets it, and the step. In every step
//! exactly one host may run it, and the next step begins only when the present one's host has said that it is done. So
//! whatever crashes, at most one copy runs.
//!
//! ```text
//!               room taken             let go                  runs
//!   PREPARE ───────────────► HAND_OVER ───────► TAKE_OVER ──────────────► there: RESIZED, or done if it was live
//!   (destination)            (source)    │      (destination)  │
//!      │ refused, failed, late:          │ did not             │ did not, or was lost
//!      │ the next destination            ▼                     ▼
//!      │ none left                      CLEAR (destination, while the source is there)
//!      ▼                                 │ nothing is left there
//!   as it was, FAILED                    ▼
//!        ▲                             TAKE_BACK (source) ──► as it was: FAILED
//!        └───────────────────────────────┘
//!
//!   RESIZED ── confirm, while the destination is there ──► what is left at the source is removed ──► ACTIVE
//!
//!   RESIZED ── revert ──► LET_GO ──────► TAKE_BACK ──────► at the source; the destination's copy is removed
//!                         (destination)  (source)
//!                            │ did not      │ did not ──► LET_GO_AGAIN (source)
//!                            ▼              ▼                │ let go, or has nothing
//!                         RESUME (destination) ◄─────────────┘
//!                            └──► RESIZED as it was, FAILED
//!
//!   A destination that has lost it has let go of it.
//! ```
//!
//! No copy is removed before another has it: a confirm needs the destination, a destination is cleared only while the source is there,
//! and a revert removes the destination's copy once the source runs it. If a host that may run the guest cannot be made sure of in
//! time, the instance ends in ERROR with all copies kept: running one anyway could make two of it. An operator who knows that a
//! host is off says so (a fence); then it counts as one that runs nothing, and a hard reboot runs what is left.
//!
//! An evacuation is no move, since its source cannot take part: the instance loses its host and is built anew elsewhere. The host
//! that lost it is told so when it is back, and removes its copy before it is ready.

pub mod ask;
pub mod automatic;
pub mod evacuate;
mod exports;
pub mod found;
mod sites;

use std::time::SystemTime;

use kilonova_model::Reason;
use kilonova_model::time::timestamp;
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Move, Operation, Place};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{Desired, State};

use crate::operations::renumber;
use crate::placed::{Placed, Site};
use crate::quota;
use exports::leave_open;
pub use exports::{left_behind, note_unexported};
pub use sites::{
    acts_at, clears, clears_for, flavor_to_be, is_going_to, is_later, keeps, leaves, lets_go, may_run_at,
    others, seen_at, target,
};

/// The move that goes on.
#[must_use]
pub fn of(record: &InstanceRecord) -> Option<&Move> {
    record.operations.first()?.r#move.as_ref()
}

/// Whether a destination is looked for, or asked to take the room.
#[must_use]
pub fn is_preparing(record: &InstanceRecord) -> bool {
    let waits = record.operations.first().is_some_and(|operation| !operation.host_done);
    waits && of(record).is_some_and(|way| way.step() == Step::Prepare)
}

/// A place as a site.
#[must_use]
pub fn site(place: &Place) -> Site {
    Site { host: place.host.clone(), attempt: place.attempt }
}

/// What a flavor takes of the quota.
#[must_use]
pub fn flavor_usage(flavor: &pb::Flavor) -> pb::QuotaUsage {
    pb::QuotaUsage { cores: flavor.vcpus, ram_mib: flavor.ram_mib, ..Default::default() }
}

/// What the greater of two flavors takes more than the first.
#[must_use]
pub fn more_than(first: &pb::Flavor, other: &pb::Flavor) -> pb::QuotaUsage {
    quota::difference(&flavor_usage(other), &flavor_usage(first))
}

/// The state a guest is in that is as its user wants it.
#[must_use]
pub fn wanted_state(desired: Desired) -> State {
    if desired == Desired::Stopped { State::Stopped } else { State::Active }
}

/// What the host has to do for a move.
#[must_use]
pub fn hosts_part(operation: &Operation, way: &Move) -> Kind {
    match way.step() {
        Step::TakeBack | Step::Resume => Kind::RevertResize,
        _ if operation.kind() == Kind::LiveMigrate => Kind::LiveMigrate,
        _ => Kind::Migrate,
    }
}

fn way_mut(record: &mut InstanceRecord) -> Option<&mut Move> {
    record.operations.first_mut()?.r#move.as_mut()
}

/// A destination is to be asked.
pub fn set_destination(record: &mut InstanceRecord, place: &Alternate, attempt: u32) {
    let Some(destination) = way_mut(record).and_then(|way| way.destination.as_mut()) else { return };
    destination.host.clone_from(&place.host);
    destination.availability_zone.clone_from(&place.availability_zone);
    destination.attempt = attempt;
}

/// The destination does not take it.
pub fn leave_destination(record: &mut InstanceRecord) {
    if let Some(destination) = way_mut(record).and_then(|way| way.destination.as_mut()) {
        (destination.host, destination.attempt) = (String::new(), 0);
    }
}

/// The destination has taken the room.
pub fn prepared(record: &mut InstanceRecord, until: SystemTime) {
    go_to(record, Step::HandOver, until);
}

/// Nothing is left where the present step had to clear up.
pub fn cleared(record: &mut InstanceRecord, until: SystemTime) {
    if of(record).is_some() {
        return go_to(record, Step::TakeBack, until);
    }
    let Some(operation) = record.operations.first_mut() else { return };
    match operation.kind() {
        Kind::ConfirmResize => operation.host_done = true,
        _ => operation.clears_others = false,
    }
}

/// The next step, with a time and a generation of its own.
fn go_to(record: &mut InstanceRecord, step: Step, until: SystemTime) {
    if let Some(operation) = record.operations.first_mut() {
        operation.deadline_time = Some(timestamp(until));
        if let Some(way) = &mut operation.r#move {
            way.set_step(step);
        }
        renumber(record);
    }
}

/// The host did its part of the present step.
pub fn host_did(record: &mut InstanceRecord, until: SystemTime) {
    match of(record).map(Move::step) {
        Some(Step::HandOver) => {
            // From here on the destination may run it.
            let destination = of(record).and_then(|way| way.destination.as_ref()).map(site);
            let there = record
                .receipts
                .iter_mut()
                .filter(|one| Some(&one.host) == destination.as_ref().map(|at| &at.host));
            there.for_each(|receipt| receipt.prepared = false);
            go_to(record, Step::TakeOver, until);
        }
        Some(Step::TakeOver) => arrive(record),
        Some(Step::LetGo) => go_to(record, Step::TakeBack, until),
        Some(Step::LetGoAgain) => go_to(record, Step::Resume, until),
        Some(Step::TakeBack) if reverts(record) => return_to_source(record),
        Some(_) => finish(record),
        None => {}
    }
}

/// Whether the move that goes on is a revert.
fn reverts(record: &InstanceRecord) -> bool {
    record.operations.first().is_some_and(|operation| operation.kind() == Kind::RevertResize)
}

/// The source runs it again: from here on it is there.
fn return_to_source(record: &mut InstanceRecord) {
    let source = of(record).and_then(|way| way.source.clone());
    if let Some(source) = source {
        stand_at(record, &source);
    }
    record.resized_from = None;
    record.instance.get_or_insert_default().previous_host.clear();
    finish(record);
}

fn finish(record: &mut InstanceRecord) {
    if let Some(operation) = record.operations.first_mut() {
        operation.host_done = true;
    }
}

/// The destination runs it: from here on it is there.
fn arrive(record: &mut InstanceRecord) {
    let Some(operation) = record.operations.first_mut() else { return };
    let live = operation.kind() == Kind::LiveMigrate;
    let Some(Move { source: Some(source), destination: Some(destination), .. }) = operation.r#move.clone()
    else {
        return;
    };
    operation.host_done = true;
    stand_at(record, &destination);
    if !live {
        record.instance.get_or_insert_default().previous_host.clone_from(&source.host);
        record.resized_from = Some(source);
    }
}

/// It is at that place, with the flavor it has there; what it counts in the quota stays as it is.
fn stand_at(record: &mut InstanceRecord, place: &Place) {
    let before = record.usage();
    let instance = record.instance.get_or_insert_default();
    instance.host.clone_from(&place.host);
    instance.availability_zone.clone_from(&place.availability_zone);
    instance.attempt = place.attempt;
    if let Some(flavor) = &place.flavor {
        instance.spec.get_or_insert_default().flavor_id.clone_from(&flavor.id);
        instance.flavor = Some(flavor.clone());
    }
    record.extra_usage = None;
    record.extra_usage =
        Some(quota::difference(&before, &record.usage())).filter(|extra| *extra != Default::default());
}

/// The host did not do its part of the present step, and will not.
pub fn host_did_not(record: &mut InstanceRecord, fault: &pb::Fault, until: SystemTime) {
    let reverts = reverts(record);
    let Some(operation) = record.operations.first_mut() else { return };
    let Some(step) = operation.r#move.as_ref().map(Move::step) else { return };
    let has_nothing = fault.reason == Reason::InstanceNotFound.as_str();
    if step == Step::LetGo && has_nothing {
        // What it does not have it does not run: the source's copy is the one that is left.
        return host_did(record, until);
    }
    operation.undo_cause.get_or_insert_with(|| fault.clone());
    match step {
        Step::HandOver | Step::TakeOver => go_to(record, Step::Clear, until),
        Step::LetGo => go_to(record, Step::Resume, until),
        Step::TakeBack if reverts => go_to(record, Step::LetGoAgain, until),
        Step::LetGoAgain if has_nothing => go_to(record, Step::Resume, until),
        Step::Clear | Step::TakeBack | Step::LetGoAgain | Step::Resume => break_off(record, fault),
        Step::Unspecified | Step::Prepare => operation.host_done = true,
    }
}

/// Nobody can say how far the move has come: it ends in ERROR, with all copies kept and none started.
pub fn break_off(record: &mut InstanceRecord, fault: &pb::Fault) {
    if let Some(operation) = record.operations.first_mut() {
        operation.undo_cause.get_or_insert_with(|| fault.clone());
        (operation.broken, operation.host_done) = (true, true);
    }
}

/// A confirm did not get the source cleared. It is over all the same, and the source is asked again whenever it can be; but if it is
/// the destination that is gone, the source has the copy to go back to, and all stays as it was.
pub fn not_confirmed(record: &mut InstanceRecord, fault: &pb::Fault) {
    let is_gone = fault.metadata.get("host") == Some(&record.resource().host);
    if let Some(operation) = record.operations.first_mut() {
        operation.undo_cause = is_gone.then(|| fault.clone());
        operation.host_done = true;
    }
}

/// Whether an operation is about which host has the instance: a move, a confirm or an evacuation.
#[must_use]
pub fn changes_host(operation: &Operation) -> bool {
    operation.r#move.is_some() || matches!(operation.kind(), Kind::ConfirmResize | Kind::Evacuate)
}

/// Ends a move, a confirm or an evacuation. The operation is no longer in the record.
pub fn end(record: &mut InstanceRecord, operation: &Operation) {
    let undone = operation.undo_cause.is_some();
    let stays_resized = match operation.kind() {
        Kind::Resize | Kind::Migrate => !undone && !operation.broken,
        Kind::ConfirmResize | Kind::RevertResize => undone,
        _ => false,
    };
    if operation.broken {
        leave_open(record, operation);
    }
    record.evacuated_from = None;
    let own = record.resource().host.clone();
    record.receipts.iter_mut().filter(|receipt| receipt.host == own).for_each(|own| own.given_up = false);
    if !stays_resized {
        (record.resized_from, record.extra_usage) = (None, None);
    }
    let instance = record.instance.get_or_insert_default();
    instance.set_task(pb::instance::Task::Unspecified);
    if !stays_resized {
        instance.previous_host.clear();
    }
    if operation.broken {
        instance.set_state(State::Error);
        instance.fault.clone_from(&operation.undo_cause);
    } else if stays_resized {
        instance.set_state(if instance.fault.is_some() { State::Error } else { State::Resized });
    } else if operation.kind() == Kind::Evacuate && undone {
        // It stays where it was, as what it was.
    } else {
        instance.fault = None;
        instance.set_state(wanted_state(instance.desired()));
    }
}

/// An evacuation that finds no place leaves the instance where it was, if no other host may hold something of it, and its host has
/// not been told since that it does not belong there.
pub fn stay_after_all(record: &mut InstanceRecord, fault: &pb::Fault, now: SystemTime) -> bool {
    let Some(from) = record.evacuated_from.take() else { return false };
    // What an attempt of the evacuation itself put there is not what was there.
    let elsewhere =
        record.receipts.iter().any(|receipt| (&receipt.host, receipt.attempt) != (&from.host, from.attempt));
    if from.host.is_empty() || from.told || record.receipts.is_empty() || elsewhere {
        return false;
    }
    stand_at(record, &from);
    record.receipts.iter_mut().for_each(|receipt| receipt.given_up = false);
    let instance = record.instance.get_or_insert_default();
    instance.set_state(from.state());
    instance.fault = (from.state() == State::Error).then(|| fault.clone());
    instance.set_task(pb::instance::Task::Unspecified);
    instance.failed_attempts.clear();
    instance.update_time = Some(timestamp(now));
    true
}

/// Notes that a host is told that the instance does not belong there; says whether that is news.
pub fn note_told(record: &mut InstanceRecord, host: &str) -> bool {
    match &mut record.evacuated_from {
        Some(from) if from.host == host && !from.told => {
            from.told = true;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
