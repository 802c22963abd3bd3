//! Snapshots, as a user asks for them, and the calls that make and remove them.
//!
//! A snapshot is accepted in one transaction with its volume, which remembers it: a volume that has snapshots is not deleted.
//! Its end takes it off the volume again.

use std::time::SystemTime;

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Epoch, Error, Reason, ServiceKind, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{Alternate, Operation, Receipt, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::accept::{Acceptor, Request};
use crate::agents::{Agents, COMMAND_DEADLINE, Callers, GroupWish, Selected, step_id, within};
use crate::cache::Entry;
use crate::connections::refused;
use crate::db::conflict;
use crate::once::count;
use crate::placed::{Placed, Site};
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
        let record = begin(id, &volume.record, asked)?;
        let with = count(acceptor, &request.project, &record.usage()).await?;
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

impl Callers {
    fn snapshot_command(
        &self,
        id: SnapshotId,
        record: &SnapshotRecord,
        at: &Site,
        epoch: Epoch,
        step: &str,
    ) -> Result<(VolumeServiceClient<kilonova_rpc::peers::Channel>, volume::VolumeCommand), CallError> {
        let snapshot = record.resource();
        let command = volume::VolumeCommand {
            volume_id: snapshot.volume_id.clone(),
            generation: snapshot.generation,
            attempt: at.attempt,
            target_host: at.host.clone(),
            target_epoch: epoch.0,
            request_id: step_id(id, snapshot.generation, at.attempt, step),
        };
        Ok((VolumeServiceClient::new(self.host(ServiceKind::Volume, &at.host, epoch)?), command))
    }
}

#[async_trait]
impl Agents<SnapshotRecord> for Callers {
    /// Its place is that of its volume, and was tried.
    async fn select(
        &self,
        _: SnapshotId,
        _: &SnapshotRecord,
        _: u32,
        _: &GroupWish,
    ) -> Result<Selected, CallError> {
        Ok(Selected { places: Vec::new(), explanation: pb::PlacementExplanation::default() })
    }

    async fn build(
        &self,
        id: SnapshotId,
        record: &SnapshotRecord,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let (mut client, command) = self.snapshot_command(id, record, at, epoch, "snapshot")?;
        let (snapshot_id, name) = (id.to_string(), record.resource().name.clone());
        let request = volume::CreateSnapshotRequest { command: Some(command), snapshot_id, name };
        client.create_snapshot(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn operate(
        &self,
        _: SnapshotId,
        _: &SnapshotRecord,
        operation: &Operation,
        _: &Site,
        _: Epoch,
    ) -> Result<(), CallError> {
        Err(crate::agents::no_such_operation(operation.kind()))
    }

    async fn conclude(&self, _: SnapshotId, _: &SnapshotRecord, _: &Operation) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    /// Its volume forgets it.
    async fn let_go(&self, id: SnapshotId, record: &SnapshotRecord, _: bool) -> Result<Txn, CallError> {
        let Ok(volume) = record.resource().volume_id.parse::<VolumeId>() else { return Ok(Txn::new()) };
        let Some(entry) = self.volumes.read(volume).await.map_err(|error| refused(&error))? else {
            return Ok(Txn::new());
        };
        let mut of = VolumeRecord::clone(&entry.record);
        of.snapshot_ids.retain(|one| *one != id.to_string());
        of.volume.get_or_insert_default().update_time = Some(timestamp(SystemTime::now()));
        let key = VolumeRecord::key(&self.volumes.db.keys, volume);
        Ok(Txn::new().when(Compare::ModRevision(key.clone(), entry.revision)).put(key, of.encode_to_vec()))
    }

    async fn terminate(
        &self,
        id: SnapshotId,
        record: &SnapshotRecord,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let at = Site { host: receipt.host.clone(), attempt: receipt.attempt };
        let (mut client, command) = self.snapshot_command(id, record, &at, epoch, "delete_snapshot")?;
        let request = volume::DeleteSnapshotRequest { command: Some(command), snapshot_id: id.to_string() };
        client.delete_snapshot(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }
}
