//! `TaskService`: every change of a record that a user asks for.

use std::time::SystemTime;

use kilonova_model::check::{self, Checker, MAX_COUNT};
use kilonova_model::{
    Error, FlavorId, HostName, ImageId, InstanceId, ProjectId, Reason, ServerGroupId, ServiceKind,
};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::task_service_server::TaskService;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_rpc::status::to_status;
use tonic::{Request, Response, Status};

use super::Conductor;
use super::instances::{Asked, power};
use crate::accept::{self, Request as Accepted};
use crate::cache::Entry;
use crate::catalogue;
use crate::extend::Extend;
use crate::hosts::HostId;
use crate::once::change_once;
use crate::placed::Placed;
use crate::requests::{self, Acceptance, Description, Named, read_id};

type Answer<T> = Result<Response<T>, Status>;

pub(super) fn shown<P: Placed>(entry: &Entry<P>) -> P::Resource {
    entry.record.shown(entry.etag())
}

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

pub(super) fn checked(
    request_id: &str,
    project_id: &str,
    more: impl FnOnce(&mut Checker),
) -> Result<(), Error> {
    let mut check = Checker::new();
    check::request(&mut check, request_id, project_id);
    more(&mut check);
    check.finish()
}

impl Conductor {
    pub(super) fn acceptance<'a>(&'a self, request_id: &'a str, arrived: SystemTime) -> Acceptance<'a> {
        Acceptance { conductor: self.name.as_str(), arrived, request_id }
    }

