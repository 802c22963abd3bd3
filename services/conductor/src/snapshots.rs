//! Snapshots, as a user asks for them.
//!
//! A snapshot is accepted in one transaction with its volume, which remembers it: a volume that has snapshots is not deleted.
//! Its end takes it off the volume again.
//!
//! A volume that is made of a snapshot is accepted in one transaction with the snapshot, which it writes again as it is: so a delete
//! of the snapshot that looked for such volumes before fails, and looks again.

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, Reason, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{Alternate, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::accept::{Acceptor, Request};
use crate::cache::Entry;
use crate::db::conflict;
use crate::once::count;
use crate::placed::{Phase, Placed, Wanted};
use crate::records::{Records, check_size};
use crate::requests::{Acceptance, Guard};

/// How often a request is tried again when somebody else was faster.
const TRIES: usize = 16;

/// What is asked.
pub struct Asked<'a> {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: &'a str,
    /// Only check.
    pub validate_only: bool,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

/// Accepts a snapshot, once for each request id.
pub async fn create(
    acceptor: &Acceptor,
    request: &Request,
    snapshots: &Records<SnapshotRecord>,
    volumes: &Records<VolumeRecord>,
    asked: &Asked<'_>,
) -> Result<Entry<SnapshotRecord>, Error> {
    let id = SnapshotId::generate();
    for _ in 0..TRIES {
        if let Some(earlier) = acceptor.earlier(request, snapshots).await? {
            let gone = || Records::<SnapshotRecord>::not_found(id);
            return earlier.into_iter().next().ok_or_else(gone);
        }
        let volume = volumes.read(asked.volume).await?;
        let volume = volume.filter(|entry| entry.record.project_id() == request.project.as_str());
        let volume = volume.ok_or_else(|| Records::<VolumeRecord>::not_found(asked.volume))?;
        let begun = match begin(id, &volume.record, asked) {
            Ok(record) => {
                let counted = count(acceptor, &request.project, &record.usage()).await;
                counted.map(|with| (record, with))
            }
            Err(refusal) => Err(refusal),
        };
        let (record, with) = match begun {
            Ok(begun) => begun,
            Err(_) if acceptor.outrun(request).await? => continue,
            Err(refusal) => return Err(refusal),
        };
        let mut of = VolumeRecord::clone(&volume.record);
        of.snapshot_ids.push(id.to_string());
        if asked.validate_only {
            return Ok(Entry { record: record.into(), revision: kilonova_model::Revision(0) });
        }
        let (key, volume_key) = (snapshots.db.keys.snapshot(id), volumes.db.keys.volume(asked.volume));
        let txn = Txn::new()
            .when_absent(key.clone())
            .put(key, record.encode_to_vec())
            .when(Compare::ModRevision(volume_key.clone(), volume.revision))
            .put(volume_key, of.encode_to_vec())
            .and(with);
        let txn = acceptor.remember(request, vec![id.to_string()], txn);
        if let TxnOutcome::Committed { revision } = snapshots.db.commit(txn).await? {
            let entry = Entry { record: std::sync::Arc::new(record), revision };
            snapshots.cache.committed(id, entry.record.clone(), revision);
            return Ok(entry);
        }
    }
    Err(conflict(&format!("volume {}", asked.volume)))
}

/// The record of a new snapshot of a volume that is in a state for it.
fn begin(id: SnapshotId, of: &VolumeRecord, asked: &Asked<'_>) -> Result<SnapshotRecord, Error> {
    let volume = of.resource();
    let state = volume.state();
    if !matches!(state, VolumeState::Available | VolumeState::InUse) {
        let message =
            format!("the volume is {}; this needs one that is AVAILABLE or IN_USE", state.as_str_name());
        return Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()));
    }
    let now = Some(timestamp(asked.acceptance.arrived));
    let snapshot = pb::Snapshot {
        id: id.to_string(),
        project_id: volume.project_id.clone(),
        name: asked.name.to_owned(),
        volume_id: volume.id.clone(),
        size_gib: volume.spec.as_ref().map_or(0, |spec| spec.size_gib),
        state: pb::snapshot::State::Creating.into(),
        create_time: now,
        update_time: now,
        generation: 1,
        ..Default::default()
    };
    let place = Alternate {
        host: volume.host.clone(),
        availability_zone: volume.availability_zone.clone(),
        pool: volume.pool.clone(),
    };
    let mut record = SnapshotRecord {
        snapshot: Some(snapshot),
        alternates: vec![place],
        counted: true,
        ..Default::default()
    };
    asked.acceptance.note(&mut record.actions, Kind::Create);
    Ok(record)
}

