//! The public gRPC services: every method is checked, forwarded, and answered with what the conductor said.

mod watches;

use futures::StreamExt;
use kilonova_proto::api::v1 as pb;
use kilonova_proto::api::v1::aggregate_service_server::{AggregateService, AggregateServiceServer};
use kilonova_proto::api::v1::audit_service_server::{AuditService, AuditServiceServer};
use kilonova_proto::api::v1::flavor_service_server::{FlavorService, FlavorServiceServer};
use kilonova_proto::api::v1::host_service_server::{HostService, HostServiceServer};
use kilonova_proto::api::v1::image_service_server::{ImageService, ImageServiceServer};
use kilonova_proto::api::v1::instance_service_server::{InstanceService, InstanceServiceServer};
use kilonova_proto::api::v1::placement_service_server::{PlacementService, PlacementServiceServer};
use kilonova_proto::api::v1::quota_service_server::{QuotaService, QuotaServiceServer};
use kilonova_proto::api::v1::server_group_service_server::{ServerGroupService, ServerGroupServiceServer};
use kilonova_proto::api::v1::snapshot_service_server::{SnapshotService, SnapshotServiceServer};
use kilonova_proto::api::v1::store_service_server::{StoreService, StoreServiceServer};
use kilonova_proto::api::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use kilonova_rpc::server::{Served, ServerBuilder};
use kilonova_rpc::status::to_status;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::check::Checked;
use crate::conductor::Conductor;
use crate::convert::Recast;
use crate::relay::relay;

/// What is served of the public instances API.
const INSTANCES: &[&str] = &[
    "CreateInstance",
    "GetInstance",
    "ListInstances",
    "WatchInstances",
    "ListInstanceActions",
    "UpdateInstance",
    "DeleteInstance",
    "StartInstance",
    "StopInstance",
    "RebootInstance",
    "RebuildInstance",
    "ResizeInstance",
    "MigrateInstance",
    "ConfirmResize",
    "RevertResize",
    "EvacuateInstance",
    "AttachVolume",
    "DetachVolume",
];

/// What is served of the public volumes API.
const VOLUMES: &[&str] = &[
    "CreateVolume",
    "GetVolume",
    "ListVolumes",
    "WatchVolumes",
    "ListVolumeActions",
    "UpdateVolume",
    "DeleteVolume",
    "ExtendVolume",
];

/// Adds every public service, as far as it is served.
pub fn add(server: ServerBuilder, conductor: Conductor) -> ServerBuilder {
    let api = Api { conductor };
    server
        .add(
            InstanceServiceServer::new(api.clone()),
            Served::only("kilonova.api.v1.InstanceService", INSTANCES),
        )
        .add(VolumeServiceServer::new(api.clone()), Served::only("kilonova.api.v1.VolumeService", VOLUMES))
        .add(SnapshotServiceServer::new(api.clone()), Served::all("kilonova.api.v1.SnapshotService"))
        .add(FlavorServiceServer::new(api.clone()), Served::all("kilonova.api.v1.FlavorService"))
        .add(ImageServiceServer::new(api.clone()), Served::all("kilonova.api.v1.ImageService"))
        .add(ServerGroupServiceServer::new(api.clone()), Served::all("kilonova.api.v1.ServerGroupService"))
        .add(AggregateServiceServer::new(api.clone()), Served::all("kilonova.api.v1.AggregateService"))
        .add(HostServiceServer::new(api.clone()), Served::all("kilonova.api.v1.HostService"))
        .add(QuotaServiceServer::new(api.clone()), Served::all("kilonova.api.v1.QuotaService"))
        .add(PlacementServiceServer::new(api.clone()), Served::all("kilonova.api.v1.PlacementService"))
        .add(StoreServiceServer::new(api.clone()), Served::all("kilonova.api.v1.StoreService"))
        .add(AuditServiceServer::new(api), Served::all("kilonova.api.v1.AuditService"))
}

#[derive(Debug, Clone)]
struct Api {
    conductor: Conductor,
}

