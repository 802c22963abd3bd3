//! The calls for instances.

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, HostName, InstanceId, Reason, ServiceKind};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::reboot_instance_request::RebootType;
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Move, Operation, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{Desired, PowerState};
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_store::Txn;

use super::connections::Decided;
use super::{
    Agents, COMMAND_DEADLINE, Callers, GroupWish, Selected, Told, disk_gib, no_such_operation, places,
    step_id, within,
};
use crate::cache::Entry;
use crate::engine::behind::Behind;
use crate::history::step_name;
use crate::moves;
use crate::operations::hosts_part;
use crate::placed::{Placed, Site};
use crate::shards::Fence;

/// A command to a host about an instance.
pub(crate) fn command(
    id: InstanceId,
    generation: u64,
    at: &Site,
    epoch: Epoch,
    step: &str,
    told: Told,
) -> compute::InstanceCommand {
    compute::InstanceCommand {
        instance_id: id.to_string(),
        generation,
        attempt: at.attempt,
        target_host: at.host.clone(),
        target_epoch: epoch.0,
        request_id: step_id(id, generation, at.attempt, step),
        store_revision: told.revision,
        store_mark: told.mark,
    }
}

/// Whether its user wants it shut down.
fn stopped(instance: &pb::Instance) -> bool {
    instance.desired() == Desired::Stopped
}

