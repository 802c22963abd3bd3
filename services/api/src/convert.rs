//! Between the public messages and the conductor's: two contracts of one shape, free to part one day.
//!
//! Every field is named on both sides, so a field added to one contract alone does not compile.

use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1 as conductor;

/// A message that can be had in the other contract.
pub trait Recast<To> {
    /// The same in the other contract.
    fn recast(self) -> To;
}

macro_rules! requests {
    ($($from:ident => $to:ident { $($field:ident),* $(,)? })*) => {
        $(impl Recast<conductor::$to> for api::$from {
            fn recast(self) -> conductor::$to {
                let Self { $($field),* } = self;
                conductor::$to { $($field),* }
            }
        })*
    };
}

macro_rules! responses {
    ($($from:ident => $to:ident { $($field:ident),* $(,)? })*) => {
        $(impl Recast<api::$to> for conductor::$from {
            fn recast(self) -> api::$to {
                let Self { $($field),* } = self;
                api::$to { $($field),* }
            }
        })*
    };
}

macro_rules! watches {
    ($($message:ident, $module:ident;)*) => {
        $(impl Recast<api::$message> for conductor::$message {
            fn recast(self) -> api::$message {
                use conductor::$module::Event as From;
                use api::$module::Event as To;
                let Self { event, resume_token } = self;
                let event = event.map(|event| match event {
                    From::Snapshot(resource) => To::Snapshot(resource),
                    From::SnapshotEnd(conductor::SnapshotEnd {}) => To::SnapshotEnd(api::SnapshotEnd {}),
                    From::Update(resource) => To::Update(resource),
                    From::Delete(id) => To::Delete(id),
                    From::Heartbeat(conductor::Heartbeat {}) => To::Heartbeat(api::Heartbeat {}),
                });
                api::$message { event, resume_token }
            }
        })*
    };
}