/// Implements a service: `method(Request) -> Response` put to the conductor's `tasks`, `records`,
/// `placements`, `stores` or `audits`, and watches.
macro_rules! forward {
    ($service:ident {
        $($method:ident($request:ident) -> $response:ident = $half:ident.$target:ident;)*
    } $(watch {
        $watch:ident($watch_request:ident) -> $watch_response:ident;
    })?) => {
        #[tonic::async_trait]
        impl $service for Api {
            $(async fn $method(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                let call = |request| {
                    let mut conductor = self.conductor.$half();
                    async move { conductor.$target(request).await }
                };
                self.conductor.forward(request, call).await
            })*

            $(async fn $watch(
                &self,
                request: Request<pb::$watch_request>,
            ) -> Result<Response<BoxStream<pb::$watch_response>>, Status> {
                let mut message = request.into_inner();
                message.check().map_err(|error| to_status(&error))?;
                let stream = relay(self.conductor.clone(), watches::of(message.recast())).await?;
                Ok(Response::new(Box::pin(stream.map(|message| message.map(Recast::recast)))))
            })?
        }
    };
}

forward! {
    InstanceService {
        create_instance(CreateInstanceRequest) -> CreateInstanceResponse = tasks.build_instances;
        get_instance(GetInstanceRequest) -> GetInstanceResponse = records.get_instance;
        list_instances(ListInstancesRequest) -> ListInstancesResponse = records.list_instances;
        list_instance_actions(ListInstanceActionsRequest) -> ListInstanceActionsResponse
            = records.list_instance_actions;
        update_instance(UpdateInstanceRequest) -> UpdateInstanceResponse = tasks.update_instance;
        delete_instance(DeleteInstanceRequest) -> DeleteInstanceResponse = tasks.delete_instance;
        start_instance(StartInstanceRequest) -> StartInstanceResponse = tasks.start_instance;
        stop_instance(StopInstanceRequest) -> StopInstanceResponse = tasks.stop_instance;
        reboot_instance(RebootInstanceRequest) -> RebootInstanceResponse = tasks.reboot_instance;
        rebuild_instance(RebuildInstanceRequest) -> RebuildInstanceResponse = tasks.rebuild_instance;
        resize_instance(ResizeInstanceRequest) -> ResizeInstanceResponse = tasks.resize_instance;
        migrate_instance(MigrateInstanceRequest) -> MigrateInstanceResponse = tasks.migrate_instance;
        confirm_resize(ConfirmResizeRequest) -> ConfirmResizeResponse = tasks.confirm_resize;
        revert_resize(RevertResizeRequest) -> RevertResizeResponse = tasks.revert_resize;
        evacuate_instance(EvacuateInstanceRequest) -> EvacuateInstanceResponse = tasks.evacuate_instance;
        attach_volume(AttachVolumeRequest) -> AttachVolumeResponse = tasks.attach_volume;
        detach_volume(DetachVolumeRequest) -> DetachVolumeResponse = tasks.detach_volume;
    } watch {
        watch_instances(WatchInstancesRequest) -> WatchInstancesResponse;
    }
}

forward! {
    VolumeService {
        create_volume(CreateVolumeRequest) -> CreateVolumeResponse = tasks.create_volume;
        get_volume(GetVolumeRequest) -> GetVolumeResponse = records.get_volume;
        list_volumes(ListVolumesRequest) -> ListVolumesResponse = records.list_volumes;
        list_volume_actions(ListVolumeActionsRequest) -> ListVolumeActionsResponse = records.list_volume_actions;
        update_volume(UpdateVolumeRequest) -> UpdateVolumeResponse = tasks.update_volume;
        delete_volume(DeleteVolumeRequest) -> DeleteVolumeResponse = tasks.delete_volume;
        extend_volume(ExtendVolumeRequest) -> ExtendVolumeResponse = tasks.extend_volume;
    } watch {
        watch_volumes(WatchVolumesRequest) -> WatchVolumesResponse;
    }
}

forward! {
    SnapshotService {
        create_snapshot(CreateSnapshotRequest) -> CreateSnapshotResponse = tasks.create_snapshot;
        delete_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse = tasks.delete_snapshot;
        get_snapshot(GetSnapshotRequest) -> GetSnapshotResponse = records.get_snapshot;
        list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse = records.list_snapshots;
    }
}

