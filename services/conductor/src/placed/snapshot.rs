//! A snapshot as a record that is placed on a backend: the one its volume is on, and no other.

use std::sync::LazyLock;
use std::time::SystemTime;

use kilonova_model::time::{system_time, timestamp};
use kilonova_model::{Reason, ServiceKind, SnapshotId};
use kilonova_proto::conductor::v1::{Alternate, Operation, Receipt, SnapshotRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::snapshot::State;
use kilonova_store::keys::{Key, Keys};

use super::{Own, Phase, Placed, Status, Wanted, generation, shared};

static EMPTY_SNAPSHOT: LazyLock<pb::Snapshot> = LazyLock::new(pb::Snapshot::default);

impl Placed for SnapshotRecord {
    type Id = SnapshotId;
    type Resource = pb::Snapshot;
    const NOUN: &'static str = "snapshot";
    const AGENT: ServiceKind = ServiceKind::Volume;
    const NOT_FOUND: Reason = Reason::SnapshotNotFound;
    const NO_PLACE: Reason = Reason::NoValidBackend;

    fn key(keys: &Keys, id: SnapshotId) -> String {
        keys.snapshot(id)
    }
    fn prefix(keys: &Keys) -> String {
        keys.snapshots()
    }
    fn id_of(key: &Key) -> Option<SnapshotId> {
        if let Key::Snapshot(id) = key { Some(*id) } else { None }
    }
    fn resource(&self) -> &pb::Snapshot {
        self.snapshot.as_ref().unwrap_or(&EMPTY_SNAPSHOT)
    }
    fn shown(&self, etag: String) -> pb::Snapshot {
        pb::Snapshot { etag, ..self.resource().clone() }
    }
    fn status(&self) -> Status {
        let snapshot = self.resource();
        let gone = matches!(snapshot.state(), State::Deleting | State::Deleted);
        Status {
            wanted: if gone { Wanted::Absent } else { Wanted::Present },
            phase: match snapshot.state() {
                State::Unspecified | State::Creating => Phase::Building,
                State::Error => Phase::Failed,
                State::Deleted => Phase::Gone,
                State::Available | State::Deleting => Phase::Ready,
            },
            host: snapshot.host.clone(),
            attempt: snapshot.attempt,
            generation: snapshot.generation,
        }
    }
    fn left_at(&self, receipt: &Receipt, etag: String) -> pb::Snapshot {
        let (host, attempt) = (receipt.host.clone(), receipt.attempt);
        pb::Snapshot { host, attempt, state: State::Deleting.into(), ..self.shown(etag) }
    }
    fn has_only_place(&self) -> bool {
        true
    }
    fn usage(&self) -> pb::QuotaUsage {
        pb::QuotaUsage { snapshots: 1, gigabytes: self.resource().size_gib, ..Default::default() }
    }
    fn building(&self) -> &'static str {
        "snapshot"
    }
    fn host_did(&mut self, _: SystemTime, _: SystemTime) {}
    fn host_did_not(&mut self, _: &pb::Fault, _: SystemTime, _: SystemTime) {}
    fn conclude(&mut self, _: SystemTime) {}
    shared!();
}

impl Own for SnapshotRecord {
    fn generation_mut(&mut self) -> &mut u64 {
        &mut self.snapshot.get_or_insert_default().generation
    }
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32 {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.host.clone_from(&place.host);
        snapshot.attempt += 1;
        snapshot.update_time = Some(timestamp(now));
        snapshot.attempt
    }
    fn leave(&mut self, fault: pb::Fault, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.host.clear();
        snapshot.fault = Some(fault);
        snapshot.update_time = Some(timestamp(now));
    }
    fn arrive(&mut self, _: SystemTime, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.set_state(State::Available);
        snapshot.update_time = Some(timestamp(now));
    }
    /// Why its one place did not take it is why it failed.
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.set_state(State::Error);
        snapshot.fault.get_or_insert(fault);
        snapshot.update_time = Some(timestamp(now));
    }
    fn come_back(&mut self, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.set_state(State::Available);
        snapshot.fault = None;
        snapshot.update_time = Some(timestamp(now));
    }
    fn unwant(&mut self, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.set_state(State::Deleting);
        generation::grow(&mut snapshot.generation);
        snapshot.update_time = Some(timestamp(now));
    }
    fn bury(&mut self, now: SystemTime) {
        let snapshot = self.snapshot.get_or_insert_default();
        snapshot.set_state(State::Deleted);
        snapshot.host.clear();
        snapshot.delete_time = Some(timestamp(now));
        snapshot.update_time = Some(timestamp(now));
    }
}