    async fn build_instances(
        &self,
        request: proto::BuildInstancesRequest,
    ) -> Result<proto::BuildInstancesResponse, Error> {
        let arrived = SystemTime::now();
        let spec = request.instance.clone().unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::instance_spec(check, "instance", &spec);
            check.ensure(request.count <= MAX_COUNT, "count", format!("at most {MAX_COUNT}"));
        })?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let project = accept::project(&request.project_id)?;
        let count = request.count;
        let bare = proto::BuildInstancesRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("BuildInstances", project.as_str(), &request_id, &bare)?;
        let prepared = self.prepare(&spec, count, &project, self.acceptance(&request_id, arrived)).await;
        let (new, group) = match prepared {
            Ok(prepared) => prepared,
            // What was accepted stays accepted, whatever became of its flavor and image.
            Err(error) => match self.acceptor.earlier(&accepted, &self.instances).await? {
                Some(entries) => {
                    return Ok(proto::BuildInstancesResponse {
                        instances: entries.iter().map(shown).collect(),
                    });
                }
                None => return Err(error),
            },
        };
        let group = group.map(|id| (&self.groups, id));
        let entries = self.acceptor.create_in(&accepted, &self.instances, new, group, validate_only).await?;
        Ok(proto::BuildInstancesResponse { instances: entries.iter().map(shown).collect() })
    }

    /// The records of new instances, and the server group they join.
    async fn prepare(
        &self,
        spec: &pb::InstanceSpec,
        count: u32,
        project: &ProjectId,
        acceptance: Acceptance<'_>,
    ) -> Result<(Vec<(InstanceId, InstanceRecord)>, Option<ServerGroupId>), Error> {
        let flavor = self.flavors.get(&read_id::<FlavorId>("instance.flavor_id", &spec.flavor_id)?).await?;
        let image = self.images.get(&read_id::<ImageId>("instance.image_id", &spec.image_id)?).await?;
        requests::check_fit("instance.flavor_id", &flavor, &image)?;
        let group =
            spec.hints.as_ref().map(|hints| hints.server_group_id.as_str()).filter(|id| !id.is_empty());
        let group = group.map(|id| read_id("instance.hints.server_group_id", id)).transpose()?;
        let new = requests::new_instances(spec, count, project.as_str(), &flavor, &image, acceptance);
        Ok((new, group))
    }

    async fn create_volume(
        &self,
        request: proto::CreateVolumeRequest,
    ) -> Result<proto::CreateVolumeResponse, Error> {
        let arrived = SystemTime::now();
        let spec = request.volume.clone().unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::volume_spec(check, "volume", &spec);
            let hints = spec.hints.clone().unwrap_or_default();
            let instances = "names instances, which volumes are not placed by";
            check.ensure(hints.same_host.is_empty(), "volume.hints.same_host", instances);
            check.ensure(hints.different_host.is_empty(), "volume.hints.different_host", instances);
            let groups = "is of instances, not of volumes";
            check.ensure(hints.server_group_id.is_empty(), "volume.hints.server_group_id", groups);
        })?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let project = accept::project(&request.project_id)?;
        let bare = proto::CreateVolumeRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateVolume", project.as_str(), &request_id, &bare)?;
        if self.acceptor.replay(&accepted).await?.is_none() {
            self.check_contents(&spec, project.as_str()).await?;
        }
        let new = requests::new_volume(&spec, project.as_str(), self.acceptance(&request_id, arrived));
        let entries = self.acceptor.create(&accepted, &self.volumes, vec![new], validate_only).await?;
        Ok(proto::CreateVolumeResponse { volume: entries.first().map(shown) })
    }

    /// Whether what a volume is to be made of is there, and fits.
    async fn check_contents(&self, spec: &pb::VolumeSpec, project: &str) -> Result<(), Error> {
        let mut check = Checker::new();
        let both = !spec.snapshot_id.is_empty() && !spec.image_id.is_empty();
        check.ensure(!both, "volume.image_id", "is for a volume without snapshot_id");
        check.finish()?;
        let smallest = if !spec.snapshot_id.is_empty() {
            let id = read_id("volume.snapshot_id", &spec.snapshot_id)?;
            let snapshot = requests::get(&self.snapshots, Named { id, project, etag: "" }).await?;
            let snapshot = snapshot.record.resource();
            let state = snapshot.state();
            if state != pb::snapshot::State::Available {
                let message =
                    format!("the snapshot is {}; this needs one that is AVAILABLE", state.as_str_name());
                return Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()));
            }
            snapshot.size_gib
        } else if !spec.image_id.is_empty() {
            self.images.get(&read_id::<ImageId>("volume.image_id", &spec.image_id)?).await?.min_disk_gib
        } else {
            0
        };
        let mut check = Checker::new();
        check.ensure(spec.size_gib >= smallest, "volume.size_gib", format!("at least {smallest}"));
        check.finish()
    }

    async fn update_instance(
        &self,
        request: proto::UpdateInstanceRequest,
    ) -> Result<proto::UpdateInstanceResponse, Error> {
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("instance_id", &request.instance_id)?;
        let spec = request.instance.unwrap_or_default();
        let mask = request.update_mask.as_ref();
        let new = Description::read("instance", mask, &spec.name, &spec.metadata, true)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let entry = requests::describe(&self.instances, named, &new, |record: &mut InstanceRecord| {
            let instance = record.instance.get_or_insert_default();
            let spec = instance.spec.get_or_insert_default();
            (&mut spec.name, &mut spec.metadata, &mut instance.update_time)
        })
        .await?;
        Ok(proto::UpdateInstanceResponse { instance: Some(shown(&entry)) })
    }

    async fn update_volume(
        &self,
        request: proto::UpdateVolumeRequest,
    ) -> Result<proto::UpdateVolumeResponse, Error> {
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("volume_id", &request.volume_id)?;
        let spec = request.volume.unwrap_or_default();
        let mask = request.update_mask.as_ref();
        let new = Description::read("volume", mask, &spec.name, &spec.metadata, false)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let entry = requests::describe(&self.volumes, named, &new, |record: &mut VolumeRecord| {
            let volume = record.volume.get_or_insert_default();
            let spec = volume.spec.get_or_insert_default();
            (&mut spec.name, &mut spec.metadata, &mut volume.update_time)
        })
        .await?;
        Ok(proto::UpdateVolumeResponse { volume: Some(shown(&entry)) })
    }

    async fn delete_instance(
        &self,
        request: proto::DeleteInstanceRequest,
    ) -> Result<proto::DeleteInstanceResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("instance_id", &request.instance_id)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.delete_timeout.get();
        let acceptance = self.acceptance(&request.request_id, arrived);
        let may_go = |_: &InstanceRecord| Ok(());
        let missing = request.allow_missing;
        let entry = requests::delete(&self.instances, named, missing, timeout, acceptance, may_go).await?;
        Ok(proto::DeleteInstanceResponse { instance: entry.as_ref().map(shown) })
    }

    async fn extend_volume(
        &self,
        mut request: proto::ExtendVolumeRequest,
    ) -> Result<proto::ExtendVolumeResponse, Error> {
        let arrived = SystemTime::now();
        let request_id = std::mem::take(&mut request.request_id);
        checked(&request_id, &request.project_id, |check| {
            check::volume_size(check, "size_gib", request.size_gib);
        })?;
        let id = read_id("volume_id", &request.volume_id)?;
        let accepted = Accepted::new("ExtendVolume", &request.project_id, &request_id, &request)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.operation_timeout.get();
        let acceptance = self.acceptance(&request_id, arrived);
        let asked = Extend { acceptor: &self.acceptor, size_gib: request.size_gib, timeout, acceptance };
        let entry = change_once(&self.acceptor, &accepted, &self.volumes, named, &asked).await?;
        Ok(proto::ExtendVolumeResponse { volume: Some(shown(&entry)) })
    }

    async fn delete_volume(
        &self,
        request: proto::DeleteVolumeRequest,
    ) -> Result<proto::DeleteVolumeResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("volume_id", &request.volume_id)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.delete_timeout.get();
        let acceptance = self.acceptance(&request.request_id, arrived);
        let missing = request.allow_missing;
        let entry = requests::delete(&self.volumes, named, missing, timeout, acceptance, not_in_use).await?;
        Ok(proto::DeleteVolumeResponse { volume: entry.as_ref().map(shown) })
    }

    async fn create_flavor(
        &self,
        request: proto::CreateFlavorRequest,
    ) -> Result<proto::CreateFlavorResponse, Error> {
        let flavor = request.flavor.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| check::flavor(check, "flavor", &flavor))?;
        let id = read_id::<FlavorId>("flavor.id", &flavor.id)?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateFlavorRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateFlavor", "", &request_id, &bare)?;
        let flavor = self.flavors.create(&self.acceptor, &accepted, &id, flavor, validate_only).await?;
        Ok(proto::CreateFlavorResponse { flavor: Some(flavor) })
    }

    async fn create_image(
        &self,
        request: proto::CreateImageRequest,
    ) -> Result<proto::CreateImageResponse, Error> {
        let image = request.image.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| check::image(check, "image", &image))?;
        let id = read_id::<ImageId>("image.id", &image.id)?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateImageRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateImage", "", &request_id, &bare)?;
        let image = self.images.create(&self.acceptor, &accepted, &id, image, validate_only).await?;
        Ok(proto::CreateImageResponse { image: Some(image) })
    }

    async fn update_quota(
        &self,
        request: proto::UpdateQuotaRequest,
    ) -> Result<proto::UpdateQuotaResponse, Error> {
        let limits = request.limits.unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::quota_limits(check, "limits", &limits);
        })?;
        let project = accept::project(&request.project_id)?;
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        catalogue::set_limits(&self.db, &self.acceptor, &project, &limits, &paths).await?;
        let quota = catalogue::quota(&self.acceptor, &project).await?;
        Ok(proto::UpdateQuotaResponse { quota: Some(quota) })
    }

    async fn set_host_enabled(
        &self,
        request_id: &str,
        service: pb::ServiceKind,
        host: &str,
        disabled_reason: Option<&str>,
    ) -> Result<pb::Host, Error> {
        checked(request_id, "", |check| {
            if let Some(reason) = disabled_reason {
                check::name(check, "reason", reason, true);
            }
        })?;
        let id = host_id(service, host)?;
        self.hosts.set_enabled(&id, disabled_reason.is_none(), disabled_reason.unwrap_or_default()).await
    }
}