forward! {
    FlavorService {
        create_flavor(CreateFlavorRequest) -> CreateFlavorResponse = tasks.create_flavor;
        delete_flavor(DeleteFlavorRequest) -> DeleteFlavorResponse = tasks.delete_flavor;
        get_flavor(GetFlavorRequest) -> GetFlavorResponse = records.get_flavor;
        list_flavors(ListFlavorsRequest) -> ListFlavorsResponse = records.list_flavors;
    }
}

forward! {
    ImageService {
        create_image(CreateImageRequest) -> CreateImageResponse = tasks.create_image;
        delete_image(DeleteImageRequest) -> DeleteImageResponse = tasks.delete_image;
        get_image(GetImageRequest) -> GetImageResponse = records.get_image;
        list_images(ListImagesRequest) -> ListImagesResponse = records.list_images;
    }
}

forward! {
    ServerGroupService {
        create_server_group(CreateServerGroupRequest) -> CreateServerGroupResponse = tasks.create_server_group;
        delete_server_group(DeleteServerGroupRequest) -> DeleteServerGroupResponse = tasks.delete_server_group;
        get_server_group(GetServerGroupRequest) -> GetServerGroupResponse = records.get_server_group;
        list_server_groups(ListServerGroupsRequest) -> ListServerGroupsResponse = records.list_server_groups;
    }
}

forward! {
    HostService {
        get_host(GetHostRequest) -> GetHostResponse = records.get_host;
        list_hosts(ListHostsRequest) -> ListHostsResponse = records.list_hosts;
        list_services(ListServicesRequest) -> ListServicesResponse = records.list_services;
        list_zones(ListZonesRequest) -> ListZonesResponse = records.list_zones;
        enable_host(EnableHostRequest) -> EnableHostResponse = tasks.enable_host;
        disable_host(DisableHostRequest) -> DisableHostResponse = tasks.disable_host;
        fence_host(FenceHostRequest) -> FenceHostResponse = tasks.fence_host;
        unfence_host(UnfenceHostRequest) -> UnfenceHostResponse = tasks.unfence_host;
        update_host(UpdateHostRequest) -> UpdateHostResponse = tasks.update_host;
    }
}

forward! {
    AggregateService {
        create_aggregate(CreateAggregateRequest) -> CreateAggregateResponse = aggregates.create_aggregate;
        get_aggregate(GetAggregateRequest) -> GetAggregateResponse = aggregates.get_aggregate;
        list_aggregates(ListAggregatesRequest) -> ListAggregatesResponse = aggregates.list_aggregates;
        update_aggregate(UpdateAggregateRequest) -> UpdateAggregateResponse = aggregates.update_aggregate;
        delete_aggregate(DeleteAggregateRequest) -> DeleteAggregateResponse = aggregates.delete_aggregate;
        add_aggregate_hosts(AddAggregateHostsRequest) -> AddAggregateHostsResponse
            = aggregates.add_aggregate_hosts;
        remove_aggregate_hosts(RemoveAggregateHostsRequest) -> RemoveAggregateHostsResponse
            = aggregates.remove_aggregate_hosts;
    }
}

forward! {
    QuotaService {
        get_quota(GetQuotaRequest) -> GetQuotaResponse = records.get_quota;
        update_quota(UpdateQuotaRequest) -> UpdateQuotaResponse = tasks.update_quota;
    }
}

forward! {
    PlacementService {
        evaluate_instance_placement(EvaluateInstancePlacementRequest) -> EvaluateInstancePlacementResponse
            = placements.evaluate_instance_placement;
        evaluate_volume_placement(EvaluateVolumePlacementRequest) -> EvaluateVolumePlacementResponse
            = placements.evaluate_volume_placement;
        get_instance_placement(GetInstancePlacementRequest) -> GetInstancePlacementResponse
            = placements.get_instance_placement;
        get_volume_placement(GetVolumePlacementRequest) -> GetVolumePlacementResponse
            = placements.get_volume_placement;
    }
}

forward! {
    StoreService {
        get_store(GetStoreRequest) -> GetStoreResponse = stores.get_store;
        accept_store(AcceptStoreRequest) -> AcceptStoreResponse = stores.accept_store;
    }
}

forward! {
    AuditService {
        audit(AuditRequest) -> AuditResponse = audits.audit;
    }
}
