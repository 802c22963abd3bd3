//! What is asked of an instance that is there, from the record's point of view: pure, one function for each thing
//! that can be heard of an operation.
//!
//! ```text
//!   start, stop, reboot:   host did ──► done          host did not ──► as it was, FAILED
//!
//!   attach:                host did ──► conclude: the volume is in use
//!                          host did not ──► taken back: host detaches, or is past asking
//!                                              └──► conclude: not exported any more, the volume is available, FAILED
//!   detach:                host did, or has no such guest
//!                                              └──► conclude: not exported any more, the volume is available
//!                          host did not ──► conclude: the volume is in use as it was, FAILED
//!
//!   the guest is lost:     each ──► conclude, in their order: what has a volume in it settles that, FAILED
//! ```
//!
//! Operations wait in the order they were asked for, each with a generation of its own, so that what a host sees only
//! grows. Only the first is under way.

use std::time::SystemTime;

use kilonova_model::Reason;
use kilonova_model::time::timestamp;
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Operation};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::attachment::State as AttachmentState;
use kilonova_proto::types::v1::instance::{Desired, State, Task};

use crate::placed::generation;
use crate::{history, moves};

/// What the host has to do for it.
#[must_use]
pub fn hosts_part(operation: &Operation) -> Kind {
    match operation.kind() {
        Kind::AttachVolume if operation.undo_cause.is_some() => Kind::DetachVolume,
        kind => operation.r#move.as_ref().map_or(kind, |way| moves::hosts_part(operation, way)),
    }
}

/// Whether what the host has to do for it makes the guest run.
#[must_use]
pub fn starts(operation: &Operation) -> bool {
    match &operation.r#move {
        Some(way) => !matches!(way.step(), Step::Prepare | Step::Clear | Step::LetGo | Step::LetGoAgain),
        None => {
            matches!(operation.kind(), Kind::Start | Kind::Reboot | Kind::Rebuild) && !operation.clears_others
        }
    }
}

/// The host did its part of the first operation. What follows has until `until`.
pub fn host_did(record: &mut InstanceRecord, until: SystemTime, now: SystemTime) {
    let Some(operation) = record.operations.first_mut() else { return };
    match operation.kind() {
        _ if operation.r#move.is_some() => moves::host_did(record, until),
        Kind::AttachVolume | Kind::DetachVolume => operation.host_done = true,
        _ => end(record, None, now),
    }
}

/// The host did not do its part of the first operation, and will not.
pub fn host_did_not(
    record: &mut InstanceRecord,
    fault: &pb::Fault,
    again_until: SystemTime,
    now: SystemTime,
) {
    let Some(operation) = record.operations.first_mut() else { return };
    match operation.kind() {
        _ if operation.r#move.is_some() => moves::host_did_not(record, fault, again_until),
        Kind::ConfirmResize => moves::not_confirmed(record, fault),
        Kind::AttachVolume if operation.undo_cause.is_none() => {
            operation.undo_cause = Some(fault.clone());
            operation.deadline_time = Some(timestamp(again_until));
            history::close(&mut record.actions, history::step_name(Kind::AttachVolume), Some(fault), now);
            renumber(record);
        }
        Kind::AttachVolume => operation.host_done = true,
        Kind::DetachVolume => undo_unless_gone(operation, fault),
        _ => end(record, Some(fault), now),
    }
}

/// A detach that was not done leaves the volume with the instance, unless there is no guest that could have it.
fn undo_unless_gone(operation: &mut Operation, fault: &pb::Fault) {
    operation.host_done = true;
    if fault.reason != Reason::InstanceNotFound.as_str() {
        operation.undo_cause = Some(fault.clone());
    }
}

/// The guest is lost, or what was asked cannot go on for another reason: nothing is left for a host to do.
pub fn cut_off(record: &mut InstanceRecord, fault: &pb::Fault) {
    for operation in &mut record.operations {
        operation.host_done = true;
        if operation.kind() != Kind::DetachVolume {
            operation.undo_cause.get_or_insert_with(|| fault.clone());
        }
    }
}