requests! {
    CreateInstanceRequest => BuildInstancesRequest { request_id, project_id, instance, count, validate_only }
    GetInstanceRequest => GetInstanceRequest { instance_id, project_id }
    ListInstancesRequest => ListInstancesRequest { page_size, page_token, project_id, states, host }
    WatchInstancesRequest => WatchInstancesRequest {
        resume_token, heartbeat_interval, project_id, states, host, instance_ids,
    }
    ListInstanceActionsRequest => ListInstanceActionsRequest { instance_id, project_id }
    UpdateInstanceRequest => UpdateInstanceRequest {
        request_id, project_id, instance_id, etag, instance, update_mask,
    }
    DeleteInstanceRequest => DeleteInstanceRequest { request_id, project_id, instance_id, etag, allow_missing }
    StartInstanceRequest => StartInstanceRequest { request_id, project_id, instance_id, etag }
    StopInstanceRequest => StopInstanceRequest { request_id, project_id, instance_id, etag }
    RebootInstanceRequest => RebootInstanceRequest {
        request_id, project_id, instance_id, etag, hard, vouched_hosts,
    }
    RebuildInstanceRequest => RebuildInstanceRequest { request_id, project_id, instance_id, etag, image_id }
    ResizeInstanceRequest => ResizeInstanceRequest { request_id, project_id, instance_id, etag, flavor_id }
    MigrateInstanceRequest => MigrateInstanceRequest {
        request_id, project_id, instance_id, etag, live, target_host,
    }
    ConfirmResizeRequest => ConfirmResizeRequest { request_id, project_id, instance_id, etag }
    RevertResizeRequest => RevertResizeRequest { request_id, project_id, instance_id, etag }
    EvacuateInstanceRequest => EvacuateInstanceRequest {
        request_id, project_id, instance_id, etag, target_host, vouched_hosts,
    }
    AttachVolumeRequest => AttachVolumeRequest { request_id, project_id, instance_id, etag, volume_id }
    DetachVolumeRequest => DetachVolumeRequest { request_id, project_id, instance_id, etag, volume_id }
    CreateVolumeRequest => CreateVolumeRequest { request_id, project_id, volume, validate_only }
    GetVolumeRequest => GetVolumeRequest { volume_id, project_id }
    ListVolumesRequest => ListVolumesRequest { page_size, page_token, project_id, states, host }
    WatchVolumesRequest => WatchVolumesRequest {
        resume_token, heartbeat_interval, project_id, states, host, volume_ids,
    }
    ListVolumeActionsRequest => ListVolumeActionsRequest { volume_id, project_id }
    UpdateVolumeRequest => UpdateVolumeRequest { request_id, project_id, volume_id, etag, volume, update_mask }
    DeleteVolumeRequest => DeleteVolumeRequest { request_id, project_id, volume_id, etag, allow_missing }
    ExtendVolumeRequest => ExtendVolumeRequest { request_id, project_id, volume_id, etag, size_gib }
    CreateSnapshotRequest => CreateSnapshotRequest { request_id, project_id, volume_id, name, validate_only }
    DeleteSnapshotRequest => DeleteSnapshotRequest { request_id, project_id, snapshot_id, etag, allow_missing }
    GetSnapshotRequest => GetSnapshotRequest { snapshot_id, project_id }
    ListSnapshotsRequest => ListSnapshotsRequest { page_size, page_token, project_id, volume_id }
    CreateFlavorRequest => CreateFlavorRequest { request_id, flavor, validate_only }
    DeleteFlavorRequest => DeleteFlavorRequest { request_id, flavor_id, allow_missing }
    GetFlavorRequest => GetFlavorRequest { flavor_id }
    ListFlavorsRequest => ListFlavorsRequest { page_size, page_token }
    CreateImageRequest => CreateImageRequest { request_id, image, validate_only }
    DeleteImageRequest => DeleteImageRequest { request_id, image_id, allow_missing }
    GetImageRequest => GetImageRequest { image_id }
    ListImagesRequest => ListImagesRequest { page_size, page_token }
    CreateServerGroupRequest => CreateServerGroupRequest { request_id, project_id, server_group, validate_only }
    DeleteServerGroupRequest => DeleteServerGroupRequest {
        request_id, project_id, server_group_id, allow_missing,
    }
    GetServerGroupRequest => GetServerGroupRequest { server_group_id, project_id }
    ListServerGroupsRequest => ListServerGroupsRequest { page_size, page_token, project_id }
    CreateAggregateRequest => CreateAggregateRequest { request_id, aggregate, validate_only }
    GetAggregateRequest => GetAggregateRequest { aggregate_id }
    ListAggregatesRequest => ListAggregatesRequest { page_size, page_token }
    UpdateAggregateRequest => UpdateAggregateRequest { request_id, aggregate_id, etag, aggregate, update_mask }
    DeleteAggregateRequest => DeleteAggregateRequest { request_id, aggregate_id, allow_missing }
    AddAggregateHostsRequest => AddAggregateHostsRequest { request_id, aggregate_id, hosts }
    RemoveAggregateHostsRequest => RemoveAggregateHostsRequest { request_id, aggregate_id, hosts }
    GetHostRequest => GetHostRequest { service, host }
    ListHostsRequest => ListHostsRequest { page_size, page_token, service }
    ListServicesRequest => ListServicesRequest { service }
    EnableHostRequest => EnableHostRequest { request_id, service, host }
    DisableHostRequest => DisableHostRequest { request_id, service, host, reason }
    FenceHostRequest => FenceHostRequest { request_id, service, host }
    UnfenceHostRequest => UnfenceHostRequest { request_id, service, host }
    UpdateHostRequest => UpdateHostRequest { request_id, service, host, assigned_zone, traits, update_mask }
    ListZonesRequest => ListZonesRequest {}
    GetQuotaRequest => GetQuotaRequest { project_id }
    UpdateQuotaRequest => UpdateQuotaRequest { request_id, project_id, limits, update_mask }
    AuditRequest => AuditRequest { heal, host }
    GetStoreRequest => GetStoreRequest {}
    AcceptStoreRequest => AcceptStoreRequest { id, accepted_by }
    EvaluateInstancePlacementRequest => EvaluateInstancePlacementRequest {
        project_id, instance, count, alternates,
    }
    EvaluateVolumePlacementRequest => EvaluateVolumePlacementRequest { project_id, volume, count, alternates }
    GetInstancePlacementRequest => GetInstancePlacementRequest { instance_id, project_id }
    GetVolumePlacementRequest => GetVolumePlacementRequest { volume_id, project_id }
}