impl Callers {
    /// Has a host do its part in a guest's way to another.
    async fn do_part(
        &self,
        client: &mut ComputeServiceClient<Channel>,
        command: Option<compute::InstanceCommand>,
        way: &Move,
        live: bool,
        stopped: bool,
    ) -> Result<(), tonic::Status> {
        let (source, destination) =
            (way.source.clone().unwrap_or_default(), way.destination.clone().unwrap_or_default());
        match way.step() {
            Step::HandOver => {
                let destination_address = self.address(&destination.host);
                let destination_host = destination.host;
                let request =
                    compute::HandOverInstanceRequest { command, destination_host, destination_address, live };
                client.hand_over_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Step::TakeOver => {
                let source_host = source.host;
                let request = compute::TakeOverInstanceRequest { command, source_host, stopped, live };
                client.take_over_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Step::LetGo | Step::LetGoAgain => {
                // It is shut down where it is; whoever runs it next has a copy of its own.
                let to = if way.step() == Step::LetGo { source.host } else { destination.host };
                let destination_address = self.address(&to);
                let request = compute::HandOverInstanceRequest {
                    command,
                    destination_host: to,
                    destination_address,
                    live: false,
                };
                client.hand_over_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            _ => {
                let request = compute::TakeBackInstanceRequest { command, stopped };
                client.take_back_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
        }
    }

    /// Where a compute host listens; empty while it is not registered.
    fn address(&self, host: &str) -> String {
        let members = self.peers.registry().members(ServiceKind::Compute).current();
        let member = HostName::parse(host).ok().and_then(|host| members.callable(&host).cloned());
        member.map(|member| member.addr.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl Agents<InstanceRecord> for Callers {
    async fn select(
        &self,
        id: InstanceId,
        record: &InstanceRecord,
        alternates: u32,
        group: &GroupWish,
    ) -> Result<Selected, CallError> {
        let request_id = step_id(id, record.resource().generation, record.next_attempt(), "select");
        let answer = self.select_hosts(self.hosts_request(request_id, record, alternates, group)).await?;
        let selection = answer.selections.into_iter().next().unwrap_or_default();
        Ok(Selected {
            places: places(selection.host, selection.alternates),
            explanation: answer.explanation.unwrap_or_default(),
        })
    }

    async fn build(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let record = &*entry.record;
        let instance = record.resource();
        let mut volumes = Vec::with_capacity(instance.attachments.len());
        for attachment in &instance.attachments {
            let pb::Attachment { volume_id, device, .. } = attachment.clone();
            let connection = self.connect(Decided::on(id, entry), &volume_id, &at.host).await?;
            volumes.push(compute::BlockDevice { volume_id, device, connection });
        }
        let request = compute::BuildInstanceRequest {
            command: Some(command(id, instance.generation, at, epoch, "build", self.told(entry.revision))),
            project_id: instance.project_id.clone(),
            spec: instance.spec.clone(),
            flavor: moves::flavor_to_be(record).cloned(),
            image: record.image.clone(),
            volumes,
            stopped: stopped(instance),
            incoming: moves::is_preparing(record),
        };
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, &at.host, epoch)?);
        client.build_instance(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn operate(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        operation: &Operation,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let instance = entry.record.resource();
        let kind = hosts_part(operation);
        let command =
            Some(command(id, operation.generation, at, epoch, step_name(kind), self.told(entry.revision)));
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, &at.host, epoch)?);
        let taken = match kind {
            _ if operation.r#move.is_some() => {
                let (way, live) = (operation.r#move.clone().unwrap_or_default(), kind == Kind::LiveMigrate);
                self.do_part(&mut client, command, &way, live, stopped(instance)).await
            }
            Kind::Rebuild => {
                let image = operation.image.clone();
                let flavor = instance.flavor.clone().unwrap_or_default();
                let disk_gib = image.as_ref().map_or(0, |image| disk_gib(&flavor, image));
                let request = compute::RebuildInstanceRequest { command, image, disk_gib };
                client.rebuild_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Kind::Start => {
                let request = compute::StartInstanceRequest { command };
                client.start_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Kind::Stop => {
                let request = compute::StopInstanceRequest { command };
                client.stop_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Kind::Reboot => {
                let how = if operation.hard { RebootType::Hard } else { RebootType::Soft };
                let request = compute::RebootInstanceRequest { command, r#type: how.into() };
                client.reboot_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Kind::AttachVolume => {
                let volume_id = operation.volume_id.clone();
                let of_it = |one: &&pb::Attachment| one.volume_id == volume_id;
                let device = instance.attachments.iter().find(of_it).map(|one| one.device.clone());
                let connection = self.connect(Decided::on(id, entry), &volume_id, &at.host).await?;
                let device = device.unwrap_or_default();
                let request = compute::AttachVolumeRequest { command, volume_id, device, connection };
                client.attach_volume(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            Kind::DetachVolume => {
                let request =
                    compute::DetachVolumeRequest { command, volume_id: operation.volume_id.clone() };
                client.detach_volume(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
            _ => return Err(no_such_operation(kind)),
        };
        taken.map_err(classify)
    }

    async fn conclude(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        operation: &Operation,
    ) -> Result<Txn, CallError> {
        let (record, decided) = (&*entry.record, Decided::on(id, entry));
        let left = moves::left_behind(record);
        let mut txn = Txn::new();
        for host in &left {
            for attachment in &record.resource().attachments {
                txn = txn.and(self.disconnect(decided, &attachment.volume_id, Some(host)).await?);
            }
        }
        let undone = operation.undo_cause.is_some();
        let attached = match operation.kind() {
            Kind::AttachVolume => !undone,
            Kind::DetachVolume => undone,
            Kind::Evacuate => return self.fence_volumes(txn, id, record.resource(), true).await,
            _ if left.is_empty() => return Ok(txn),
            _ => return self.fence_volumes(txn, id, record.resource(), false).await,
        };
        if !attached {
            txn = txn.and(self.disconnect(decided, &operation.volume_id, None).await?);
        }
        self.settle_volume(txn, id, &operation.volume_id, attached).await
    }

    async fn let_go(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        ask: bool,
    ) -> Result<Txn, CallError> {
        let instance = entry.record.resource();
        let mut txn = Txn::new();
        for attachment in &instance.attachments {
            if ask {
                let decided = Decided::on(id, entry);
                txn = txn.and(self.disconnect(decided, &attachment.volume_id, None).await?);
            }
            txn = self.settle_volume(txn, id, &attachment.volume_id, false).await?;
        }
        Ok(txn)
    }

    async fn has(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        host: &str,
        epoch: Epoch,
    ) -> Result<Option<bool>, CallError> {
        let record = &entry.record;
        let at = Site { host: host.to_owned(), attempt: 0 };
        let command =
            command(id, record.resource().generation, &at, epoch, "state", self.told(entry.revision));
        let request = compute::GetInstanceStateRequest { command: Some(command) };
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, host, epoch)?);
        let answer = client.get_instance_state(within(request, COMMAND_DEADLINE)).await.map_err(classify);
        let state = match answer {
            Ok(state) => state.into_inner(),
            Err(error) if error.error().is_some_and(|error| error.reason == Reason::InstanceNotFound) => {
                return Ok(Some(false));
            }
            Err(error) => return Err(error),
        };
        let known = state.power_state() != PowerState::Unspecified;
        let told = |receipt: &Receipt| receipt.host == host && receipt.attempt == state.attempt;
        Ok(match state.busy {
            true => known.then_some(true),
            false => Some(known && state.fault.is_none() && record.receipts.iter().any(told)),
        })
    }

    async fn continue_after(&self, behind: &Behind, fence: &Fence) -> Result<bool, Error> {
        self.continue_volume(behind, fence).await
    }

    async fn terminate(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
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
        let request = compute::TerminateInstanceRequest { command: Some(command) };
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, &receipt.host, epoch)?);
        client.terminate_instance(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }
}