/// All is done that had to be done elsewhere for the first operation.
pub fn conclude(record: &mut InstanceRecord, now: SystemTime) {
    let undone = record.operations.first().and_then(|operation| operation.undo_cause.clone());
    end(record, undone.as_ref(), now);
}

/// Gives what waits new generations: to the host an undoing is a new command, and what waits comes after it.
pub fn renumber(record: &mut InstanceRecord) {
    let instance = record.instance.get_or_insert_default();
    for operation in &mut record.operations {
        generation::grow(&mut instance.generation);
        operation.generation = instance.generation;
    }
}

fn end(record: &mut InstanceRecord, fault: Option<&pb::Fault>, now: SystemTime) {
    if record.operations.is_empty() {
        return;
    }
    moves::note_unexported(record);
    let operation = record.operations.remove(0);
    if moves::changes_host(&operation) {
        moves::end(record, &operation);
    }
    let instance = record.instance.get_or_insert_default();
    match operation.kind() {
        _ if operation.r#move.is_some() => {}
        Kind::ConfirmResize => {}
        Kind::Evacuate => settle_all(instance),
        Kind::Rebuild => rebuilt(record, operation.image.as_ref().filter(|_| fault.is_none())),
        Kind::AttachVolume => settle(instance, &operation.volume_id, fault.is_none()),
        Kind::DetachVolume => settle(instance, &operation.volume_id, fault.is_some()),
        kind => power(instance, kind, fault.is_none()),
    }
    record.instance.get_or_insert_default().update_time = Some(timestamp(now));
    history::close(&mut record.actions, history::step_name(operation.kind()), fault, now);
    let outcome = if fault.is_none() { pb::Outcome::Succeeded } else { pb::Outcome::Failed };
    history::end(&mut record.actions, outcome, now);
}

fn power(instance: &mut pb::Instance, kind: Kind, done: bool) {
    if done {
        instance.set_state(if kind == Kind::Stop { State::Stopped } else { State::Active });
        instance.fault = None;
    } else if instance.fault.is_some() {
        instance.set_state(State::Error);
    }
    let stopped = instance.state() == State::Stopped;
    instance.set_desired(if stopped { Desired::Stopped } else { Desired::Running });
    instance.set_task(Task::Unspecified);
}

/// The guest is made anew; as it was when there is no image.
fn rebuilt(record: &mut InstanceRecord, image: Option<&pb::Image>) {
    let instance = record.instance.get_or_insert_default();
    instance.set_task(Task::Unspecified);
    if let Some(image) = image {
        instance.spec.get_or_insert_default().image_id.clone_from(&image.id);
        record.image = Some(image.clone());
    }
}

/// It was built with all its volumes, or stays with them: an attach or a detach that was overtaken is one no more.
fn settle_all(instance: &mut pb::Instance) {
    instance.attachments.iter_mut().for_each(|one| one.set_state(AttachmentState::Attached));
}

/// The instance has the volume, or has it no more.
pub fn settle(instance: &mut pb::Instance, volume_id: &str, attached: bool) {
    if attached {
        for attachment in instance.attachments.iter_mut().filter(|one| one.volume_id == volume_id) {
            attachment.set_state(AttachmentState::Attached);
        }
    } else {
        instance.attachments.retain(|attachment| attachment.volume_id != volume_id);
    }
}

