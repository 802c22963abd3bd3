//! Extend, as a user asks for it: the volume, the project's usage and the request's id in one transaction.
//!
//! The room counts from the moment it is accepted. If the backend does not give it, the engine takes it off the usage
//! again with the end of the operation.

use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;
use kilonova_model::{Error, FieldViolation, Reason, VolumeId};
use kilonova_proto::conductor::v1::{Operation, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::volume::State;

use crate::accept::{Acceptor, Request, project};
use crate::cache::Entry;
use crate::db::conflict;
use crate::history;
use crate::placed::Placed;
use crate::records::{Records, Written};
use crate::requests::{Acceptance, Named, stored};

/// How often a request is tried again when somebody else was faster.
const TRIES: usize = 16;

/// Accepts an extend, once for each request id.
pub async fn accept(
    acceptor: &Acceptor,
    request: &Request,
    volumes: &Records<VolumeRecord>,
    named: Named<'_, VolumeId>,
    size_gib: u32,
    timeout: Duration,
    acceptance: Acceptance<'_>,
) -> Result<Entry<VolumeRecord>, Error> {
    for _ in 0..TRIES {
        if acceptor.replay(request).await?.is_some() {
            return stored(volumes, named).await;
        }
        let entry = stored(volumes, named).await?;
        named.check(&entry)?;
        let now = SystemTime::now();
        let mut record = VolumeRecord::clone(&entry.record);
        let more = match begin(&mut record, size_gib, now + timeout, now, acceptance) {
            Ok(more) => more,
            // Its twin may have been faster, and is what it ran into.
            Err(_) if request.id.is_some() && acceptor.replay(request).await?.is_some() => continue,
            Err(error) => return Err(error),
        };
        let project = project(record.project_id())?;
        let _lane = acceptor.enter(&project).await;
        let basis = acceptor.basis(&project).await?;
        let with = basis.count(&volumes.db.keys, &project, &basis.with(&project, &more)?);
        let with = acceptor.remember(request, vec![named.id.to_string()], with);
        if let Written::Stored(entry) = volumes.write(named.id, &entry, record, None, with).await? {
            return Ok(entry);
        }
    }
    Err(conflict(&format!("volume {}", named.id)))
}

/// Enters an extend in a record that is in a state for it, and gives what it takes of the quota.
fn begin(
    record: &mut VolumeRecord,
    size_gib: u32,
    deadline: SystemTime,
    now: SystemTime,
    acceptance: Acceptance<'_>,
) -> Result<QuotaUsage, Error> {
    let volume = record.volume.get_or_insert_default();
    let size = volume.spec.as_ref().map_or(0, |spec| spec.size_gib);
    if size_gib <= size {
        let description = format!("more than the {size} GiB it has");
        return Err(Error::invalid(vec![FieldViolation { field: "size_gib".into(), description }]));
    }
    let state = volume.state();
    if state != State::Available {
        let message = format!("the volume is {}; this needs one that is AVAILABLE", state.as_str_name());
        return Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()));
    }
    volume.set_state(State::Extending);
    volume.generation += 1;
    volume.update_time = Some(timestamp(now));
    let (generation, attempt, host) = (volume.generation, volume.attempt, volume.host.clone());
    record.operations.push(Operation {
        kind: Kind::Extend.into(),
        size_gib,
        generation,
        deadline_time: Some(timestamp(deadline)),
        ..Default::default()
    });
    acceptance.note(&mut record.actions, Kind::Extend);
    let detail = format!("from {size} to {size_gib} GiB on {host}");
    let step = history::begun(history::step_name(Kind::Extend), acceptance.actor(), now, attempt, detail);
    history::add_to_newest(&mut record.actions, step);
    Ok(QuotaUsage { gigabytes: size_gib - size, ..Default::default() })
}

/// The backend did it.
pub fn host_did(record: &mut VolumeRecord, now: SystemTime) {
    end(record, None, now);
}

/// The backend did not do it, and will not: what was counted for it has to be taken off.
pub fn host_did_not(record: &mut VolumeRecord, fault: &pb::Fault) {
    if let Some(operation) = record.operations.first_mut() {
        operation.undo_cause = Some(fault.clone());
        operation.host_done = true;
    }
}

/// What was counted is taken off.
pub fn conclude(record: &mut VolumeRecord, now: SystemTime) {
    let cause = record.operations.first().and_then(|operation| operation.undo_cause.clone());
    end(record, cause.as_ref(), now);
}

/// What the first operation counts besides the volume's size.
#[must_use]
pub fn counted_for(record: &VolumeRecord) -> QuotaUsage {
    let size = record.resource().spec.as_ref().map_or(0, |spec| spec.size_gib);
    let wanted = record.operations.first().map_or(0, |operation| operation.size_gib);
    QuotaUsage { gigabytes: wanted.saturating_sub(size), ..Default::default() }
}

fn end(record: &mut VolumeRecord, fault: Option<&pb::Fault>, now: SystemTime) {
    if record.operations.is_empty() {
        return;
    }
    let operation = record.operations.remove(0);
    let volume = record.volume.get_or_insert_default();
    if fault.is_none() {
        volume.spec.get_or_insert_default().size_gib = operation.size_gib;
    }
    volume.set_state(State::Available);
    volume.update_time = Some(timestamp(now));
    history::close(&mut record.actions, history::step_name(Kind::Extend), fault, now);
    let outcome = if fault.is_none() { pb::Outcome::Succeeded } else { pb::Outcome::Failed };
    history::end(&mut record.actions, outcome, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn volume(state: State, size_gib: u32) -> VolumeRecord {
        let spec = Some(pb::VolumeSpec { size_gib, ..Default::default() });
        let mut volume = pb::Volume { spec, ..Default::default() };
        volume.set_state(state);
        VolumeRecord { volume: Some(volume), ..Default::default() }
    }

    fn begun(record: &mut VolumeRecord, size_gib: u32) -> Result<u32, Reason> {
        let acceptance = Acceptance { conductor: "c1", arrived: NOW, request_id: "" };
        let begun = begin(record, size_gib, NOW, NOW, acceptance);
        begun.map(|more| more.gigabytes).map_err(|error| error.reason)
    }

    #[test]
    fn only_what_is_free_grows_and_only_grows() {
        assert_eq!(begun(&mut volume(State::Available, 5), 5), Err(Reason::ValidationFailed));
        for state in [State::Creating, State::InUse, State::Extending, State::Error] {
            assert_eq!(begun(&mut volume(state, 5), 8), Err(Reason::InvalidState), "{state:?}");
        }
        assert_eq!(begun(&mut volume(State::Available, 5), 8), Ok(3));
    }

    #[test]
    fn what_counts_follows_how_it_ends() {
        let mut record = volume(State::Available, 5);
        begun(&mut record, 8).unwrap();
        assert_eq!((record.usage().gigabytes, counted_for(&record).gigabytes), (8, 3));
        let mut failed = record.clone();
        host_did(&mut record, NOW);
        assert_eq!((record.usage().gigabytes, counted_for(&record).gigabytes), (8, 0));
        assert_eq!(record.actions[0].outcome(), pb::Outcome::Succeeded);

        host_did_not(&mut failed, &pb::Fault::default());
        assert_eq!(failed.usage().gigabytes, 8, "until it is taken off");
        conclude(&mut failed, NOW);
        assert_eq!((failed.usage().gigabytes, failed.resource().state()), (5, State::Available));
        assert_eq!(failed.actions[0].outcome(), pb::Outcome::Failed);
    }
}
