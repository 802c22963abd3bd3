//! Snapshots, as a user asks for them.
//!
//! A snapshot is accepted in one transaction with its volume, which remembers it: a volume that has snapshots is not deleted.
//! Its end takes it off the volume again.

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
use crate::placed::Placed;
use crate::records::Records;
use crate::requests::Acceptance;

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
