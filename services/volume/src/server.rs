//! `kilonova.volume.v1.VolumeService`: checks what comes over the wire and hands it to the manager.

use std::collections::BTreeMap;
use std::sync::Arc;

use kilonova_model::check::Checker;
use kilonova_model::{Attempt, Error, Generation, ProjectId, SnapshotId, VolumeId};
use kilonova_proto::volume::v1::volume_service_server::VolumeService;
use kilonova_proto::volume::v1::{
    CreateSnapshotRequest, CreateSnapshotResponse, CreateVolumeRequest, CreateVolumeResponse,
    DeleteSnapshotRequest, DeleteSnapshotResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    ExtendVolumeRequest, ExtendVolumeResponse, GetVolumeStateRequest, GetVolumeStateResponse,
    InitializeConnectionRequest, InitializeConnectionResponse, ListSnapshotsRequest, ListSnapshotsResponse,
    ListVolumesRequest, ListVolumesResponse, SetHostEnabledRequest, SetHostEnabledResponse,
    SetHostPlacementRequest, SetHostPlacementResponse, TerminateConnectionRequest,
    TerminateConnectionResponse, VolumeCommand,
};
use kilonova_rpc::server::Served;
use kilonova_rpc::status::to_status;
use kilonova_runtime::agent::capability_server::Source;
use kilonova_runtime::agent::guard::{Addressee, admit, admit_question};
use kilonova_runtime::agent::inventory::page;
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::life::Agent;
use kilonova_runtime::agent::store_memory::StoreMemory;
use tonic::{Request, Response, Status};

use crate::driver::{SnapshotOrder, VolumeOrder};
use crate::manager::Manager;
use crate::pools::Share;

/// The part of the contract that is served.
pub fn served() -> Served {
    let methods = [
        "CreateVolume",
        "DeleteVolume",
        "ExtendVolume",
        "CreateSnapshot",
        "DeleteSnapshot",
        "InitializeConnection",
        "TerminateConnection",
        "ListVolumes",
        "ListSnapshots",
        "GetVolumeState",
        "SetHostEnabled",
        "SetHostPlacement",
    ];
    Served::only("kilonova.volume.v1.VolumeService", &methods)
}

/// The service over one manager.
pub struct VolumeServer {
    manager: Arc<Manager>,
    memory: StoreMemory,
}

impl VolumeServer {
    /// Hands commands to `manager`, and remembers in `memory` how far their store has come.
    pub fn new(manager: Arc<Manager>, memory: StoreMemory) -> Self {
        Self { manager, memory }
    }

    fn admit(&self, host: &str, epoch: u64) -> Result<(), Error> {
        admit(Addressee { host, epoch }, &self.manager.site().host, self.manager.epoch())
    }

    /// Takes a command that is for this agent, once how far its store has come is written down.
    fn admit_command(&self, command: &VolumeCommand) -> Result<(), Error> {
        self.admit(&command.target_host, command.target_epoch)?;
        self.memory.told_to_make(&command.target_host, command.store_revision, &command.store_mark)
    }

    /// Takes a command for this agent to remove something.
    fn admit_removal(&self, command: &VolumeCommand) -> Result<(), Error> {
        self.admit(&command.target_host, command.target_epoch)?;
        self.memory.told_to_remove(&command.target_host, command.store_revision, &command.store_mark)
    }

    fn take_create(&self, request: CreateVolumeRequest) -> Result<(), Error> {
        let command = request.command.clone().unwrap_or_default();
        self.admit_command(&command)?;
        let (id, stamp, order) = create_order(&command, request)?;
        self.manager.create(id, stamp, order)
    }

    fn take_delete(&self, command: &VolumeCommand) -> Result<(), Error> {
        self.admit_removal(command)?;
        self.manager.delete(volume_id(command)?, stamp(command))
    }

    /// A snapshot and its volume, checked.
    fn snapshot(
        &self,
        command: &VolumeCommand,
        snapshot_id: &str,
    ) -> Result<(SnapshotId, Stamp, VolumeId), Error> {
        let mut check = Checker::new();
        let volume = check.id::<VolumeId>("command.volume_id", &command.volume_id);
        let id = check.id::<SnapshotId>("snapshot_id", snapshot_id);
        check.finish()?;
        Ok((id.expect("checked above"), stamp(command), volume.expect("checked above")))
    }