#[cfg(test)]
mod tests {
    use kilonova_model::Error;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn with(kinds: &[Kind]) -> InstanceRecord {
        let mut record = InstanceRecord::default();
        let instance = record.instance.get_or_insert_default();
        instance.set_state(State::Active);
        for kind in kinds {
            instance.generation += 1;
            let volume_id = format!("v{}", instance.generation);
            let mut attachment = pb::Attachment { volume_id: volume_id.clone(), ..Default::default() };
            attachment.set_state(AttachmentState::Attaching);
            instance.attachments.push(attachment);
            let generation = instance.generation;
            record.operations.push(Operation {
                kind: (*kind).into(),
                volume_id,
                generation,
                ..Default::default()
            });
            history::begin(&mut record.actions, *kind, "", NOW);
        }
        record
    }

    fn fault(reason: Reason) -> pb::Fault {
        history::fault(&Error::new(reason, "x"), "h1", 1, NOW)
    }

    fn volumes(record: &InstanceRecord) -> Vec<(&str, AttachmentState)> {
        let attachments = &record.instance.as_ref().unwrap().attachments;
        attachments.iter().map(|one| (one.volume_id.as_str(), one.state())).collect()
    }

    fn outcomes(record: &InstanceRecord) -> Vec<pb::Outcome> {
        record.actions.iter().map(pb::Action::outcome).collect()
    }

    #[test]
    fn an_attach_is_done_when_host_and_backend_are() {
        let mut record = with(&[Kind::AttachVolume, Kind::AttachVolume]);
        host_did(&mut record, NOW, NOW);
        assert!(record.operations[0].host_done && record.operations.len() == 2);
        conclude(&mut record, NOW);
        assert_eq!(volumes(&record), [("v1", AttachmentState::Attached), ("v2", AttachmentState::Attaching)]);
        assert_eq!(outcomes(&record), [pb::Outcome::Succeeded, pb::Outcome::InProgress]);
        assert_eq!(record.operations[0].volume_id, "v2");
    }

    #[test]
    fn an_attach_that_fails_is_taken_back_with_a_command_that_is_newer_and_what_waits_newer_still() {
        let mut record = with(&[Kind::AttachVolume, Kind::AttachVolume]);
        assert_eq!(hosts_part(&record.operations[0]), Kind::AttachVolume);
        host_did_not(&mut record, &fault(Reason::DriverFailed), NOW, NOW);
        assert_eq!(hosts_part(&record.operations[0]), Kind::DetachVolume);
        let generations: Vec<u64> = record.operations.iter().map(|one| one.generation).collect();
        assert!(generations[0] > 2 && generations[1] > generations[0], "{generations:?}");
        assert_eq!(record.instance.as_ref().unwrap().generation, generations[1]);
        assert_eq!(volumes(&record).len(), 2, "promised until the backend has let go");
        host_did_not(&mut record, &fault(Reason::OperationTimeout), NOW, NOW);
        assert!(record.operations[0].host_done, "what is left is the backend's");
        conclude(&mut record, NOW);
        assert_eq!(volumes(&record), [("v2", AttachmentState::Attaching)]);
        assert_eq!(outcomes(&record), [pb::Outcome::Failed, pb::Outcome::InProgress]);
    }

    #[test]
    fn a_detach_ends_with_the_backend_and_one_that_fails_leaves_the_volume() {
        let mut record = with(&[Kind::DetachVolume]);
        host_did(&mut record, NOW, NOW);
        assert_eq!(volumes(&record).len(), 1);
        conclude(&mut record, NOW);
        assert!(volumes(&record).is_empty());

        let mut record = with(&[Kind::DetachVolume]);
        host_did_not(&mut record, &fault(Reason::DriverFailed), NOW, NOW);
        assert!(record.operations[0].host_done, "its volume's record says that it is being detached");
        conclude(&mut record, NOW);
        assert_eq!(volumes(&record), [("v1", AttachmentState::Attached)]);
        assert_eq!(outcomes(&record), [pb::Outcome::Failed]);

        let mut record = with(&[Kind::DetachVolume]);
        host_did_not(&mut record, &fault(Reason::InstanceNotFound), NOW, NOW);
        assert!(record.operations[0].host_done, "no guest has it");
    }
}
