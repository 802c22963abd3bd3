//! The calls a conductor makes: to schedulers, and to the agents of hosts and backends.

use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, HostName, InstanceId, Reason, ServiceKind, VolumeId};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::reboot_instance_request::RebootType;
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{
    Alternate, InstanceRecord, Move, Operation, Receipt, SnapshotRecord, VolumeRecord,
};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::Desired;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_store::Txn;
use tonic::Request;

use crate::connections::{fence_volumes, refused};
use crate::history::step_name;
use crate::moves;
use crate::operations::hosts_part;
use crate::placed::{Placed, Site};
use crate::records::Records;

/// The longest a scheduler may think.
const SELECT_DEADLINE: Duration = Duration::from_secs(5);
/// The longest an agent may take to accept a command.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// What a scheduler answered.
#[derive(Debug)]
pub struct Selected {
    /// The places, best first; none when there is none.
    pub places: Vec<Alternate>,
    /// Why.
    pub explanation: pb::PlacementExplanation,
}

/// What a server group asks of a place, on top of what the record itself asks.
#[derive(Debug, Default)]
pub struct GroupWish {
    /// Its rule, and the hosts of its other members.
    pub hosts: Option<scheduler::GroupHosts>,
    /// Hosts that a scheduler named and the rule does not allow.
    pub broken: Vec<String>,
}

impl GroupWish {
    /// The one host it leaves.
    fn only(&self) -> Option<&str> {
        let group = self.hosts.as_ref().filter(|group| group.policy() == Policy::Affinity)?;
        group.hosts.first().map(|host| host.host.as_str())
    }
}