/// Answers what is asked of an instance that is there: `$done` gets what all are asked with, and the rest of the message.
macro_rules! on_instance {
    ($request:expr, $response:ident, |$asked:ident, $message:ident| $done:expr) => {{
        let mut $message = $request.into_inner();
        let request_id = std::mem::take(&mut $message.request_id);
        let $asked = Asked {
            request_id: &request_id,
            project_id: &$message.project_id,
            instance_id: &$message.instance_id,
            etag: &$message.etag,
        };
        answer($done.await.map(|instance| proto::$response { instance: Some(instance) }))
    }};
}

fn not_in_use(record: &VolumeRecord) -> Result<(), Error> {
    use pb::volume::State;
    let snapshots = record.snapshot_ids.len();
    if snapshots > 0 {
        let message = format!("the volume has {snapshots} snapshots; delete them first");
        return Err(Error::new(Reason::InvalidState, message).with("snapshots", snapshots));
    }
    match record.resource().state() {
        State::Creating | State::Available | State::Error | State::Deleting => Ok(()),
        state => {
            let message = format!("the volume is {}; detach it first", state.as_str_name());
            Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()))
        }
    }
}

/// Reads which host is meant.
pub(super) fn host_id(service: pb::ServiceKind, host: &str) -> Result<HostId, Error> {
    let mut check = Checker::new();
    let kind = match service {
        pb::ServiceKind::Compute => Some(ServiceKind::Compute),
        pb::ServiceKind::Volume => Some(ServiceKind::Volume),
        _ => None,
    };
    check.ensure(kind.is_some(), "service", "SERVICE_KIND_COMPUTE or SERVICE_KIND_VOLUME");
    let host = check.id::<HostName>("host", host);
    check.finish()?;
    kind.zip(host).ok_or_else(|| Error::new(Reason::Internal, "a checked host is missing"))
}

