//! Extend, as a user asks for it: the volume, the project's usage and the request's id in one transaction.
//!
//! The room counts from the moment it is accepted. If the backend does not give it, the engine takes it off the usage
//! again with the end of the operation.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, FieldViolation, Reason};
use kilonova_proto::conductor::v1::{Operation, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::volume::State;
use kilonova_store::Txn;

use crate::accept::{Acceptor, project};
use crate::cache::Entry;
use crate::history;
use crate::once::{Change, count};
use crate::placed::{Placed, generation};
use crate::requests::Acceptance;

/// An extend, as it is asked for.
pub struct Extend<'a> {
    /// What counts it.
    pub acceptor: &'a Acceptor,
    /// The new size.
    pub size_gib: u32,
    /// How long the backend may take.
    pub timeout: Duration,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<VolumeRecord> for Extend<'_> {
    async fn begin(&self, entry: &Entry<VolumeRecord>) -> Result<(VolumeRecord, Txn), Error> {
        let now = SystemTime::now();
        let mut record = VolumeRecord::clone(&entry.record);
        let more = begin(&mut record, self.size_gib, now + self.timeout, now, self.acceptance)?;
        let with = count(self.acceptor, &project(record.project_id())?, &more).await?;
        Ok((record, with))
    }
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
    generation::grow(&mut volume.generation);
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

        let mut lost = failed.clone();
        lost.set_failed(pb::Fault::default(), NOW);
        assert_eq!((lost.usage().gigabytes, lost.operations.len()), (8, 0), "until it is deleted");

        host_did_not(&mut failed, &pb::Fault::default());
        assert_eq!(failed.usage().gigabytes, 8, "until it is taken off");
        conclude(&mut failed, NOW);
        assert_eq!((failed.usage().gigabytes, failed.resource().state()), (5, State::Available));
        assert_eq!(failed.actions[0].outcome(), pb::Outcome::Failed);
    }
}
