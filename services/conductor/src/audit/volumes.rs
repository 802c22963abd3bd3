//! Volumes and snapshots against what backends have.
//!
//! | record                    | the backend has         | then                               |
//! |---------------------------|-------------------------|------------------------------------|
//! | none, or gone             | it                      | `VOLUME_ORPHAN`, `SNAPSHOT_ORPHAN` |
//! | elsewhere                 | it                      | the same, kept: nothing says which copy is the newer |
//! | none, gone, or elsewhere  | room held for a volume  | `CLAIM_ORPHAN`                     |
//! | there                     | not it                  | `VOLUME_MISSING`, `SNAPSHOT_MISSING` |
//! | there                     | it, of another size     | `VOLUME_SIZE_DRIFT`                |
//! | ERROR, was lost there     | it                      | `LOST_FOUND`                       |
//! | something under way       | anything                | passed over                        |
//! | any                       | work that goes on       | passed over                        |

use kilonova_model::{Attempt, Generation, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::volume::v1::{StoredSnapshot, StoredVolume};
use kilonova_runtime::agent::ledger::Stamp;

use super::World;
use super::finding::{At, Finding, Heal};
use super::world::{Standing, Stored, is_settled, standing, was_lost};
use crate::cache::Entry;
use crate::placed::{Phase, Placed};

/// The reason for which what a record wants elsewhere is not removed.
const KEPT: &str = "it may be the newer copy, and is kept until it is deleted";

/// What does not agree of volumes, snapshots and what backends have of them.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, there) in &world.backends {
        for (id, volume) in there.volumes.iter().filter(|(_, volume)| !volume.busy) {
            found.extend(of_volume(world, host, there, *id, volume));
        }
        for (id, snapshot) in there.snapshots.iter().filter(|(_, one)| one.present && !one.busy) {
            found.extend(of_snapshot(world, host, there, *id, snapshot));
        }
    }
    for (id, entry) in &world.volumes {
        found.extend(missing_volume(world, *id, entry));
    }
    for (id, entry) in &world.snapshots {
        found.extend(missing_snapshot(world, *id, entry));
    }
    found
}

fn at(host: &str, there: &Stored, generation: u64, attempt: u32) -> At {
    let stamp = Stamp { generation: Generation(generation), attempt: Attempt(attempt) };
    At { host: host.to_owned(), epoch: there.epoch, stamp }
}

fn of_volume(
    world: &World,
    host: &str,
    there: &Stored,
    id: VolumeId,
    volume: &StoredVolume,
) -> Option<Finding> {
    let at = at(host, there, volume.generation, volume.attempt);
    let entry = world.volumes.get(&id);
    let project = entry.map_or("", |entry| entry.record.project_id());
    let finding = |kind, cause| Finding::new(kind, id, cause).of(project).on(host).resting_on(at.seen());
    match standing(entry, host) {
        Standing::Unwanted(why) if volume.present => {
            let cause = format!("the backend has it ({} GiB), and {why}", volume.size_gib);
            if entry.is_some_and(|entry| entry.record.is_wanted()) {
                return Some(finding(Kind::VolumeOrphan, format!("{cause}: {KEPT}")));
            }
            Some(finding(Kind::VolumeOrphan, cause).healed_by(Heal::DeleteVolume(id, at.clone())))
        }
        Standing::Unwanted(why) if volume.claimed => {
            let cause = format!("the backend holds room for it and does not have it, and {why}");
            Some(finding(Kind::ClaimOrphan, cause).healed_by(Heal::DeleteVolume(id, at.clone())))
        }
        Standing::Belongs(entry) if volume.present && was_lost(entry.record.as_ref(), volume.attempt) => {
            let cause = "its record says that it was lost, and the backend has it".to_owned();
            let finding = finding(Kind::LostFound, cause).resting_on([entry.revision.0]);
            Some(finding.healed_by(Heal::VolumeFound(id, entry.clone())))
        }
        Standing::Belongs(entry) if volume.present => {
            let wanted = entry.record.resource().spec.as_ref().map_or(0, |spec| spec.size_gib);
            let differs = entry.record.status().phase == Phase::Ready && volume.size_gib != wanted;
            let cause = format!("its record says {wanted} GiB, and the backend has {} GiB", volume.size_gib);
            let finding = finding(Kind::VolumeSizeDrift, cause)
                .resting_on([entry.revision.0, u64::from(volume.size_gib)]);
            let grown = Heal::Grow(id, entry.clone(), volume.size_gib);
            differs.then(|| if volume.size_gib > wanted { finding.healed_by(grown) } else { finding })
        }
        Standing::Belongs(entry) if volume.claimed && entry.record.status().phase == Phase::Failed => {
            let cause = "the backend holds room for it and does not have it, and its record is in ERROR";
            Some(finding(Kind::ClaimOrphan, cause.to_owned()).healed_by(Heal::DeleteVolume(id, at.clone())))
        }
        _ => None,
    }
}

