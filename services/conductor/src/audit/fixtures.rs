//! Small worlds for the judges' tests.

use kilonova_model::{Epoch, InstanceId, Revision, VolumeId};
use kilonova_proto::compute::v1::Guest;
use kilonova_proto::conductor::v1::{InstanceRecord, Receipt, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::instance::{PowerState, State};
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::volume::v1::StoredVolume;

use super::finding::Finding;
use super::world::{Guests, Stored, World};
use crate::cache::Entry;

/// The one compute host.
pub const HOST: &str = "h1";
/// The one backend.
pub const BACKEND: &str = "b1";

/// Host and backend answer and have nothing, and there are no records.
pub fn world() -> World {
    let mut world = World::default();
    world.computes.insert(HOST.into(), Guests { epoch: Epoch(7), ..Default::default() });
    world.backends.insert(BACKEND.into(), Stored { epoch: Epoch(8), ..Default::default() });
    world
}

/// An entry of a record.
pub fn entry<R>(record: R) -> Entry<R> {
    Entry { record: record.into(), revision: Revision(5) }
}

/// An instance in a state, on a host or on none.
pub fn instance(id: InstanceId, state: State, host: &str) -> InstanceRecord {
    let mut instance = pb::Instance { id: id.to_string(), host: host.into(), ..Default::default() };
    (instance.generation, instance.attempt, instance.project_id) = (2, 1, "demo".into());
    instance.set_state(state);
    InstanceRecord { instance: Some(instance), ..Default::default() }
}

/// A volume of 3 GiB in a state, on a backend or on none.
pub fn volume(id: VolumeId, state: VolumeState, host: &str) -> VolumeRecord {
    let spec = Some(pb::VolumeSpec { size_gib: 3, ..Default::default() });
    let mut volume = pb::Volume { id: id.to_string(), host: host.into(), spec, ..Default::default() };
    (volume.generation, volume.attempt, volume.project_id) = (2, 1, "demo".into());
    volume.set_state(state);
    VolumeRecord { volume: Some(volume), ..Default::default() }
}

/// A receipt at a host.
pub fn receipt(host: &str) -> Receipt {
    Receipt { host: host.into(), attempt: 1, ..Default::default() }
}

/// A guest that runs.
pub fn guest(id: InstanceId) -> Guest {
    let mut guest = Guest { instance_id: id.to_string(), generation: 2, attempt: 1, ..Default::default() };
    (guest.present, guest.claimed, guest.vcpus) = (true, true, 2);
    guest.set_power_state(PowerState::Running);
    guest
}

/// A volume of 3 GiB as a backend has it.
pub fn stored(id: VolumeId) -> StoredVolume {
    let mut volume = StoredVolume { volume_id: id.to_string(), size_gib: 3, ..Default::default() };
    (volume.generation, volume.attempt, volume.present, volume.claimed) = (2, 1, true, true);
    volume
}

/// The kinds of findings, and whether each can be healed.
pub fn kinds(found: &[Finding]) -> Vec<(Kind, bool)> {
    found.iter().map(|finding| (finding.kind, finding.heal.is_some())).collect()
}
