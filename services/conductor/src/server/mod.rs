//! The gRPC face: thin adapters from requests to the modules that do the work.

mod audit;
mod groups;
mod instances;
mod records;
mod reports;
mod snapshots;
mod tasks;
mod watches;

use std::sync::Arc;

use kilonova_model::HostName;
use kilonova_proto::conductor::v1::audit_service_server::AuditServiceServer;
use kilonova_proto::conductor::v1::report_service_server::ReportServiceServer;
use kilonova_proto::conductor::v1::task_service_server::TaskServiceServer;
use kilonova_proto::conductor::v1::{InstanceRecord, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::registry::Registry;
use kilonova_rpc::server::{Served, ServerBuilder};
use kilonova_runtime::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use crate::accept::Acceptor;
use crate::audit::Auditor;
use crate::catalogue::Shelf;
use crate::config::Config;
use crate::db::Db;
use crate::groups::Groups;
use crate::hosts::Hosts;
use crate::records::Records;
use crate::shards::Shards;

/// All a conductor's services answer from.
pub struct Conductor {
    /// Its name.
    pub name: HostName,
    /// The store.
    pub db: Db,
    /// Its settings.
    pub config: Arc<Config>,
    /// The accept path.
    pub acceptor: Arc<Acceptor>,
    /// The instances.
    pub instances: Records<InstanceRecord>,
    /// The volumes.
    pub volumes: Records<VolumeRecord>,
    /// The snapshots.
    pub snapshots: Records<SnapshotRecord>,
    /// The flavors.
    pub flavors: Shelf<pb::Flavor>,
    /// The images.
    pub images: Shelf<pb::Image>,
    /// The server groups.
    pub groups: Groups,
    /// The hosts and backends.
    pub hosts: Hosts,
    /// Who drives what.
    pub shards: Shards,
    /// Who compares all of it with what hosts have.
    pub auditor: Auditor,
    /// One audit goes on at a time: each keeps what it sees in memory.
    pub audits: tokio::sync::Mutex<()>,
    /// The members of all services.
    pub registry: Registry,
    /// Where watches run.
    pub tasks: Tasks,
    /// When watches end.
    pub streams_end: CancellationToken,
}

/// Adds the services, without what they do not do yet.
pub fn services(conductor: Arc<Conductor>, server: ServerBuilder) -> ServerBuilder {
    let tasks = [
        "BuildInstances",
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
        "CreateVolume",
        "UpdateVolume",
        "DeleteVolume",
        "ExtendVolume",
        "CreateSnapshot",
        "DeleteSnapshot",
        "CreateFlavor",
        "DeleteFlavor",
        "CreateImage",
        "DeleteImage",
        "CreateServerGroup",
        "DeleteServerGroup",
        "EnableHost",
        "DisableHost",
        "UpdateQuota",
    ];
    let records = [
        "GetInstance",
        "ListInstances",
        "WatchInstances",
        "ListInstanceActions",
        "GetVolume",
        "ListVolumes",
        "WatchVolumes",
        "ListVolumeActions",
        "GetSnapshot",
        "ListSnapshots",
        "GetFlavor",
        "ListFlavors",
        "GetImage",
        "ListImages",
        "GetServerGroup",
        "ListServerGroups",
        "GetHost",
        "ListHosts",
        "ListServices",
        "GetQuota",
    ];
    server
        .add(
            TaskServiceServer::from_arc(conductor.clone()),
            Served::only("kilonova.conductor.v1.TaskService", &tasks),
        )
        .add(watches::with_watches(&conductor), Served::only("kilonova.conductor.v1.RecordService", &records))
        .add(
            AuditServiceServer::from_arc(conductor.clone()),
            Served::all("kilonova.conductor.v1.AuditService"),
        )
        .add(ReportServiceServer::from_arc(conductor), Served::all("kilonova.conductor.v1.ReportService"))
}