fn of_snapshot(
    world: &World,
    host: &str,
    there: &Stored,
    id: SnapshotId,
    snapshot: &StoredSnapshot,
) -> Option<Finding> {
    let entry = world.snapshots.get(&id);
    let at = at(host, there, snapshot.generation, snapshot.attempt);
    let why = match standing(entry, host) {
        Standing::Unwanted(why) => why,
        Standing::Belongs(entry) if was_lost(entry.record.as_ref(), snapshot.attempt) => {
            let cause = "its record says that it was lost, and the backend has it".to_owned();
            let finding = Finding::new(Kind::LostFound, id, cause).of(entry.record.project_id()).on(host);
            let finding = finding.resting_on(at.seen()).resting_on([entry.revision.0]);
            return Some(finding.healed_by(Heal::SnapshotFound(id, entry.clone())));
        }
        _ => return None,
    };
    let is_kept = entry.is_some_and(|entry| entry.record.is_wanted());
    let cause = format!("the backend has it (of volume {}), and {why}", snapshot.volume_id);
    let cause = if is_kept { format!("{cause}: {KEPT}") } else { cause };
    let finding = Finding::new(Kind::SnapshotOrphan, id, cause)
        .of(entry.map_or("", |entry| entry.record.project_id()))
        .on(host)
        .resting_on(at.seen());
    if is_kept {
        return Some(finding);
    }
    Some(finding.healed_by(Heal::DeleteSnapshot(id, snapshot.volume_id.clone(), at)))
}

fn missing_volume(world: &World, id: VolumeId, entry: &Entry<VolumeRecord>) -> Option<Finding> {
    let volume = entry.record.resource();
    let there = world.backends.get(&volume.host).filter(|_| is_settled(entry.record.as_ref()))?;
    if there.volumes.get(&id).is_some_and(|volume| volume.present || volume.busy) {
        return None;
    }
    let state = volume.state().as_str_name().trim_start_matches("STATE_");
    let cause = format!("its record says {state}, and the backend does not have it");
    let finding = Finding::new(Kind::VolumeMissing, id, cause)
        .of(&volume.project_id)
        .on(&volume.host)
        .resting_on([entry.revision.0, there.epoch.0]);
    Some(finding.healed_by(Heal::VolumeLost(id, entry.clone())))
}

fn missing_snapshot(world: &World, id: SnapshotId, entry: &Entry<SnapshotRecord>) -> Option<Finding> {
    let snapshot = entry.record.resource();
    let there = world.backends.get(&snapshot.host).filter(|_| is_settled(entry.record.as_ref()))?;
    if there.snapshots.get(&id).is_some_and(|snapshot| snapshot.present || snapshot.busy) {
        return None;
    }
    let cause = "its record says AVAILABLE, and the backend does not have it".to_owned();
    let finding = Finding::new(Kind::SnapshotMissing, id, cause)
        .of(&snapshot.project_id)
        .on(&snapshot.host)
        .resting_on([entry.revision.0, there.epoch.0]);
    Some(finding.healed_by(Heal::SnapshotLost(id, entry.clone())))
}