    /// The volume, checked, and the connector's host; empty when it has none.
    fn connection(
        &self,
        command: &VolumeCommand,
        connector: &BTreeMap<String, String>,
    ) -> Result<(VolumeId, Stamp, String), Error> {
        let mut check = Checker::new();
        let id = check.id::<VolumeId>("command.volume_id", &command.volume_id);
        check.finish()?;
        let host = connector.get("host").cloned().unwrap_or_default();
        Ok((id.expect("checked above"), stamp(command), host))
    }

    async fn answer_state(&self, command: &VolumeCommand) -> Result<GetVolumeStateResponse, Error> {
        let to = Addressee { host: &command.target_host, epoch: command.target_epoch };
        admit_question(to, &self.manager.site().host, self.manager.epoch())?;
        self.manager.state(volume_id(command)?).await
    }

    /// Whether a question is for this backend.
    fn admit_question(&self, host: &str, epoch: u64) -> Result<(), Error> {
        admit_question(Addressee { host, epoch }, &self.manager.site().host, self.manager.epoch())
    }

    async fn answer_volumes(&self, request: &ListVolumesRequest) -> Result<ListVolumesResponse, Error> {
        self.admit_question(&request.target_host, request.target_epoch)?;
        let all = self.manager.volumes().await?;
        let (volumes, next_page_token) = page("volumes", all, request.page_size, &request.page_token)?;
        Ok(ListVolumesResponse {
            volumes: volumes.into_iter().map(|(_, one)| one).collect(),
            next_page_token,
        })
    }

    async fn answer_snapshots(&self, request: &ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Error> {
        self.admit_question(&request.target_host, request.target_epoch)?;
        let all = self.manager.stored_snapshots().await?;
        let (snapshots, next_page_token) = page("snapshots", all, request.page_size, &request.page_token)?;
        let snapshots = snapshots.into_iter().map(|(_, one)| one).collect();
        Ok(ListSnapshotsResponse { snapshots, next_page_token })
    }
}

fn stamp(command: &VolumeCommand) -> Stamp {
    Stamp { generation: Generation(command.generation), attempt: Attempt(command.attempt) }
}

fn volume_id(command: &VolumeCommand) -> Result<VolumeId, Error> {
    let mut check = Checker::new();
    let id = check.id("command.volume_id", &command.volume_id);
    check.finish()?;
    Ok(id.expect("an id that is missing or wrong is a violation"))
}

fn create_order(
    command: &VolumeCommand,
    request: CreateVolumeRequest,
) -> Result<(VolumeId, Stamp, VolumeOrder), Error> {
    let mut check = Checker::new();
    let id = check.id::<VolumeId>("command.volume_id", &command.volume_id);
    let project = check.id::<ProjectId>("project_id", &request.project_id);
    check.ensure(command.attempt > 0, "command.attempt", "1 or more");
    check.ensure(request.spec.is_some(), "spec", "is required");
    let spec = request.spec.unwrap_or_default();
    check.ensure(spec.size_gib > 0, "spec.size_gib", "1 or more");
    check.finish()?;
    let thick = spec.extra_specs.get("provisioning:type").is_some_and(|wish| wish == "thick");
    let share = Share { pool: request.pool, size_gib: spec.size_gib, thick };
    let order = VolumeOrder { project: project.expect("checked above"), share, spec };
    Ok((id.expect("checked above"), stamp(command), order))
}

fn refused(error: Error) -> Status {
    to_status(&error)
}

#[tonic::async_trait]
impl VolumeService for VolumeServer {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        self.take_create(request.into_inner()).map_err(refused)?;
        Ok(Response::new(CreateVolumeResponse {}))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        self.take_delete(&command).map_err(refused)?;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn extend_volume(
        &self,
        request: Request<ExtendVolumeRequest>,
    ) -> Result<Response<ExtendVolumeResponse>, Status> {
        let ExtendVolumeRequest { command, size_gib } = request.into_inner();
        let command = command.unwrap_or_default();
        let taken = self
            .admit_command(&command)
            .and_then(|()| self.manager.extend(volume_id(&command)?, stamp(&command), size_gib));
        taken.map(|()| Response::new(ExtendVolumeResponse {})).map_err(refused)
    }