#[tonic::async_trait]
impl TaskService for Conductor {
    async fn build_instances(
        &self,
        request: Request<proto::BuildInstancesRequest>,
    ) -> Answer<proto::BuildInstancesResponse> {
        answer(self.build_instances(request.into_inner()).await)
    }

    async fn update_instance(
        &self,
        request: Request<proto::UpdateInstanceRequest>,
    ) -> Answer<proto::UpdateInstanceResponse> {
        answer(self.update_instance(request.into_inner()).await)
    }

    async fn delete_instance(
        &self,
        request: Request<proto::DeleteInstanceRequest>,
    ) -> Answer<proto::DeleteInstanceResponse> {
        answer(self.delete_instance(request.into_inner()).await)
    }

    async fn start_instance(
        &self,
        request: Request<proto::StartInstanceRequest>,
    ) -> Answer<proto::StartInstanceResponse> {
        on_instance!(request, StartInstanceResponse, |asked, message| {
            self.operate("StartInstance", asked, power(Kind::Start, false), &message)
        })
    }

    async fn stop_instance(
        &self,
        request: Request<proto::StopInstanceRequest>,
    ) -> Answer<proto::StopInstanceResponse> {
        on_instance!(request, StopInstanceResponse, |asked, message| {
            self.operate("StopInstance", asked, power(Kind::Stop, false), &message)
        })
    }

    async fn reboot_instance(
        &self,
        request: Request<proto::RebootInstanceRequest>,
    ) -> Answer<proto::RebootInstanceResponse> {
        on_instance!(request, RebootInstanceResponse, |asked, message| {
            self.operate("RebootInstance", asked, power(Kind::Reboot, message.hard), &message)
        })
    }

    async fn rebuild_instance(
        &self,
        request: Request<proto::RebuildInstanceRequest>,
    ) -> Answer<proto::RebuildInstanceResponse> {
        on_instance!(request, RebuildInstanceResponse, |asked, message| self.rebuild(asked, &message))
    }

    async fn resize_instance(
        &self,
        request: Request<proto::ResizeInstanceRequest>,
    ) -> Answer<proto::ResizeInstanceResponse> {
        on_instance!(request, ResizeInstanceResponse, |asked, message| self.resize(asked, &message))
    }

    async fn migrate_instance(
        &self,
        request: Request<proto::MigrateInstanceRequest>,
    ) -> Answer<proto::MigrateInstanceResponse> {
        on_instance!(request, MigrateInstanceResponse, |asked, message| self.migrate(asked, &message))
    }

    async fn confirm_resize(
        &self,
        request: Request<proto::ConfirmResizeRequest>,
    ) -> Answer<proto::ConfirmResizeResponse> {
        on_instance!(request, ConfirmResizeResponse, |asked, message| self.confirm(asked, &message))
    }

    async fn revert_resize(
        &self,
        request: Request<proto::RevertResizeRequest>,
    ) -> Answer<proto::RevertResizeResponse> {
        on_instance!(request, RevertResizeResponse, |asked, message| self.revert(asked, &message))
    }

    async fn evacuate_instance(
        &self,
        request: Request<proto::EvacuateInstanceRequest>,
    ) -> Answer<proto::EvacuateInstanceResponse> {
        on_instance!(request, EvacuateInstanceResponse, |asked, message| self.evacuate(asked, &message))
    }