#[cfg(test)]
mod tests {
    use kilonova_proto::conductor::v1::Operation;
    use kilonova_proto::types::v1 as pb;
    use kilonova_proto::types::v1::snapshot::State as SnapshotState;
    use kilonova_proto::types::v1::volume::State;

    use super::super::fixtures::{BACKEND, entry, kinds, receipt, stored, volume, world};
    use super::*;

    fn found(record: Option<VolumeRecord>, there: Option<StoredVolume>) -> Vec<(Kind, bool)> {
        let (mut world, id) = (world(), VolumeId::generate());
        if let Some(record) = record {
            world.volumes.insert(id, entry(record));
        }
        if let Some(there) = there {
            world.backends.get_mut(BACKEND).unwrap().volumes.insert(id, there);
        }
        kinds(&judge(&world))
    }

    fn record(state: State, host: &str) -> Option<VolumeRecord> {
        Some(volume(VolumeId::generate(), state, host))
    }

    fn with(change: impl FnOnce(&mut StoredVolume)) -> Option<StoredVolume> {
        let mut volume = stored(VolumeId::generate());
        change(&mut volume);
        Some(volume)
    }

    #[test]
    fn a_volume_is_where_its_record_says_or_is_found() {
        assert_eq!(found(record(State::Available, BACKEND), with(|_| {})), []);
        let orphan = [(Kind::VolumeOrphan, true)];
        assert_eq!(found(None, with(|_| {})), orphan);
        let kept = [(Kind::VolumeOrphan, false)];
        assert_eq!(found(record(State::Available, "b2"), with(|_| {})), kept, "it may be the newer one");
        assert_eq!(found(record(State::Deleted, ""), with(|_| {})), orphan);
        assert_eq!(found(None, with(|volume| volume.busy = true)), []);
        let lost = [(Kind::VolumeMissing, true)];
        assert_eq!(found(record(State::InUse, BACKEND), None), lost);
        assert_eq!(found(record(State::Creating, BACKEND), None), []);
        let mut left = record(State::Available, "b2");
        left.as_mut().unwrap().receipts.push(receipt(BACKEND));
        assert_eq!(found(left, with(|_| {})), []);
        assert_eq!(found(None, with(|volume| volume.present = false)), [(Kind::ClaimOrphan, true)]);
    }

    #[test]
    fn only_a_volume_that_grew_is_put_right() {
        let sized = |size| with(|volume| volume.size_gib = size);
        let record = || record(State::Available, BACKEND);
        assert_eq!(found(record(), sized(4)), [(Kind::VolumeSizeDrift, true)]);
        assert_eq!(found(record(), sized(2)), [(Kind::VolumeSizeDrift, false)]);
        let mut grows = record();
        grows.as_mut().unwrap().operations.push(Operation { size_gib: 4, ..Default::default() });
        assert_eq!(found(grows, sized(4)), []);
    }

    #[test]
    fn snapshots_are_found_the_same_way() {
        let found = |state: Option<SnapshotState>, there: bool| {
            let (mut world, id) = (world(), SnapshotId::generate());
            if let Some(state) = state {
                let mut snapshot = pb::Snapshot { host: BACKEND.into(), ..Default::default() };
                snapshot.set_state(state);
                let record = SnapshotRecord { snapshot: Some(snapshot), ..Default::default() };
                world.snapshots.insert(id, entry(record));
            }
            let stored = StoredSnapshot { present: true, ..Default::default() };
            if there {
                world.backends.get_mut(BACKEND).unwrap().snapshots.insert(id, stored);
            }
            kinds(&judge(&world))
        };
        assert_eq!(found(None, true), [(Kind::SnapshotOrphan, true)]);
        assert_eq!(found(Some(SnapshotState::Deleted), true), [(Kind::SnapshotOrphan, true)]);
        assert_eq!(found(Some(SnapshotState::Available), false), [(Kind::SnapshotMissing, true)]);
        for (state, there) in [(SnapshotState::Available, true), (SnapshotState::Deleting, true)] {
            assert_eq!(found(Some(state), there), []);
        }
        assert_eq!(found(Some(SnapshotState::Creating), false), []);
    }
}