    async fn create_snapshot(
        &self,
        request: Request<CreateSnapshotRequest>,
    ) -> Result<Response<CreateSnapshotResponse>, Status> {
        let CreateSnapshotRequest { command, snapshot_id, name } = request.into_inner();
        let command = command.unwrap_or_default();
        let admitted = self.admit_command(&command);
        let (id, stamp, volume) =
            admitted.and_then(|()| self.snapshot(&command, &snapshot_id)).map_err(refused)?;
        let taken = self.manager.create_snapshot(id, stamp, SnapshotOrder { volume, name });
        taken.map(|()| Response::new(CreateSnapshotResponse {})).map_err(refused)
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let DeleteSnapshotRequest { command, snapshot_id } = request.into_inner();
        let command = command.unwrap_or_default();
        let admitted = self.admit_removal(&command);
        let (id, stamp, _) =
            admitted.and_then(|()| self.snapshot(&command, &snapshot_id)).map_err(refused)?;
        let taken = self.manager.delete_snapshot(id, stamp);
        taken.map(|()| Response::new(DeleteSnapshotResponse {})).map_err(refused)
    }

    async fn initialize_connection(
        &self,
        request: Request<InitializeConnectionRequest>,
    ) -> Result<Response<InitializeConnectionResponse>, Status> {
        let InitializeConnectionRequest { command, connector } = request.into_inner();
        let command = command.unwrap_or_default();
        let admitted = self.admit_command(&command);
        let (id, stamp, host) =
            admitted.and_then(|()| self.connection(&command, &connector)).map_err(refused)?;
        let mut check = Checker::new();
        check.ensure(!host.is_empty(), "connector", "needs `host`");
        check.finish().map_err(refused)?;
        let connection = self.manager.connections().connect(id, stamp, &host).await.map_err(refused)?;
        Ok(Response::new(InitializeConnectionResponse { connection }))
    }

    async fn terminate_connection(
        &self,
        request: Request<TerminateConnectionRequest>,
    ) -> Result<Response<TerminateConnectionResponse>, Status> {
        let TerminateConnectionRequest { command, connector } = request.into_inner();
        let command = command.unwrap_or_default();
        let admitted = self.admit_removal(&command);
        let (id, stamp, host) =
            admitted.and_then(|()| self.connection(&command, &connector)).map_err(refused)?;
        let host = Some(host.as_str()).filter(|host| !host.is_empty());
        self.manager.connections().disconnect(id, stamp, host).await.map_err(refused)?;
        Ok(Response::new(TerminateConnectionResponse {}))
    }

    async fn get_volume_state(
        &self,
        request: Request<GetVolumeStateRequest>,
    ) -> Result<Response<GetVolumeStateResponse>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        self.answer_state(&command).await.map(Response::new).map_err(refused)
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        self.answer_volumes(request.get_ref()).await.map(Response::new).map_err(refused)
    }

    async fn list_snapshots(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.answer_snapshots(request.get_ref()).await.map(Response::new).map_err(refused)
    }

    async fn set_host_enabled(
        &self,
        request: Request<SetHostEnabledRequest>,
    ) -> Result<Response<SetHostEnabledResponse>, Status> {
        let request = request.into_inner();
        self.admit(&request.target_host, request.target_epoch).map_err(refused)?;
        let SetHostEnabledRequest { enabled, disabled_reason, revision, .. } = request;
        self.manager.admin().set_enabled(enabled, disabled_reason, revision);
        Ok(Response::new(SetHostEnabledResponse {}))
    }

    async fn set_host_placement(
        &self,
        request: Request<SetHostPlacementRequest>,
    ) -> Result<Response<SetHostPlacementResponse>, Status> {
        let request = request.into_inner();
        self.admit(&request.target_host, request.target_epoch).map_err(refused)?;
        self.manager.admin().set_placement(request.placement.unwrap_or_default());
        self.manager.publish();
        Ok(Response::new(SetHostPlacementResponse {}))
    }
}
