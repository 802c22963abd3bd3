//! `RecordService`: reads and lists, from memory.

use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::record_service_server::RecordService;
use tonic::Request;

use super::{Answer, Conductor, answer};

#[tonic::async_trait]
impl RecordService for Conductor {
    async fn get_instance(
        &self,
        request: Request<proto::GetInstanceRequest>,
    ) -> Answer<proto::GetInstanceResponse> {
        answer(self.get_instance(request.get_ref()).await)
    }

    async fn list_instances(
        &self,
        request: Request<proto::ListInstancesRequest>,
    ) -> Answer<proto::ListInstancesResponse> {
        answer(self.list_instances(request.into_inner()))
    }

    async fn list_instance_actions(
        &self,
        request: Request<proto::ListInstanceActionsRequest>,
    ) -> Answer<proto::ListInstanceActionsResponse> {
        answer(self.list_instance_actions(request.get_ref()).await)
    }

    async fn get_volume(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Answer<proto::GetVolumeResponse> {
        answer(self.get_volume(request.get_ref()).await)
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        answer(self.list_volumes(request.into_inner()))
    }

    async fn list_volume_actions(
        &self,
        request: Request<proto::ListVolumeActionsRequest>,
    ) -> Answer<proto::ListVolumeActionsResponse> {
        answer(self.list_volume_actions(request.get_ref()).await)
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Answer<proto::GetSnapshotResponse> {
        answer(self.get_snapshot(request.get_ref()).await)
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Answer<proto::ListSnapshotsResponse> {
        answer(self.list_snapshots(request.get_ref()))
    }

    async fn get_flavor(
        &self,
        request: Request<proto::GetFlavorRequest>,
    ) -> Answer<proto::GetFlavorResponse> {
        answer(self.get_flavor(request.get_ref()).await)
    }

    async fn list_flavors(
        &self,
        request: Request<proto::ListFlavorsRequest>,
    ) -> Answer<proto::ListFlavorsResponse> {
        answer(self.list_flavors(request.get_ref()))
    }

    async fn get_image(&self, request: Request<proto::GetImageRequest>) -> Answer<proto::GetImageResponse> {
        answer(self.get_image(request.get_ref()).await)
    }

    async fn list_images(
        &self,
        request: Request<proto::ListImagesRequest>,
    ) -> Answer<proto::ListImagesResponse> {
        answer(self.list_images(request.get_ref()))
    }

    async fn get_server_group(
        &self,
        request: Request<proto::GetServerGroupRequest>,
    ) -> Answer<proto::GetServerGroupResponse> {
        answer(self.get_server_group(request.get_ref()).await)
    }

    async fn list_server_groups(
        &self,
        request: Request<proto::ListServerGroupsRequest>,
    ) -> Answer<proto::ListServerGroupsResponse> {
        answer(self.list_server_groups(request.get_ref()))
    }

    async fn get_host(&self, request: Request<proto::GetHostRequest>) -> Answer<proto::GetHostResponse> {
        answer(self.get_host(request.get_ref()).await)
    }

    async fn list_hosts(
        &self,
        request: Request<proto::ListHostsRequest>,
    ) -> Answer<proto::ListHostsResponse> {
        answer(self.list_hosts(request.into_inner()).await)
    }

    async fn list_services(
        &self,
        request: Request<proto::ListServicesRequest>,
    ) -> Answer<proto::ListServicesResponse> {
        answer(self.list_services(request.get_ref()))
    }

    async fn list_zones(&self, _: Request<proto::ListZonesRequest>) -> Answer<proto::ListZonesResponse> {
        answer(Ok(proto::ListZonesResponse { zones: self.hosts.zones() }))
    }

    async fn get_quota(&self, request: Request<proto::GetQuotaRequest>) -> Answer<proto::GetQuotaResponse> {
        answer(self.get_quota(request.get_ref()).await)
    }
}