    async fn attach_volume(
        &self,
        request: Request<proto::AttachVolumeRequest>,
    ) -> Answer<proto::AttachVolumeResponse> {
        on_instance!(request, AttachVolumeResponse, |asked, message| {
            self.volume_of_instance("AttachVolume", Kind::AttachVolume, asked, &message.volume_id)
        })
    }

    async fn detach_volume(
        &self,
        request: Request<proto::DetachVolumeRequest>,
    ) -> Answer<proto::DetachVolumeResponse> {
        on_instance!(request, DetachVolumeResponse, |asked, message| {
            self.volume_of_instance("DetachVolume", Kind::DetachVolume, asked, &message.volume_id)
        })
    }

    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Answer<proto::CreateVolumeResponse> {
        answer(self.create_volume(request.into_inner()).await)
    }

    async fn update_volume(
        &self,
        request: Request<proto::UpdateVolumeRequest>,
    ) -> Answer<proto::UpdateVolumeResponse> {
        answer(self.update_volume(request.into_inner()).await)
    }

    async fn extend_volume(
        &self,
        request: Request<proto::ExtendVolumeRequest>,
    ) -> Answer<proto::ExtendVolumeResponse> {
        answer(self.extend_volume(request.into_inner()).await)
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Answer<proto::DeleteVolumeResponse> {
        answer(self.delete_volume(request.into_inner()).await)
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Answer<proto::CreateSnapshotResponse> {
        answer(self.create_snapshot(request.into_inner()).await)
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Answer<proto::DeleteSnapshotResponse> {
        answer(self.delete_snapshot(request.into_inner()).await)
    }

    async fn create_flavor(
        &self,
        request: Request<proto::CreateFlavorRequest>,
    ) -> Answer<proto::CreateFlavorResponse> {
        answer(self.create_flavor(request.into_inner()).await)
    }

    async fn delete_flavor(
        &self,
        request: Request<proto::DeleteFlavorRequest>,
    ) -> Answer<proto::DeleteFlavorResponse> {
        let request = request.into_inner();
        let delete = async {
            let id = read_id::<FlavorId>("flavor_id", &request.flavor_id)?;
            self.flavors.delete(&id, request.allow_missing).await
        };
        answer(delete.await.map(|()| proto::DeleteFlavorResponse {}))
    }

    async fn create_image(
        &self,
        request: Request<proto::CreateImageRequest>,
    ) -> Answer<proto::CreateImageResponse> {
        answer(self.create_image(request.into_inner()).await)
    }

    async fn delete_image(
        &self,
        request: Request<proto::DeleteImageRequest>,
    ) -> Answer<proto::DeleteImageResponse> {
        let request = request.into_inner();
        let delete = async {
            let id = read_id::<ImageId>("image_id", &request.image_id)?;
            self.images.delete(&id, request.allow_missing).await
        };
        answer(delete.await.map(|()| proto::DeleteImageResponse {}))
    }

    async fn create_server_group(
        &self,
        request: Request<proto::CreateServerGroupRequest>,
    ) -> Answer<proto::CreateServerGroupResponse> {
        answer(self.create_server_group(request.into_inner()).await)
    }

    async fn delete_server_group(
        &self,
        request: Request<proto::DeleteServerGroupRequest>,
    ) -> Answer<proto::DeleteServerGroupResponse> {
        answer(self.delete_server_group(request.into_inner()).await)
    }

    async fn enable_host(
        &self,
        request: Request<proto::EnableHostRequest>,
    ) -> Answer<proto::EnableHostResponse> {
        let request = request.into_inner();
        let enabled =
            self.set_host_enabled(&request.request_id, request.service(), &request.host, None).await;
        answer(enabled.map(|host| proto::EnableHostResponse { host: Some(host) }))
    }

    async fn disable_host(
        &self,
        request: Request<proto::DisableHostRequest>,
    ) -> Answer<proto::DisableHostResponse> {
        let request = request.into_inner();
        let (service, reason) = (request.service(), Some(request.reason.as_str()));
        let disabled = self.set_host_enabled(&request.request_id, service, &request.host, reason).await;
        answer(disabled.map(|host| proto::DisableHostResponse { host: Some(host) }))
    }

    async fn update_quota(
        &self,
        request: Request<proto::UpdateQuotaRequest>,
    ) -> Answer<proto::UpdateQuotaResponse> {
        answer(self.update_quota(request.into_inner()).await)
    }
}