/// Accepts a volume that is made of a snapshot, once for each request id.
pub async fn use_in(
    acceptor: &Acceptor,
    request: &Request,
    snapshots: &Records<SnapshotRecord>,
    snapshot: SnapshotId,
    volumes: &Records<VolumeRecord>,
    (id, record): (VolumeId, VolumeRecord),
) -> Result<Entry<VolumeRecord>, Error> {
    check_size(&record)?;
    for _ in 0..TRIES {
        if let Some(earlier) = acceptor.earlier(request, volumes).await? {
            return earlier.into_iter().next().ok_or_else(|| Records::<VolumeRecord>::not_found(id));
        }
        let of = snapshots.read(snapshot).await?;
        let of = of.filter(|entry| entry.record.project_id() == request.project.as_str());
        let of = of.ok_or_else(|| Records::<SnapshotRecord>::not_found(snapshot))?;
        let counted = match check_available(of.record.resource()) {
            Ok(()) => count(acceptor, &request.project, &record.usage()).await,
            Err(refusal) => Err(refusal),
        };
        let with = match counted {
            Ok(with) => with,
            Err(_) if acceptor.outrun(request).await? => continue,
            Err(refusal) => return Err(refusal),
        };
        let (key, of_key) = (volumes.db.keys.volume(id), snapshots.db.keys.snapshot(snapshot));
        let txn = Txn::new()
            .when_absent(key.clone())
            .put(key, record.encode_to_vec())
            .when(Compare::ModRevision(of_key.clone(), of.revision))
            .put(of_key, of.record.encode_to_vec())
            .and(with);
        let txn = acceptor.remember(request, vec![id.to_string()], txn);
        if let TxnOutcome::Committed { revision } = volumes.db.commit(txn).await? {
            let entry = Entry { record: std::sync::Arc::new(record), revision };
            volumes.cache.committed(id, entry.record.clone(), revision);
            return Ok(entry);
        }
    }
    Err(conflict(&format!("snapshot {snapshot}")))
}

/// Refuses a snapshot that nothing can be made of.
pub fn check_available(snapshot: &pb::Snapshot) -> Result<(), Error> {
    let state = snapshot.state();
    if state == pb::snapshot::State::Available {
        return Ok(());
    }
    let message = format!("the snapshot is {}; this needs one that is AVAILABLE", state.as_str_name());
    Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()))
}

/// A snapshot of which a volume is being made stays.
pub struct Unused<'a> {
    /// Where such volumes are.
    pub volumes: &'a Records<VolumeRecord>,
}

#[async_trait]
impl Guard<SnapshotRecord> for Unused<'_> {
    async fn may_go(&self, record: &SnapshotRecord) -> Result<(), Error> {
        check_unused(record, self.volumes).await
    }
}

async fn check_unused(record: &SnapshotRecord, volumes: &Records<VolumeRecord>) -> Result<(), Error> {
    volumes.brought_up_to_date().await?;
    let snapshot = record.resource().id.as_str();
    let is_made_of_it = |_: &VolumeId, volume: &VolumeRecord| {
        let spec = volume.resource().spec.as_ref();
        let status = volume.status();
        status.phase == Phase::Building
            && status.wanted == Wanted::Present
            && spec.is_some_and(|spec| spec.snapshot_id == snapshot)
    };
    let Some(volume) = volumes.cache.ids(is_made_of_it).into_iter().next() else { return Ok(()) };
    let message =
        format!("volume {volume} is being made of the snapshot: wait until it is there, or delete it");
    Err(Error::new(Reason::InvalidState, message).with("volume_id", volume))
}
