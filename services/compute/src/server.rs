//! `kilonova.compute.v1.ComputeService`: checks what comes over the wire and hands it to the manager.

use std::sync::Arc;

use kilonova_model::check::{self, Checker};
use kilonova_model::{Attempt, Error, Generation, InstanceId, ProjectId, VolumeId};
use kilonova_proto::compute::v1::compute_service_server::ComputeService;
use kilonova_proto::compute::v1::reboot_instance_request::RebootType;
use kilonova_proto::compute::v1::{
    AttachVolumeRequest, AttachVolumeResponse, BlockDevice, BuildInstanceRequest, BuildInstanceResponse,
    DetachVolumeRequest, DetachVolumeResponse, GetInstanceStateRequest, GetInstanceStateResponse,
    HandOverInstanceRequest, HandOverInstanceResponse, InstanceCommand, ListGuestsRequest,
    ListGuestsResponse, RebootInstanceRequest, RebootInstanceResponse, RebuildInstanceRequest,
    RebuildInstanceResponse, SetHostEnabledRequest, SetHostEnabledResponse, SetHostPlacementRequest,
    SetHostPlacementResponse, StartInstanceRequest, StartInstanceResponse, StopInstanceRequest,
    StopInstanceResponse, TakeBackInstanceRequest, TakeBackInstanceResponse, TakeOverInstanceRequest,
    TakeOverInstanceResponse, TerminateInstanceRequest, TerminateInstanceResponse,
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

use crate::driver::{Begins, Device, GuestAct, GuestSpec, Move, PowerAct, Rebuild};
use crate::manager::Manager;
use crate::share::{Amount, Share};

/// The part of the contract that is served.
pub fn served() -> Served {
    let methods = [
        "BuildInstance",
        "TerminateInstance",
        "StartInstance",
        "StopInstance",
        "RebootInstance",
        "AttachVolume",
        "DetachVolume",
        "RebuildInstance",
        "HandOverInstance",
        "TakeOverInstance",
        "TakeBackInstance",
        "GetInstanceState",
        "ListGuests",
        "SetHostEnabled",
        "SetHostPlacement",
    ];
    Served::only("kilonova.compute.v1.ComputeService", &methods)
}

/// The service over one manager.
pub struct ComputeServer {
    manager: Arc<Manager>,
    memory: StoreMemory,
}

impl ComputeServer {
    /// Hands commands to `manager`, and remembers in `memory` how far their store has come.
    pub fn new(manager: Arc<Manager>, memory: StoreMemory) -> Self {
        Self { manager, memory }
    }

    fn admit(&self, host: &str, epoch: u64) -> Result<(), Error> {
        admit(Addressee { host, epoch }, &self.manager.site().host, self.manager.epoch())
    }

    /// Takes a command that is for this agent, once how far its store has come is written down.
    fn admit_command(&self, command: &InstanceCommand) -> Result<(), Error> {
        self.admit(&command.target_host, command.target_epoch)?;
        self.memory.told_to_make(&command.target_host, command.store_revision, &command.store_mark)
    }

    /// Takes a command for this agent to remove something.
    fn admit_removal(&self, command: &InstanceCommand) -> Result<(), Error> {
        self.admit(&command.target_host, command.target_epoch)?;
        self.memory.told_to_remove(&command.target_host, command.store_revision, &command.store_mark)
    }

    fn take_build(&self, request: BuildInstanceRequest) -> Result<(), Error> {
        let command = request.command.clone().unwrap_or_default();
        self.admit_command(&command)?;
        let (id, stamp, spec) = build_order(command, request)?;
        self.manager.build(id, stamp, spec)
    }

    fn take_terminate(&self, command: &InstanceCommand) -> Result<(), Error> {
        self.admit_removal(command)?;
        self.manager.terminate(instance_id(command)?, stamp(command))
    }

    fn take_act(
        &self,
        command: Option<InstanceCommand>,
        act: impl FnOnce() -> Result<GuestAct, Error>,
    ) -> Result<(), Status> {
        let command = command.unwrap_or_default();
        let taken = self
            .admit_command(&command)
            .and_then(|()| self.manager.act(instance_id(&command)?, stamp(&command), act()?));
        taken.map_err(refused)
    }

    async fn answer_state(&self, command: &InstanceCommand) -> Result<GetInstanceStateResponse, Error> {
        let to = Addressee { host: &command.target_host, epoch: command.target_epoch };
        admit_question(to, &self.manager.site().host, self.manager.epoch())?;
        self.manager.state(instance_id(command)?).await
    }

    async fn answer_guests(&self, request: &ListGuestsRequest) -> Result<ListGuestsResponse, Error> {
        let to = Addressee { host: &request.target_host, epoch: request.target_epoch };
        admit_question(to, &self.manager.site().host, self.manager.epoch())?;
        let all = self.manager.inventory().await?;
        let (guests, next_page_token) = page("guests", all, request.page_size, &request.page_token)?;
        let guests = guests.into_iter().map(|(_, guest)| guest).collect();
        Ok(ListGuestsResponse { guests, next_page_token })
    }
}

fn stamp(command: &InstanceCommand) -> Stamp {
    Stamp { generation: Generation(command.generation), attempt: Attempt(command.attempt) }
}

fn instance_id(command: &InstanceCommand) -> Result<InstanceId, Error> {
    let mut check = Checker::new();
    let id = check.id("command.instance_id", &command.instance_id);
    check.finish()?;
    Ok(id.expect("an id that is missing or wrong is a violation"))
}

fn build_order(
    command: InstanceCommand,
    request: BuildInstanceRequest,
) -> Result<(InstanceId, Stamp, GuestSpec), Error> {
    let (flavor, image) = (request.flavor.unwrap_or_default(), request.image.unwrap_or_default());
    let mut check = Checker::new();
    let id = check.id::<InstanceId>("command.instance_id", &command.instance_id);
    let project = check.id::<ProjectId>("project_id", &request.project_id);
    check.ensure(command.attempt > 0, "command.attempt", "1 or more");
    check.ensure(request.spec.is_some(), "spec", "is required");
    check.ensure(flavor.vcpus > 0, "flavor.vcpus", "1 or more");
    check.ensure(flavor.ram_mib > 0, "flavor.ram_mib", "1 or more");
    let (devices, cells) = check::topology(&mut check, "flavor", &flavor);
    let volumes = request.volumes.into_iter().filter_map(|volume| device(&mut check, volume)).collect();
    check.finish()?;
    let amount = Amount {
        vcpus: flavor.vcpus,
        ram_mib: flavor.ram_mib,
        disk_gib: if flavor.disk_gib > 0 { flavor.disk_gib } else { image.min_disk_gib },
    };
    let spec = GuestSpec {
        name: request.spec.unwrap_or_default().name,
        project: project.expect("checked above"),
        share: Share { amount, devices, cells: Vec::new() },
        cells,
        flavor,
        image,
        volumes,
        begins: match (request.incoming, request.stopped) {
            (true, _) => Begins::Incoming,
            (false, true) => Begins::Stopped,
            (false, false) => Begins::Running,
        },
    };
    Ok((id.expect("checked above"), stamp(&command), spec))
}

/// A volume of a guest; what is wrong with it is noted.
fn device(check: &mut Checker, volume: BlockDevice) -> Option<Device> {
    let BlockDevice { volume_id, device, connection } = volume;
    check.ensure(!device.is_empty(), "device", "is required");
    let volume = check.id::<VolumeId>("volume_id", &volume_id)?;
    Some(Device { volume, name: device, connection })
}

fn refused(error: Error) -> Status {
    to_status(&error)
}

#[tonic::async_trait]
impl ComputeService for ComputeServer {
    async fn build_instance(
        &self,
        request: Request<BuildInstanceRequest>,
    ) -> Result<Response<BuildInstanceResponse>, Status> {
        self.take_build(request.into_inner()).map_err(refused)?;
        Ok(Response::new(BuildInstanceResponse {}))
    }

    async fn terminate_instance(
        &self,
        request: Request<TerminateInstanceRequest>,
    ) -> Result<Response<TerminateInstanceResponse>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        self.take_terminate(&command).map_err(refused)?;
        Ok(Response::new(TerminateInstanceResponse {}))
    }

    async fn start_instance(
        &self,
        request: Request<StartInstanceRequest>,
    ) -> Result<Response<StartInstanceResponse>, Status> {
        self.take_act(request.into_inner().command, || Ok(GuestAct::Power(PowerAct::Start)))?;
        Ok(Response::new(StartInstanceResponse {}))
    }

    async fn stop_instance(
        &self,
        request: Request<StopInstanceRequest>,
    ) -> Result<Response<StopInstanceResponse>, Status> {
        self.take_act(request.into_inner().command, || Ok(GuestAct::Power(PowerAct::Stop)))?;
        Ok(Response::new(StopInstanceResponse {}))
    }

    async fn reboot_instance(
        &self,
        request: Request<RebootInstanceRequest>,
    ) -> Result<Response<RebootInstanceResponse>, Status> {
        let request = request.into_inner();
        let hard = request.r#type() == RebootType::Hard;
        self.take_act(request.command, || Ok(GuestAct::Power(PowerAct::Reboot { hard })))?;
        Ok(Response::new(RebootInstanceResponse {}))
    }

    async fn attach_volume(
        &self,
        request: Request<AttachVolumeRequest>,
    ) -> Result<Response<AttachVolumeResponse>, Status> {
        let AttachVolumeRequest { command, volume_id, device, connection } = request.into_inner();
        self.take_act(command, || {
            let mut check = Checker::new();
            let volume = BlockDevice { volume_id, device: device.clone(), connection };
            let device = self::device(&mut check, volume);
            check.finish()?;
            Ok(GuestAct::Attach(device.expect("checked above")))
        })?;
        Ok(Response::new(AttachVolumeResponse { device }))
    }

    async fn detach_volume(
        &self,
        request: Request<DetachVolumeRequest>,
    ) -> Result<Response<DetachVolumeResponse>, Status> {
        let DetachVolumeRequest { command, volume_id } = request.into_inner();
        self.take_act(command, || {
            let mut check = Checker::new();
            let volume = check.id::<VolumeId>("volume_id", &volume_id);
            check.finish()?;
            Ok(GuestAct::Detach(volume.expect("checked above")))
        })?;
        Ok(Response::new(DetachVolumeResponse {}))
    }

    async fn rebuild_instance(
        &self,
        request: Request<RebuildInstanceRequest>,
    ) -> Result<Response<RebuildInstanceResponse>, Status> {
        let RebuildInstanceRequest { command, image, disk_gib } = request.into_inner();
        self.take_act(command, || {
            let mut check = Checker::new();
            check.ensure(image.is_some(), "image", "is required");
            check.finish()?;
            Ok(GuestAct::Rebuild(Rebuild { image: image.unwrap_or_default(), disk_gib, held_gib: 0 }))
        })?;
        Ok(Response::new(RebuildInstanceResponse {}))
    }

    async fn hand_over_instance(
        &self,
        request: Request<HandOverInstanceRequest>,
    ) -> Result<Response<HandOverInstanceResponse>, Status> {
        let request = request.into_inner();
        let (host, address, live) = (request.destination_host, request.destination_address, request.live);
        self.take_act(request.command, || Ok(GuestAct::Move(Move::HandOver { host, address, live })))?;
        Ok(Response::new(HandOverInstanceResponse {}))
    }

    async fn take_over_instance(
        &self,
        request: Request<TakeOverInstanceRequest>,
    ) -> Result<Response<TakeOverInstanceResponse>, Status> {
        let TakeOverInstanceRequest { command, source_host: host, stopped, live } = request.into_inner();
        self.take_act(command, || Ok(GuestAct::Move(Move::TakeOver { host, stopped, live })))?;
        Ok(Response::new(TakeOverInstanceResponse {}))
    }

    async fn take_back_instance(
        &self,
        request: Request<TakeBackInstanceRequest>,
    ) -> Result<Response<TakeBackInstanceResponse>, Status> {
        let TakeBackInstanceRequest { command, stopped } = request.into_inner();
        self.take_act(command, || Ok(GuestAct::Move(Move::TakeBack { stopped })))?;
        Ok(Response::new(TakeBackInstanceResponse {}))
    }

    async fn get_instance_state(
        &self,
        request: Request<GetInstanceStateRequest>,
    ) -> Result<Response<GetInstanceStateResponse>, Status> {
        let command = request.into_inner().command.unwrap_or_default();
        self.answer_state(&command).await.map(Response::new).map_err(refused)
    }

    async fn list_guests(
        &self,
        request: Request<ListGuestsRequest>,
    ) -> Result<Response<ListGuestsResponse>, Status> {
        self.answer_guests(request.get_ref()).await.map(Response::new).map_err(refused)
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