/// How records of one type are placed, built and removed.
#[async_trait]
pub trait Agents<P: Placed>: Send + Sync + 'static {
    /// Asks a scheduler where.
    async fn select(
        &self,
        id: P::Id,
        record: &P,
        alternates: u32,
        group: &GroupWish,
    ) -> Result<Selected, CallError>;
    /// Has a host build it.
    async fn build(&self, id: P::Id, record: &P, at: &Site, epoch: Epoch) -> Result<(), CallError>;
    /// Has a host do its part of an operation.
    async fn operate(
        &self,
        id: P::Id,
        record: &P,
        operation: &Operation,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError>;
    /// Does what others have to do once the host did its part, and gives what has to be stored with its end.
    async fn conclude(&self, id: P::Id, record: &P, operation: &Operation) -> Result<Txn, CallError>;
    /// Has others let go of what a record holds that is about to be gone, and gives what has to be stored with that.
    /// Without `ask` they are not asked, only freed in the store: nobody is left who could use it.
    async fn let_go(&self, id: P::Id, record: &P, ask: bool) -> Result<Txn, CallError>;
    /// Has a host remove what it may hold.
    async fn terminate(
        &self,
        id: P::Id,
        record: &P,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError>;
}

/// The calls over the network.
#[derive(Clone)]
pub struct Callers {
    /// The channels.
    pub peers: Peers,
    /// Where the instances are that a wish names.
    pub instances: Records<InstanceRecord>,
    /// Where the volumes are that instances have.
    pub volumes: Records<VolumeRecord>,
    /// Where the snapshots are that volumes are made of.
    pub snapshots: Records<SnapshotRecord>,
}

pub(crate) fn within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Names one decision or command, the same for every repetition of it.
pub(crate) fn step_id(id: impl std::fmt::Display, generation: u64, attempt: u32, step: &str) -> String {
    format!("{id}-{generation}-{attempt}-{step}")
}

/// A command to a host about an instance.
fn command(id: InstanceId, generation: u64, at: &Site, epoch: Epoch, step: &str) -> compute::InstanceCommand {
    compute::InstanceCommand {
        instance_id: id.to_string(),
        generation,
        attempt: at.attempt,
        target_host: at.host.clone(),
        target_epoch: epoch.0,
        request_id: step_id(id, generation, at.attempt, step),
    }
}

/// Whether its user wants it shut down.
fn stopped(instance: &pb::Instance) -> bool {
    instance.desired() == Desired::Stopped
}

/// A record written by a newer version, or a defect.
pub(crate) fn no_such_operation(kind: Kind) -> CallError {
    let message = format!("this version does not know the operation {}", kind.as_str_name());
    let error = Error::new(Reason::MethodNotImplemented, message);
    classify(kilonova_rpc::status::to_status(&error))
}

fn places(best: Option<scheduler::SelectedHost>, rest: Vec<scheduler::SelectedHost>) -> Vec<Alternate> {
    let place = |selected: scheduler::SelectedHost| Alternate {
        host: selected.host,
        availability_zone: selected.availability_zone,
        pool: selected.pool,
    };
    best.into_iter().chain(rest).map(place).collect()
}

impl Callers {
    /// Says in hosts what the user said in instances: a scheduler knows hosts only. An instance that has no host yet
    /// excludes none; one that is to be joined and has no host leaves no place.
    fn resolve(&self, mut hints: pb::SchedulerHints, excluded: &mut Vec<String>) -> pb::SchedulerHints {
        let host_of = |id: &String| {
            let entry = self.instances.cache.get(&id.parse().ok()?)?;
            Some(entry.record.resource().host.clone()).filter(|host| !host.is_empty())
        };
        excluded.extend(hints.different_host.iter().filter_map(host_of));
        if let Some(joined) = hints.same_host.first() {
            match host_of(joined) {
                Some(host) if hints.force_host.is_empty() || hints.force_host == host => {
                    hints.force_host = host
                }
                _ => excluded.extend(
                    self.peers
                        .registry()
                        .members(ServiceKind::Compute)
                        .current()
                        .members
                        .keys()
                        .map(ToString::to_string),
                ),
            }
        }
        hints.different_host.clear();
        hints.same_host.clear();
        hints.server_group_id.clear();
        hints
    }

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
            _ => {
                let request = compute::TakeBackInstanceRequest { command, stopped };
                client.take_back_instance(within(request, COMMAND_DEADLINE)).await.map(drop)
            }
        }
    }

    /// The backend a snapshot is on.
    async fn host_of(&self, snapshot_id: &str) -> Result<String, CallError> {
        let gone = || {
            let message = format!("snapshot {snapshot_id} is gone");
            refused(&Error::new(Reason::SnapshotNotFound, message).with("snapshot_id", snapshot_id))
        };
        let id = snapshot_id.parse().map_err(|_| gone())?;
        let entry = self.snapshots.get(id).await.map_err(|error| refused(&error))?;
        let host = entry.map(|entry| entry.record.resource().host.clone()).unwrap_or_default();
        if host.is_empty() { Err(gone()) } else { Ok(host) }
    }

    /// Where a compute host listens; empty while it is not registered.
    fn address(&self, host: &str) -> String {
        let members = self.peers.registry().members(ServiceKind::Compute).current();
        let member = HostName::parse(host).ok().and_then(|host| members.callable(&host).cloned());
        member.map(|member| member.addr.clone()).unwrap_or_default()
    }

    /// The channel for work to one incarnation of a host. A name that is none belongs to no host.
    pub(crate) fn host(&self, service: ServiceKind, host: &str, epoch: Epoch) -> Result<Channel, CallError> {
        let host = HostName::parse(host).map_err(|error| {
            let error = Error::new(Reason::NoSuchHost, error.to_string());
            classify(kilonova_rpc::status::to_status(&error))
        })?;
        Ok(self.peers.cast_host(service, &host).at(epoch))
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
        let instance = record.resource();
        let spec = instance.spec.clone().unwrap_or_default();
        let mut excluded_hosts = record.tried_hosts.clone();
        excluded_hosts.extend(group.broken.iter().cloned());
        excluded_hosts.extend(moves::leaves(record));
        let mut hints = self.resolve(spec.hints.unwrap_or_default(), &mut excluded_hosts);
        if let Some(target) = moves::target(record) {
            target.clone_into(&mut hints.force_host);
        }
        if let Some(host) = group.only().filter(|_| hints.force_host.is_empty()) {
            host.clone_into(&mut hints.force_host);
        }
        let request = scheduler::SelectHostsRequest {
            request_id: step_id(id, instance.generation, record.next_attempt(), "select"),
            flavor: moves::flavor_to_be(record).cloned(),
            image: record.image.clone(),
            availability_zone: spec.availability_zone,
            count: 1,
            alternates,
            excluded_hosts,
            hints: Some(hints),
            project_id: instance.project_id.clone(),
            dry_run: false,
            server_group: group.hosts.clone(),
        };
        let mut client = SchedulerServiceClient::new(self.peers.call(ServiceKind::Scheduler));
        let answer =
            client.select_hosts(within(request, SELECT_DEADLINE)).await.map_err(classify)?.into_inner();
        let selection = answer.selections.into_iter().next().unwrap_or_default();
        Ok(Selected {
            places: places(selection.host, selection.alternates),
            explanation: answer.explanation.unwrap_or_default(),
        })
    }

    async fn build(
        &self,
        id: InstanceId,
        record: &InstanceRecord,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let instance = record.resource();
        let mut volumes = Vec::with_capacity(instance.attachments.len());
        for attachment in &instance.attachments {
            let pb::Attachment { volume_id, device, .. } = attachment.clone();
            let connection = self.connect(&volume_id, &at.host).await?;
            volumes.push(compute::BlockDevice { volume_id, device, connection });
        }
        let request = compute::BuildInstanceRequest {
            command: Some(command(id, instance.generation, at, epoch, "build")),
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
        record: &InstanceRecord,
        operation: &Operation,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let instance = record.resource();
        let kind = hosts_part(operation);
        let command = Some(command(id, operation.generation, at, epoch, step_name(kind)));
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, &at.host, epoch)?);
        let taken = match kind {
            _ if operation.r#move.is_some() => {
                let (way, live) = (operation.r#move.clone().unwrap_or_default(), kind == Kind::LiveMigrate);
                self.do_part(&mut client, command, &way, live, stopped(instance)).await
            }
            Kind::Rebuild => {
                let request = compute::RebuildInstanceRequest { command, image: operation.image.clone() };
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
                let connection = self.connect(&volume_id, &at.host).await?;
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
        record: &InstanceRecord,
        operation: &Operation,
    ) -> Result<Txn, CallError> {
        let left = moves::left_behind(record);
        for host in &left {
            for attachment in &record.resource().attachments {
                self.disconnect(&attachment.volume_id, Some(host)).await?;
            }
        }
        let attached = match hosts_part(operation) {
            Kind::AttachVolume => true,
            Kind::DetachVolume => false,
            _ if left.is_empty() => return Ok(Txn::new()),
            _ => {
                let fenced = fence_volumes(&self.volumes, record.resource()).await;
                return fenced.map_err(|error| refused(&error));
            }
        };
        if !attached {
            self.disconnect(&operation.volume_id, None).await?;
        }
        self.settle_volume(Txn::new(), id, &operation.volume_id, attached).await
    }

    async fn let_go(&self, id: InstanceId, record: &InstanceRecord, ask: bool) -> Result<Txn, CallError> {
        let instance = record.resource();
        let mut txn = Txn::new();
        for attachment in &instance.attachments {
            if ask {
                self.disconnect(&attachment.volume_id, None).await?;
            }
            txn = self.settle_volume(txn, id, &attachment.volume_id, false).await?;
        }
        Ok(txn)
    }

    async fn terminate(
        &self,
        id: InstanceId,
        record: &InstanceRecord,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let at = Site { host: receipt.host.clone(), attempt: receipt.attempt };
        let command = command(id, record.resource().generation, &at, epoch, "terminate");
        let request = compute::TerminateInstanceRequest { command: Some(command) };
        let mut client = ComputeServiceClient::new(self.host(ServiceKind::Compute, &receipt.host, epoch)?);
        client.terminate_instance(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
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
        let mut spec = volume.spec.clone().unwrap_or_default();
        if !spec.snapshot_id.is_empty() {
            // As in Cinder by default: where the snapshot is.
            spec.hints.get_or_insert_default().force_host = self.host_of(&spec.snapshot_id).await?;
        }
        let request = scheduler::SelectBackendsRequest {
            request_id: step_id(id, volume.generation, volume.attempt + 1, "select"),
            volume: Some(spec),
            count: 1,
            alternates,
            excluded_backends: record.tried_hosts.clone(),
            project_id: volume.project_id.clone(),
            dry_run: false,
        };
        let mut client = SchedulerServiceClient::new(self.peers.call(ServiceKind::Scheduler));
        let answer =
            client.select_backends(within(request, SELECT_DEADLINE)).await.map_err(classify)?.into_inner();
        let selection = answer.selections.into_iter().next().unwrap_or_default();
        Ok(Selected {
            places: places(selection.backend, selection.alternates),
            explanation: answer.explanation.unwrap_or_default(),
        })
    }

    async fn build(
        &self,
        id: VolumeId,
        record: &VolumeRecord,
        _: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let resource = record.resource();
        let command = volume::VolumeCommand {
            volume_id: id.to_string(),
            generation: resource.generation,
            attempt: resource.attempt,
            target_host: resource.host.clone(),
            target_epoch: epoch.0,
            request_id: step_id(id, resource.generation, resource.attempt, "build"),
        };
        let request = volume::CreateVolumeRequest {
            command: Some(command),
            project_id: resource.project_id.clone(),
            spec: resource.spec.clone(),
            pool: resource.pool.clone(),
        };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &resource.host, epoch)?);
        client.create_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn operate(
        &self,
        id: VolumeId,
        record: &VolumeRecord,
        operation: &Operation,
        _: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let (resource, kind) = (record.resource(), operation.kind());
        if kind != Kind::Extend {
            return Err(no_such_operation(kind));
        }
        let command = volume::VolumeCommand {
            volume_id: id.to_string(),
            generation: operation.generation,
            attempt: resource.attempt,
            target_host: resource.host.clone(),
            target_epoch: epoch.0,
            request_id: step_id(id, operation.generation, resource.attempt, step_name(kind)),
        };
        let request = volume::ExtendVolumeRequest { command: Some(command), size_gib: operation.size_gib };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &resource.host, epoch)?);
        client.extend_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    async fn conclude(&self, _: VolumeId, _: &VolumeRecord, _: &Operation) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn let_go(&self, _: VolumeId, _: &VolumeRecord, _: bool) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn terminate(
        &self,
        id: VolumeId,
        record: &VolumeRecord,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError> {
        let generation = record.resource().generation;
        let command = volume::VolumeCommand {
            volume_id: id.to_string(),
            generation,
            attempt: receipt.attempt,
            target_host: receipt.host.clone(),
            target_epoch: epoch.0,
            request_id: step_id(id, generation, receipt.attempt, "terminate"),
        };
        let request = volume::DeleteVolumeRequest { command: Some(command) };
        let mut client = VolumeServiceClient::new(self.host(ServiceKind::Volume, &receipt.host, epoch)?);
        client.delete_volume(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }
}
