//! `TaskService`: every change of a record that a user asks for.

use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::task_service_server::TaskService;
use kilonova_proto::types::v1::action::Kind;
use tonic::Request;

use super::operations::{Asked, power};
use super::{Answer, Conductor, answer};

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
            self.operate("StartInstance", asked, power(Kind::Start, false), &[], &message)
        })
    }

    async fn stop_instance(
        &self,
        request: Request<proto::StopInstanceRequest>,
    ) -> Answer<proto::StopInstanceResponse> {
        on_instance!(request, StopInstanceResponse, |asked, message| {
            self.operate("StopInstance", asked, power(Kind::Stop, false), &[], &message)
        })
    }

    async fn reboot_instance(
        &self,
        request: Request<proto::RebootInstanceRequest>,
    ) -> Answer<proto::RebootInstanceResponse> {
        on_instance!(request, RebootInstanceResponse, |asked, message| {
            self.operate(
                "RebootInstance",
                asked,
                power(Kind::Reboot, message.hard),
                &message.vouched_hosts,
                &message,
            )
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
        answer(self.delete_flavor(request.into_inner()).await)
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
        answer(self.delete_image(request.into_inner()).await)
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
        let proto::EnableHostRequest { request_id, service, host } = request.into_inner();
        let request = proto::DisableHostRequest { request_id, service, host, reason: String::new() };
        let enabled = self.set_host_enabled("EnableHost", &request, true).await;
        answer(enabled.map(|host| proto::EnableHostResponse { host: Some(host) }))
    }

    async fn disable_host(
        &self,
        request: Request<proto::DisableHostRequest>,
    ) -> Answer<proto::DisableHostResponse> {
        let disabled = self.set_host_enabled("DisableHost", request.get_ref(), false).await;
        answer(disabled.map(|host| proto::DisableHostResponse { host: Some(host) }))
    }

    async fn fence_host(
        &self,
        request: Request<proto::FenceHostRequest>,
    ) -> Answer<proto::FenceHostResponse> {
        let fenced = self.set_host_fenced("FenceHost", request.get_ref(), true).await;
        answer(fenced.map(|host| proto::FenceHostResponse { host: Some(host) }))
    }

    async fn unfence_host(
        &self,
        request: Request<proto::UnfenceHostRequest>,
    ) -> Answer<proto::UnfenceHostResponse> {
        let proto::UnfenceHostRequest { request_id, service, host } = request.into_inner();
        let request = proto::FenceHostRequest { request_id, service, host };
        let unfenced = self.set_host_fenced("UnfenceHost", &request, false).await;
        answer(unfenced.map(|host| proto::UnfenceHostResponse { host: Some(host) }))
    }

    async fn update_host(
        &self,
        request: Request<proto::UpdateHostRequest>,
    ) -> Answer<proto::UpdateHostResponse> {
        let updated = self.update_host(request.get_ref()).await;
        answer(updated.map(|host| proto::UpdateHostResponse { host: Some(host) }))
    }

    async fn update_quota(
        &self,
        request: Request<proto::UpdateQuotaRequest>,
    ) -> Answer<proto::UpdateQuotaResponse> {
        answer(self.update_quota(request.into_inner()).await)
    }
}
