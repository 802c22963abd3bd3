//! The calls for volumes.

use async_trait::async_trait;
use kilonova_model::{Epoch, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::{Operation, Receipt, VolumeRecord};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_store::Txn;

use super::{
    Agents, COMMAND_DEADLINE, Callers, GroupWish, Selected, Told, no_such_operation, places, step_id, within,
};
use crate::cache::Entry;
use crate::history::step_name;
use crate::placed::{Placed, Site};

/// A command to a backend about a volume.
pub(crate) fn command(
    id: impl std::fmt::Display,
    generation: u64,
    at: &Site,
    epoch: Epoch,
    step: &str,
    told: Told,
) -> volume::VolumeCommand {
    volume::VolumeCommand {
        volume_id: id.to_string(),
        generation,
        attempt: at.attempt,
        target_host: at.host.clone(),
        target_epoch: epoch.0,
        request_id: step_id(&id, generation, at.attempt, step),
        store_revision: told.revision,
        store_mark: told.mark,
    }
}

#[async_trait]
impl Agents<VolumeRecord> for Callers {
    async fn select(
        &self,
        id: VolumeId,
        record: &VolumeRecord,
        alternates: u32,
        _: &GroupWish,
    ) -> Result<Selected, CallError> {
        let volume = record.resource();
        let request_id = step_id(id, volume.generation, volume.attempt + 1, "select");
        let answer =
            self.select_backends(self.backends_request(request_id, record, alternates).await?).await?;
        let selection = answer.selections.into_iter().next().unwrap_or_default();
        Ok(Selected {
            places: places(selection.backend, selection.alternates),
            explanation: answer.explanation.unwrap_or_default(),
        })
    }

    async fn build(
        &self,
        id: VolumeId,
        entry: &Entry<VolumeRecord>,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let resource = entry.record.resource();
        let request = volume::CreateVolumeRequest {
            command: Some(command(id, resource.generation, at, epoch, "build", self.told(entry.revision))),
            project_id: resource.project_id.clone(),
            spec: resource.spec.clone(),
            pool: resource.pool.clone(),
        };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &at.host, epoch)?);
        client.create_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn operate(
        &self,
        id: VolumeId,
        entry: &Entry<VolumeRecord>,
        operation: &Operation,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let kind = operation.kind();
        if kind != Kind::Extend {
            return Err(no_such_operation(kind));
        }
        let command =
            Some(command(id, operation.generation, at, epoch, step_name(kind), self.told(entry.revision)));
        let request = volume::ExtendVolumeRequest { command, size_gib: operation.size_gib };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &at.host, epoch)?);
        client.extend_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn conclude(&self, _: VolumeId, _: &Entry<VolumeRecord>, _: &Operation) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn let_go(&self, _: VolumeId, _: &Entry<VolumeRecord>, _: bool) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn terminate(
        &self,
        id: VolumeId,
        entry: &Entry<VolumeRecord>,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let at = Site { host: receipt.host.clone(), attempt: receipt.attempt };
        let command = command(
            id,
            entry.record.resource().generation,
            &at,
            epoch,
            "terminate",
            self.told(entry.revision),
        );
        let request = volume::DeleteVolumeRequest { command: Some(command) };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &receipt.host, epoch)?);
        client.delete_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }
}
