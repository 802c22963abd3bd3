//! The gRPC face: thin adapters from requests to the modules that do the work. Each service has a file, and what answers its
//! methods is in the file of the resource.

mod aggregates;
mod audit;
mod catalogue;
mod groups;
mod hosts;
mod instances;
mod operations;
mod pages;
mod placements;
mod records;
mod reports;
mod snapshots;
mod store;
mod tasks;
mod volumes;
mod watches;

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::check::{self, Checker};
use kilonova_model::{Error, HostName};
use kilonova_proto::conductor::v1::aggregate_service_server::AggregateServiceServer;
use kilonova_proto::conductor::v1::audit_service_server::AuditServiceServer;
use kilonova_proto::conductor::v1::placement_service_server::PlacementServiceServer;
use kilonova_proto::conductor::v1::report_service_server::ReportServiceServer;
use kilonova_proto::conductor::v1::store_service_server::StoreServiceServer;
use kilonova_proto::conductor::v1::task_service_server::TaskServiceServer;
use kilonova_proto::conductor::v1::{InstanceRecord, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::registry::Registry;
use kilonova_rpc::server::{Served, ServerBuilder};
use kilonova_rpc::status::to_status;
use kilonova_runtime::tasks::Tasks;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use crate::accept::Acceptor;
use crate::agents::Callers;
use crate::audit::Auditor;
use crate::cache::Entry;
use crate::catalogue::Shelf;
use crate::config::Config;
use crate::db::Db;
use crate::groups::Groups;
use crate::hosts::Hosts;
use crate::identity::StoreIdentity;
use crate::placed::Placed;
use crate::reach::Reach;
use crate::records::Records;
use crate::requests::Acceptance;
use crate::shards::Shards;

/// All a conductor's services answer from.
pub struct Conductor {
    /// Its name.
    pub name: HostName,
    /// The store.
    pub db: Db,
    /// Which store it is.
    pub identity: StoreIdentity,
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
    /// Whether compute hosts can be asked.
    pub reach: Reach,
    /// Who drives what.
    pub shards: Shards,
    /// The calls to schedulers.
    pub callers: Callers,
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

impl Conductor {
    fn acceptance<'a>(&'a self, request_id: &'a str, arrived: SystemTime) -> Acceptance<'a> {
        Acceptance { conductor: self.name.as_str(), arrived, request_id }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

fn shown<P: Placed>(entry: &Entry<P>) -> P::Resource {
    entry.record.shown(entry.etag())
}

fn checked(request_id: &str, project_id: &str, more: impl FnOnce(&mut Checker)) -> Result<(), Error> {
    let mut check = Checker::new();
    check::request(&mut check, request_id, project_id);
    more(&mut check);
    check.finish()
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
        "FenceHost",
        "UnfenceHost",
        "UpdateHost",
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
        "ListZones",
        "GetQuota",
    ];
    server
        .add(
            TaskServiceServer::from_arc(conductor.clone()),
            Served::only("kilonova.conductor.v1.TaskService", &tasks),
        )
        .add(watches::with_watches(&conductor), Served::only("kilonova.conductor.v1.RecordService", &records))
        .add(
            AggregateServiceServer::from_arc(conductor.clone()),
            Served::all("kilonova.conductor.v1.AggregateService"),
        )
        .add(
            AuditServiceServer::from_arc(conductor.clone()),
            Served::all("kilonova.conductor.v1.AuditService"),
        )
        .add(
            PlacementServiceServer::from_arc(conductor.clone()),
            Served::all("kilonova.conductor.v1.PlacementService"),
        )
        .add(
            StoreServiceServer::from_arc(conductor.clone()),
            Served::all("kilonova.conductor.v1.StoreService"),
        )
        .add(ReportServiceServer::from_arc(conductor), Served::all("kilonova.conductor.v1.ReportService"))
}
