//! The calls for snapshots: each is a command to its volume's backend about the volume.

use std::time::SystemTime;

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Epoch, ServiceKind, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{Operation, Receipt, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_store::Txn;

use super::{
    Agents, COMMAND_DEADLINE, Callers, GroupWish, Selected, no_such_operation, refused, step_id, within,
};
use crate::cache::Entry;
use crate::placed::{Placed, Site};

impl Callers {
    fn snapshot_command(
        &self,
        id: SnapshotId,
        entry: &Entry<SnapshotRecord>,
        at: &Site,
        epoch: Epoch,
        step: &str,
    ) -> Result<(VolumeServiceClient<Channel>, volume::VolumeCommand), CallError> {
        let (snapshot, told) = (entry.record.resource(), self.told(entry.revision));
        let command = volume::VolumeCommand {
            volume_id: snapshot.volume_id.clone(),
            generation: snapshot.generation,
            attempt: at.attempt,
            target_host: at.host.clone(),
            target_epoch: epoch.0,
            request_id: step_id(id, snapshot.generation, at.attempt, step),
            store_revision: told.revision,
            store_mark: told.mark,
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
        entry: &Entry<SnapshotRecord>,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let (mut client, command) = self.snapshot_command(id, entry, at, epoch, "snapshot")?;
        let (snapshot_id, name) = (id.to_string(), entry.record.resource().name.clone());
        let request = volume::CreateSnapshotRequest { command: Some(command), snapshot_id, name };
        client.create_snapshot(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn operate(
        &self,
        _: SnapshotId,
        _: &Entry<SnapshotRecord>,
        operation: &Operation,
        _: &Site,
        _: Epoch,
    ) -> Result<(), CallError> {
        Err(no_such_operation(operation.kind()))
    }

    async fn conclude(
        &self,
        _: SnapshotId,
        _: &Entry<SnapshotRecord>,
        _: &Operation,
    ) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    /// Its volume forgets it.
    async fn let_go(
        &self,
        id: SnapshotId,
        snapshot: &Entry<SnapshotRecord>,
        _: bool,
    ) -> Result<Txn, CallError> {
        let Ok(volume) = snapshot.record.resource().volume_id.parse::<VolumeId>() else {
            return Ok(Txn::new());
        };
        let Some(entry) = self.volumes.read(volume).await.map_err(|error| refused(&error))? else {
            return Ok(Txn::new());
        };
        let mut of = VolumeRecord::clone(&entry.record);
        of.snapshot_ids.retain(|one| *one != id.to_string());
        of.volume.get_or_insert_default().update_time = Some(timestamp(SystemTime::now()));
        Ok(self.volumes.put(volume, &entry, &of))
    }

    async fn terminate(
        &self,
        id: SnapshotId,
        entry: &Entry<SnapshotRecord>,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let at = Site { host: receipt.host.clone(), attempt: receipt.attempt };
        let (mut client, command) = self.snapshot_command(id, entry, &at, epoch, "delete_snapshot")?;
        let request = volume::DeleteSnapshotRequest { command: Some(command), snapshot_id: id.to_string() };
        client.delete_snapshot(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }
}
