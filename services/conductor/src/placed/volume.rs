//! A volume as a record that is placed on a backend.

use std::sync::LazyLock;
use std::time::SystemTime;

use kilonova_model::time::{system_time, timestamp};
use kilonova_model::{Reason, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::{Alternate, Operation, Receipt, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_store::keys::{Key, Keys};

use super::{Own, Phase, Placed, Status, Wanted, generation, shared};
use crate::{extend, history};

static EMPTY_VOLUME: LazyLock<pb::Volume> = LazyLock::new(pb::Volume::default);

impl Placed for VolumeRecord {
    type Id = VolumeId;
    type Resource = pb::Volume;
    const NOUN: &'static str = "volume";
    const AGENT: ServiceKind = ServiceKind::Volume;
    const NOT_FOUND: Reason = Reason::VolumeNotFound;
    const NO_PLACE: Reason = Reason::NoValidBackend;

    fn key(keys: &Keys, id: VolumeId) -> String {
        keys.volume(id)
    }
    fn prefix(keys: &Keys) -> String {
        keys.volumes()
    }
    fn id_of(key: &Key) -> Option<VolumeId> {
        if let Key::Volume(id) = key { Some(*id) } else { None }
    }
    fn resource(&self) -> &pb::Volume {
        self.volume.as_ref().unwrap_or(&EMPTY_VOLUME)
    }
    fn shown(&self, etag: String) -> pb::Volume {
        pb::Volume { etag, ..self.resource().clone() }
    }
    fn status(&self) -> Status {
        use pb::volume::{Desired, State};
        let volume = self.resource();
        Status {
            wanted: if volume.desired() == Desired::Absent { Wanted::Absent } else { Wanted::Present },
            // While it is being deleted, what it was before no longer matters.
            phase: match volume.state() {
                State::Unspecified | State::Creating => Phase::Building,
                State::Error => Phase::Failed,
                State::Deleted => Phase::Gone,
                _ => Phase::Ready,
            },
            host: volume.host.clone(),
            attempt: volume.attempt,
            generation: volume.generation,
        }
    }
    /// One that is made of a snapshot can only be where that is.
    fn has_only_place(&self) -> bool {
        self.resource().spec.as_ref().is_some_and(|spec| !spec.snapshot_id.is_empty())
    }
    fn left_at(&self, receipt: &Receipt, etag: String) -> pb::Volume {
        let (host, attempt) = (receipt.host.clone(), receipt.attempt);
        pb::Volume { host, attempt, desired: pb::volume::Desired::Absent.into(), ..self.shown(etag) }
    }
    fn usage(&self) -> pb::QuotaUsage {
        let size = self.resource().spec.as_ref().map_or(0, |spec| spec.size_gib);
        let extra = self.extra_usage.as_ref().map_or(0, |extra| extra.gigabytes);
        let gigabytes = size + extra + extend::counted_for(self).gigabytes;
        pb::QuotaUsage { volumes: 1, gigabytes, ..Default::default() }
    }
    fn host_did(&mut self, _: SystemTime, now: SystemTime) {
        extend::host_did(self, now);
    }
    fn host_did_not(&mut self, fault: &pb::Fault, _: SystemTime, _: SystemTime) {
        extend::host_did_not(self, fault);
    }
    fn conclude(&mut self, now: SystemTime) {
        extend::conclude(self, now);
    }
    fn failed_attempts(&self) -> &[pb::Fault] {
        &self.resource().failed_attempts
    }
    fn refusals(&self) -> usize {
        self.refusals as usize
    }
    fn count_refusal(&mut self) {
        self.refusals += 1;
    }
    fn set_placement(&mut self, decision: pb::PlacementDecision) {
        self.placement = Some(decision);
    }
    shared!();
}

/// Sets the state of a volume with which nothing is being done: ERROR if it has a fault, else IN_USE or AVAILABLE.
pub fn rest(volume: &mut pb::Volume) {
    volume.set_state(match (&volume.fault, volume.attachments.is_empty()) {
        (Some(_), _) => pb::volume::State::Error,
        (None, false) => pb::volume::State::InUse,
        (None, true) => pb::volume::State::Available,
    });
}

impl Own for VolumeRecord {
    fn generation_mut(&mut self) -> &mut u64 {
        &mut self.volume.get_or_insert_default().generation
    }
    /// What an extend counted stays counted until the volume is gone.
    fn cut_off(&mut self, fault: &pb::Fault, now: SystemTime) {
        let counted = extend::counted_for(self);
        self.extra_usage = Some(counted).filter(|counted| *counted != pb::QuotaUsage::default());
        for operation in std::mem::take(&mut self.operations) {
            history::close(&mut self.actions, history::step_name(operation.kind()), Some(fault), now);
            history::end(&mut self.actions, pb::Outcome::Failed, now);
        }
    }
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32 {
        let volume = self.volume.get_or_insert_default();
        volume.host = place.host.clone();
        volume.pool = place.pool.clone();
        volume.availability_zone = place.availability_zone.clone();
        volume.attempt += 1;
        volume.update_time = Some(timestamp(now));
        volume.attempt
    }
    fn leave(&mut self, fault: pb::Fault, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.host.clear();
        volume.pool.clear();
        volume.availability_zone.clear();
        volume.failed_attempts.push(fault);
        volume.update_time = Some(timestamp(now));
    }
    fn arrive(&mut self, _: SystemTime, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Available);
        volume.launch_time.get_or_insert(timestamp(now));
        volume.update_time = Some(timestamp(now));
    }
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Error);
        volume.fault = Some(fault);
        volume.update_time = Some(timestamp(now));
    }
    fn come_back(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.fault = None;
        rest(volume);
        volume.update_time = Some(timestamp(now));
    }
    fn unwant(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_desired(pb::volume::Desired::Absent);
        volume.set_state(pb::volume::State::Deleting);
        generation::grow(&mut volume.generation);
        volume.update_time = Some(timestamp(now));
    }
    fn bury(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Deleted);
        volume.attachments.clear();
        volume.host.clear();
        volume.delete_time = Some(timestamp(now));
        volume.update_time = Some(timestamp(now));
    }
}
