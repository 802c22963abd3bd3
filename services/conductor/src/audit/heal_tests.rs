//! Each mend against a record that changed since it was seen: nothing is done, and that is said.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{CellName, SnapshotId, ZoneName};
use kilonova_proto::conductor::v1::{InstanceRecord, MemberPlace, ServerGroupRecord, SnapshotRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::volume::v1::volume_service_server::{VolumeService, VolumeServiceServer};
use kilonova_proto::volume::v1::{TerminateConnectionRequest, TerminateConnectionResponse};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::Registry;
use kilonova_rpc::server::Served;
use kilonova_runtime::tasks::Tasks;
use kilonova_runtime::{Launch, LaunchOptions, Running};
use kilonova_store::KeyValue;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::keys::Keys;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

use super::super::fixtures::{BACKEND, HOST, guest, instance, stored, volume, world};
use super::super::{World, compare};
use super::*;
use crate::agents::Callers;
use crate::db::Db;
use crate::groups::Groups;
use crate::hosts::{Fences, Hosts};
use crate::identity::StoreIdentity;

/// A backend that ends every export it is asked to end.
struct Backend;

#[async_trait]
impl VolumeService for Backend {
    async fn terminate_connection(
        &self,
        _: Request<TerminateConnectionRequest>,
    ) -> Result<Response<TerminateConnectionResponse>, Status> {
        Ok(Response::new(TerminateConnectionResponse::default()))
    }
}

/// An auditor of a cell that has nothing but one backend.
async fn auditor(tasks: &Tasks) -> (Auditor, Running) {
    let cell = CellName::parse("test").unwrap();
    let db = Db { store: Arc::new(EmbeddedStore::open_temporary().unwrap()), keys: Keys::new(&cell) };
    let launch = Launch {
        service: ServiceKind::Volume,
        host: HostName::parse(BACKEND).unwrap(),
        cell: cell.clone(),
        zone: ZoneName::parse("z").unwrap(),
        store: db.store.clone(),
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        http: None,
        advertise: None,
        options: LaunchOptions { settle: Duration::ZERO, ..LaunchOptions::default() },
    };
    let context = launch.register().await.unwrap();
    let service = Served::all("kilonova.volume.v1.VolumeService");
    let server = context.server().add(VolumeServiceServer::new(Backend), service);
    let backend = context.serve(server).await.unwrap();
    let registry = Registry::new(db.store.clone(), cell);
    registry.members(ServiceKind::Volume).known().await;
    let caller = Caller::new(ServiceKind::Conductor, HostName::parse("c1").unwrap());
    let callers = Callers {
        identity: StoreIdentity::new(db.clone()),
        peers: Peers::new(registry, caller, PeersOptions::default()),
        instances: Records::follow("instances", &db, tasks),
        volumes: Records::follow("volumes", &db, tasks),
        snapshots: Records::follow("snapshots", &db, tasks),
        fences: Fences::follow(&db, StoreIdentity::new(db.clone()), tasks),
    };
    let groups = Groups::follow(&db, tasks);
    let hosts = Hosts::follow(&db, callers.clone(), tasks).cache;
    (Auditor { db, callers, groups, hosts }, backend)
}

impl Auditor {
    async fn put(&self, key: &str, record: &impl Message) {
        self.db.commit(Txn::new().put(key, record.encode_to_vec())).await.unwrap().committed().unwrap();
    }

    /// Somebody writes the record once more, or a first time.
    async fn touch(&self, key: &str) {
        let (found, _) = self.db.store.get(key).await.unwrap();
        let new = || instance(InstanceId::generate(), State::Building, "").encode_to_vec().into();
        let value = found.map_or_else(new, |found| found.value);
        self.db.commit(Txn::new().put(key, value)).await.unwrap().committed().unwrap();
    }

    async fn everything(&self) -> Vec<KeyValue> {
        self.db.store.list("kilonova/", None, 1000).await.unwrap().items
    }

    /// What does not agree if hosts have this.
    async fn found(&self, there: &World) -> Vec<Finding> {
        let mut world = self.look(&[]).await.unwrap();
        (world.computes, world.backends) = (there.computes.clone(), there.backends.clone());
        compare(&world, true, SystemTime::now())
    }
}

fn snapshot(id: &str) -> SnapshotRecord {
    let mut snapshot = pb::Snapshot { id: id.to_owned(), host: BACKEND.into(), ..Default::default() };
    snapshot.set_state(pb::snapshot::State::Available);
    SnapshotRecord { snapshot: Some(snapshot), ..Default::default() }
}

/// A volume that is with an instance of which there is no record.
fn taken(id: VolumeId, by: InstanceId) -> VolumeRecord {
    let mut record = volume(id, VolumeState::InUse, BACKEND);
    let with = pb::Attachment { instance_id: by.to_string(), ..Default::default() };
    record.volume.get_or_insert_default().attachments.push(with);
    record
}

fn group(members: &[InstanceId]) -> ServerGroupRecord {
    let instance_ids = members.iter().map(ToString::to_string).collect();
    let elsewhere = MemberPlace { host: "h9".into(), ..Default::default() };
    let places = members.iter().map(|id| (id.to_string(), elsewhere.clone())).collect();
    ServerGroupRecord { server_group: Some(pb::ServerGroup { instance_ids, ..Default::default() }), places }
}

fn member_of(group: ServerGroupId, id: InstanceId) -> InstanceRecord {
    let mut record = instance(id, State::Active, HOST);
    let hints = pb::SchedulerHints { server_group_id: group.to_string(), ..Default::default() };
    record.instance.get_or_insert_default().spec.get_or_insert_default().hints = Some(hints);
    record
}

#[tokio::test]
async fn what_changed_since_it_was_seen_is_left_as_it_is() {
    let tasks = Tasks::new("audit");
    let (auditor, _backend) = auditor(&tasks).await;
    let keys = auditor.db.keys.clone();
    let (together, snapshot_id) = (ServerGroupId::generate(), SnapshotId::generate());
    let [member, stranger, lost, holder, other] = [(); 5].map(|()| InstanceId::generate());
    let [gone, grown, held, left] = [(); 4].map(|()| VolumeId::generate());
    let mut there = world();
    there.computes.get_mut(HOST).unwrap().guests.insert(member, guest(member));
    let volumes = &mut there.backends.get_mut(BACKEND).unwrap().volumes;
    volumes.extend([grown, held, left].map(|id| (id, stored(id))));
    volumes.get_mut(&grown).unwrap().size_gib = 4;

    let usage_key = keys.usage(&"demo".parse().unwrap());
    let used = QuotaUsage { cores: 9, ..Default::default() };
    auditor.put(&usage_key, &UsageRecord { usage: Some(used) }).await;
    auditor.put(&keys.server_group(together), &group(&[member, stranger])).await;
    auditor.put(&keys.instance(member), &member_of(together, member)).await;
    auditor.put(&keys.instance(lost), &instance(lost, State::Active, HOST)).await;
    auditor.put(&keys.volume(gone), &volume(gone, VolumeState::Available, BACKEND)).await;
    auditor.put(&keys.snapshot(snapshot_id), &snapshot(&snapshot_id.to_string())).await;
    let counted = VolumeRecord { counted: true, ..volume(grown, VolumeState::Available, BACKEND) };
    auditor.put(&keys.volume(grown), &counted).await;
    auditor.put(&keys.volume(held), &taken(held, holder)).await;
    auditor.put(&keys.volume(left), &taken(left, other)).await;

    // What changes under each mend. A record that was not there is made.
    let cases = [
        (Kind::UsageDrift, "demo".to_owned(), usage_key),
        (Kind::GroupMemberGone, together.to_string(), keys.instance(stranger)),
        (Kind::GroupPlaceWrong, together.to_string(), keys.instance(member)),
        (Kind::GuestMissing, lost.to_string(), keys.instance(lost)),
        (Kind::VolumeMissing, gone.to_string(), keys.volume(gone)),
        (Kind::SnapshotMissing, snapshot_id.to_string(), keys.snapshot(snapshot_id)),
        (Kind::VolumeSizeDrift, grown.to_string(), keys.volume(grown)),
        (Kind::AttachmentDrift, held.to_string(), keys.volume(held)),
        (Kind::AttachmentDrift, left.to_string(), keys.instance(other)),
    ];
    let found = auditor.found(&there).await;
    assert_eq!(found.len(), cases.len());
    for (kind, subject, key) in &cases {
        let finding = found.iter().find(|one| one.kind == *kind && one.subject == *subject).unwrap();
        auditor.touch(key).await;
        let before = auditor.everything().await;
        assert_eq!(auditor.heal(finding).await, Err(CHANGED.to_owned()), "{kind:?}");
        assert_eq!(auditor.everything().await, before, "{kind:?}");
    }

    let made = Txn::new().delete(keys.instance(stranger)).delete(keys.instance(other));
    auditor.db.commit(made).await.unwrap().committed().unwrap();
    let found = auditor.found(&there).await;
    assert_eq!(found.len(), cases.len());
    for finding in &found {
        assert_eq!(auditor.heal(finding).await, Ok(()), "{:?}", finding.kind);
    }
    assert!(auditor.found(&there).await.is_empty());
}