responses! {
    BuildInstancesResponse => CreateInstanceResponse { instances }
    GetInstanceResponse => GetInstanceResponse { instance }
    ListInstancesResponse => ListInstancesResponse { instances, next_page_token }
    ListInstanceActionsResponse => ListInstanceActionsResponse { actions }
    UpdateInstanceResponse => UpdateInstanceResponse { instance }
    DeleteInstanceResponse => DeleteInstanceResponse { instance }
    StartInstanceResponse => StartInstanceResponse { instance }
    StopInstanceResponse => StopInstanceResponse { instance }
    RebootInstanceResponse => RebootInstanceResponse { instance }
    RebuildInstanceResponse => RebuildInstanceResponse { instance }
    ResizeInstanceResponse => ResizeInstanceResponse { instance }
    MigrateInstanceResponse => MigrateInstanceResponse { instance }
    ConfirmResizeResponse => ConfirmResizeResponse { instance }
    RevertResizeResponse => RevertResizeResponse { instance }
    EvacuateInstanceResponse => EvacuateInstanceResponse { instance }
    AttachVolumeResponse => AttachVolumeResponse { instance }
    DetachVolumeResponse => DetachVolumeResponse { instance }
    CreateVolumeResponse => CreateVolumeResponse { volume }
    GetVolumeResponse => GetVolumeResponse { volume }
    ListVolumesResponse => ListVolumesResponse { volumes, next_page_token }
    ListVolumeActionsResponse => ListVolumeActionsResponse { actions }
    UpdateVolumeResponse => UpdateVolumeResponse { volume }
    DeleteVolumeResponse => DeleteVolumeResponse { volume }
    ExtendVolumeResponse => ExtendVolumeResponse { volume }
    CreateSnapshotResponse => CreateSnapshotResponse { snapshot }
    DeleteSnapshotResponse => DeleteSnapshotResponse { snapshot }
    GetSnapshotResponse => GetSnapshotResponse { snapshot }
    ListSnapshotsResponse => ListSnapshotsResponse { snapshots, next_page_token }
    CreateFlavorResponse => CreateFlavorResponse { flavor }
    DeleteFlavorResponse => DeleteFlavorResponse {}
    GetFlavorResponse => GetFlavorResponse { flavor }
    ListFlavorsResponse => ListFlavorsResponse { flavors, next_page_token }
    CreateImageResponse => CreateImageResponse { image }
    DeleteImageResponse => DeleteImageResponse {}
    GetImageResponse => GetImageResponse { image }
    ListImagesResponse => ListImagesResponse { images, next_page_token }
    CreateServerGroupResponse => CreateServerGroupResponse { server_group }
    DeleteServerGroupResponse => DeleteServerGroupResponse {}
    GetServerGroupResponse => GetServerGroupResponse { server_group }
    ListServerGroupsResponse => ListServerGroupsResponse { server_groups, next_page_token }
    CreateAggregateResponse => CreateAggregateResponse { aggregate }
    GetAggregateResponse => GetAggregateResponse { aggregate }
    ListAggregatesResponse => ListAggregatesResponse { aggregates, next_page_token }
    UpdateAggregateResponse => UpdateAggregateResponse { aggregate }
    DeleteAggregateResponse => DeleteAggregateResponse {}
    AddAggregateHostsResponse => AddAggregateHostsResponse { aggregate }
    RemoveAggregateHostsResponse => RemoveAggregateHostsResponse { aggregate }
    GetHostResponse => GetHostResponse { host }
    ListHostsResponse => ListHostsResponse { hosts, next_page_token }
    ListServicesResponse => ListServicesResponse { services, registry_stale_seconds }
    EnableHostResponse => EnableHostResponse { host }
    DisableHostResponse => DisableHostResponse { host }
    FenceHostResponse => FenceHostResponse { host }
    UnfenceHostResponse => UnfenceHostResponse { host }
    UpdateHostResponse => UpdateHostResponse { host }
    ListZonesResponse => ListZonesResponse { zones }
    GetQuotaResponse => GetQuotaResponse { quota }
    UpdateQuotaResponse => UpdateQuotaResponse { quota }
    AuditResponse => AuditResponse { audit }
    GetStoreResponse => GetStoreResponse { store }
    AcceptStoreResponse => AcceptStoreResponse { store }
    EvaluateInstancePlacementResponse => EvaluateInstancePlacementResponse { selections, explanation }
    EvaluateVolumePlacementResponse => EvaluateVolumePlacementResponse { selections, explanation }
    GetInstancePlacementResponse => GetInstancePlacementResponse { placement }
    GetVolumePlacementResponse => GetVolumePlacementResponse { placement }
}

watches! {
    WatchInstancesResponse, watch_instances_response;
    WatchVolumesResponse, watch_volumes_response;
}
