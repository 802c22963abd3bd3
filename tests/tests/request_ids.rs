//! Every request that has a request id is done once for it, whatever was asked meanwhile; over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::{Reason, ServiceKind, VolumeId};
use kilonova_proto::FILE_DESCRIPTOR_SET;
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::{InstanceRecord, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::config::Period;
use kilonova_store::KeyValue;
use kilonova_store::keys::{Key, Keys};
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use parking_lot::Mutex;
use prost::Message;
use prost_types::method_options::IdempotencyLevel;
use prost_types::{FieldMask, FileDescriptorSet};

over_both_stores!(what_is_asked_again_with_its_id_changes_nothing_more);

/// What changes something and has no request id: each names what it is about, and does nothing more when that is done.
const WITHOUT: [&str; 2] = ["acceptstore", "audit"];

/// The methods of the public api that change something: with a request id and without.
fn methods() -> (BTreeSet<String>, BTreeSet<String>) {
    let all = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let files: Vec<_> = all.file.iter().filter(|file| file.package() == "kilonova.api.v1").collect();
    let messages: Vec<_> = files.iter().flat_map(|file| &file.message_type).collect();
    let mut found = (BTreeSet::new(), BTreeSet::new());
    for method in files.iter().flat_map(|file| &file.service).flat_map(|service| &service.method) {
        let input = method.input_type().rsplit('.').next().unwrap();
        let message = messages.iter().find(|message| message.name() == input).unwrap();
        let level = method.options.as_ref().unwrap().idempotency_level();
        if message.field.iter().any(|field| field.name() == "request_id") {
            found.0.insert(method.name().to_lowercase());
        } else if level != IdempotencyLevel::NoSideEffects {
            found.1.insert(method.name().to_lowercase());
        }
    }
    found
}

#[test]
fn what_changes_something_has_a_request_id() {
    assert_eq!(methods().1, WITHOUT.map(String::from).into());
}

/// A cell, and what was asked of it.
struct Asked {
    cluster: Cluster,
    api: Api,
    methods: Mutex<Vec<String>>,
}

/// Asks `$request` under an id until it is accepted, has something else asked, and asks it again: nothing may change. Then asks `$other`
/// under that id, which is refused. Gives the first answer.
macro_rules! once {
    ($asked:ident, $clients:ident.$method:ident($request:expr), other $other:expr, then $then:expr) => {{
        let (name, api) = (stringify!($method), $asked.api.clone());
        let id = format!("{name}-{}", $asked.methods.lock().len());
        let (mut request, mut other) = ($request, $other);
        request.request_id.clone_from(&id);
        other.request_id.clone_from(&id);
        let answer = until(&format!("{name} is accepted"), || async {
            Some(api.$clients().$method(request.clone()).await.ok()?.into_inner())
        })
        .await;
        let () = $then(answer.clone()).await;
        let before = $asked.records().await;
        if let Err(status) = api.$clients().$method(request).await {
            panic!("{name}, again: {status}");
        }
        assert_eq!($asked.records().await, before, "{name}, again");
        let refused = api.$clients().$method(other).await;
        let refused = refused.map(drop).map_err(|status| from_status(&status).unwrap().reason);
        assert_eq!(refused, Err(Reason::RequestIdReused), "{name}");
        assert_eq!($asked.records().await, before, "{name}, of another");
        $asked.methods.lock().push(name.replace('_', ""));
        answer
    }};
}

/// Asks `$request` until it is accepted.
macro_rules! ask {
    ($api:expr, $clients:ident.$method:ident($request:expr)) => {{
        let (api, request) = ($api.clone(), $request);
        until(concat!(stringify!($method), " is accepted"), || async {
            Some(api.$clients().$method(request.clone()).await.ok()?.into_inner())
        })
        .await
    }};
}

impl Asked {
    /// All that requests change: of what is driven how often it was changed by one, of the rest its revision.
    async fn records(&self) -> BTreeMap<String, String> {
        let keys = Keys::new(self.cluster.cell());
        let (store, mut after, mut records) = (self.cluster.shared_store(), None, BTreeMap::new());
        loop {
            let page = store.list(keys.root(), after.as_deref(), 1000).await.unwrap();
            records.extend(page.items.iter().filter_map(|item| record(&keys, item)));
            match page.next {
                Some(next) => after = Some(next),
                None => return records,
            }
        }
    }

    async fn at_rest(&self, instance: &str, state: State) {
        until(&format!("{instance} is {state:?} and left alone"), || async {
            let instance = self.api.get(instance).await.ok()?;
            let is_free =
                instance.attachments.iter().all(|one| one.state() == pb::attachment::State::Attached);
            (instance.state() == state && instance.task() == pb::instance::Task::Unspecified && is_free)
                .then_some(())
        })
        .await;
    }
}

/// Nothing else is asked.
async fn nothing<T>(_: T) {}

/// What is compared of a record.
fn record(keys: &Keys, item: &KeyValue) -> Option<(String, String)> {
    let value = item.value.clone();
    let said = match keys.parse(&item.key)? {
        Key::Instance(_) => {
            let record = InstanceRecord::decode(value).unwrap();
            format!("{:?}", (record.instance.unwrap().spec.unwrap().name, record.actions.len()))
        }
        Key::Volume(_) => {
            let record = VolumeRecord::decode(value).unwrap();
            format!("{:?}", (record.volume.unwrap().spec.unwrap().name, record.actions.len()))
        }
        Key::Snapshot(_) => format!("{}", SnapshotRecord::decode(value).unwrap().actions.len()),
        Key::Aggregate(_)
        | Key::Flavor(_)
        | Key::Image(_)
        | Key::ServerGroup(_)
        | Key::Host(..)
        | Key::Fence(..)
        | Key::Quota(_)
        | Key::Request(..) => item.mod_revision.to_string(),
        _ => return None,
    };
    Some((item.key.clone(), said))
}

async fn what_is_asked_again_with_its_id_changes_nothing_more(backing: Backing) {
    let mut plan = Plan::new(backing);
    // What is deleted is soon in no record.
    plan.conductor.retention = Period::from_millis(100);
    let Some((cluster, api)) = started(plan).await else { return };
    let mut asked = Asked { cluster, api, methods: Mutex::default() };
    catalogue(&asked).await;
    aggregates(&asked).await;
    hosts(&asked).await;
    volumes(&asked).await;
    instances(&mut asked).await;
    let done = asked.methods.lock().iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(done, methods().0, "each method that has a request id, and no other");
    asked.cluster.shutdown().await;
}

async fn catalogue(asked: &Asked) {
    let api = asked.api.clone();
    let flavor = |id: &str| {
        let flavor = pb::Flavor { id: id.into(), vcpus: 1, ram_mib: 512, ..Default::default() };
        api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() }
    };
    let no_flavor = |id: &str, allow_missing| api::DeleteFlavorRequest {
        flavor_id: id.into(),
        allow_missing,
        ..Default::default()
    };
    once!(asked, flavors.create_flavor(flavor("f")), other flavor("g"), then nothing);
    let made_again = async |_| drop(ask!(api, flavors.create_flavor(flavor("f"))));
    once!(asked, flavors.delete_flavor(no_flavor("f", false)), other no_flavor("g", false), then made_again);
    let made = async |_| drop(ask!(api, flavors.create_flavor(flavor("g"))));
    once!(asked, flavors.delete_flavor(no_flavor("g", true)), other no_flavor("f", true), then made);

    let image = |id: &str| {
        let image = pb::Image { id: id.into(), ..Default::default() };
        api::CreateImageRequest { image: Some(image), ..Default::default() }
    };
    let no_image = |id: &str, allow_missing| api::DeleteImageRequest {
        image_id: id.into(),
        allow_missing,
        ..Default::default()
    };
    once!(asked, images.create_image(image("i")), other image("j"), then nothing);
    let made_again = async |_| drop(ask!(api, images.create_image(image("i"))));
    once!(asked, images.delete_image(no_image("i", false)), other no_image("j", false), then made_again);
    let made = async |_| drop(ask!(api, images.create_image(image("j"))));
    once!(asked, images.delete_image(no_image("j", true)), other no_image("i", true), then made);

    let quota = |instances| api::UpdateQuotaRequest {
        project_id: "p".into(),
        limits: Some(pb::QuotaLimits { instances, ..Default::default() }),
        ..Default::default()
    };
    let raised = async |_| drop(ask!(api, quotas.update_quota(quota(7))));
    once!(asked, quotas.update_quota(quota(5)), other quota(6), then raised);

    let group = |name: &str| {
        let mut group = pb::ServerGroup { name: name.into(), ..Default::default() };
        group.set_policy(pb::server_group::Policy::SoftAffinity);
        api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() }
    };
    let made = once!(asked, server_groups.create_server_group(group("a")), other group("b"), then nothing);
    let no_group =
        |id: &str| api::DeleteServerGroupRequest { server_group_id: id.into(), ..Default::default() };
    let group = made.server_group.unwrap().id;
    let other = no_group(&VolumeId::generate().to_string());
    once!(asked, server_groups.delete_server_group(no_group(&group)), other other, then nothing);
}

async fn aggregates(asked: &Asked) {
    let api = asked.api.clone();
    let new = |id: &str| {
        let aggregate = pb::Aggregate { id: id.into(), ..Default::default() };
        api::CreateAggregateRequest { aggregate: Some(aggregate), ..Default::default() }
    };
    once!(asked, aggregates.create_aggregate(new("a")), other new("b"), then nothing);

    let update = |disk: &str| {
        let metadata = [("disk".to_owned(), disk.to_owned())].into();
        api::UpdateAggregateRequest {
            aggregate_id: "a".into(),
            aggregate: Some(pb::Aggregate { metadata, ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["metadata".into()] }),
            ..Default::default()
        }
    };
    let changed = async |_| drop(ask!(api, aggregates.update_aggregate(update("nvme"))));
    once!(asked, aggregates.update_aggregate(update("ssd")), other update("hdd"), then changed);

    let add = |host: &str| api::AddAggregateHostsRequest {
        aggregate_id: "a".into(),
        hosts: vec![host.into()],
        ..Default::default()
    };
    let remove = |host: &str| api::RemoveAggregateHostsRequest {
        aggregate_id: "a".into(),
        hosts: vec![host.into()],
        ..Default::default()
    };
    let (one, two) = ("compute-1", "compute-2");
    let removed = async |_| drop(ask!(api, aggregates.remove_aggregate_hosts(remove(one))));
    once!(asked, aggregates.add_aggregate_hosts(add(one)), other add(two), then removed);
    let added = async |_| drop(ask!(api, aggregates.add_aggregate_hosts(add(one))));
    once!(asked, aggregates.remove_aggregate_hosts(remove(one)), other remove(two), then added);
    // What changes nothing is remembered too.
    let removed = async |_| drop(ask!(api, aggregates.remove_aggregate_hosts(remove(one))));
    once!(asked, aggregates.add_aggregate_hosts(add(one)), other add(two), then removed);

    let no = |id: &str, allow_missing| api::DeleteAggregateRequest {
        aggregate_id: id.into(),
        allow_missing,
        ..Default::default()
    };
    let made_again = async |_| drop(ask!(api, aggregates.create_aggregate(new("a"))));
    once!(asked, aggregates.delete_aggregate(no("a", false)), other no("b", false), then made_again);
    let made = async |_| drop(ask!(api, aggregates.create_aggregate(new("b"))));
    once!(asked, aggregates.delete_aggregate(no("b", true)), other no("a", true), then made);
}

async fn hosts(asked: &Asked) {
    let api = asked.api.clone();
    let compute = || pb::ServiceKind::Compute.into();
    let disable = |host: &str, reason: &str| api::DisableHostRequest {
        service: compute(),
        host: host.into(),
        reason: reason.into(),
        ..Default::default()
    };
    let enable =
        |host: &str| api::EnableHostRequest { service: compute(), host: host.into(), ..Default::default() };
    let enabled = async |_| drop(ask!(api, hosts.enable_host(enable("compute-1"))));
    let other = disable("compute-1", "other");
    once!(asked, hosts.disable_host(disable("compute-1", "why")), other other, then enabled);
    let disabled = async |_| drop(ask!(api, hosts.disable_host(disable("compute-1", "why"))));
    once!(asked, hosts.enable_host(enable("compute-1")), other enable("compute-2"), then disabled);
    ask!(api, hosts.enable_host(enable("compute-1")));

    let update = |name: &str| api::UpdateHostRequest {
        service: compute(),
        host: "compute-1".into(),
        traits: vec![name.into()],
        update_mask: Some(FieldMask { paths: vec!["traits".into()] }),
        ..Default::default()
    };
    let updated = async |_| drop(ask!(api, hosts.update_host(update("CUSTOM_B"))));
    once!(asked, hosts.update_host(update("CUSTOM_A")), other update("CUSTOM_C"), then updated);
}

async fn volumes(asked: &Asked) {
    let api = asked.api.clone();
    let new = |name: &str| {
        let spec = pb::VolumeSpec { name: name.into(), size_gib: 1, ..Default::default() };
        api::CreateVolumeRequest { volume: Some(spec), ..Default::default() }
    };
    let there = async |answer: api::CreateVolumeResponse| {
        drop(api.until_volume(&answer.volume.unwrap().id, VolumeState::Available).await);
    };
    let made = once!(asked, volumes.create_volume(new("a")), other new("b"), then there);
    let id = made.volume.unwrap().id;

    let update = |name: &str| api::UpdateVolumeRequest {
        volume_id: id.clone(),
        volume: Some(pb::VolumeSpec { name: name.into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    let changed = async |_| drop(ask!(api, volumes.update_volume(update("c"))));
    once!(asked, volumes.update_volume(update("b")), other update("d"), then changed);

    let extend =
        |size_gib| api::ExtendVolumeRequest { volume_id: id.clone(), size_gib, ..Default::default() };
    let extended = async |_| {
        ask!(api, volumes.extend_volume(extend(3)));
        until("the volume has grown", || async {
            let volume = api.get_volume(&id).await.ok()?;
            (volume.state() == VolumeState::Available && volume.spec?.size_gib == 3).then_some(())
        })
        .await;
    };
    once!(asked, volumes.extend_volume(extend(2)), other extend(9), then extended);

    let snapshot = |name: &str| api::CreateSnapshotRequest {
        volume_id: id.clone(),
        name: name.into(),
        ..Default::default()
    };
    let get = async |id: &str| {
        let request = api::GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        Some(api.snapshots().get_snapshot(request).await.ok()?.into_inner().snapshot.unwrap().state())
    };
    let there = async |answer: api::CreateSnapshotResponse| {
        let id = answer.snapshot.unwrap().id;
        until("the snapshot is there", || async {
            (get(&id).await == Some(SnapshotState::Available)).then_some(())
        })
        .await;
    };
    let made = once!(asked, snapshots.create_snapshot(snapshot("a")), other snapshot("b"), then there);
    let snapshot_id = made.snapshot.unwrap().id;
    let delete = |etag: &str| api::DeleteSnapshotRequest {
        snapshot_id: snapshot_id.clone(),
        etag: etag.into(),
        ..Default::default()
    };
    let gone = async |_| {
        until("the snapshot is gone", || async { get(&snapshot_id).await.is_none().then_some(()) }).await;
    };
    once!(asked, snapshots.delete_snapshot(delete("")), other delete("0"), then gone);
    let delete = |etag: &str| api::DeleteVolumeRequest {
        volume_id: id.clone(),
        etag: etag.into(),
        ..Default::default()
    };
    let gone = async |_| {
        until("the volume is gone", || async { api.get_volume(&id).await.is_err().then_some(()) }).await;
    };
    once!(asked, volumes.delete_volume(delete("")), other delete("0"), then gone);
}

/// A request of that type about the instance; with an etag it is another one.
macro_rules! of {
    ($request:ident, $id:expr, $etag:expr $(, $field:ident: $value:expr)*) => {
        api::$request { instance_id: $id.to_owned(), etag: $etag.into() $(, $field: $value)*, ..Default::default() }
    };
}

async fn instances(asked: &mut Asked) {
    let api = asked.api.clone();
    let new = |name: &str| {
        let (name, flavor_id, image_id) = (name.into(), "small".into(), "cirros".into());
        let spec = pb::InstanceSpec { name, flavor_id, image_id, ..Default::default() };
        api::CreateInstanceRequest { instance: Some(spec), ..Default::default() }
    };
    let built = async |answer: api::CreateInstanceResponse| {
        drop(api.until(&answer.instances[0].id, State::Active).await);
    };
    let made = once!(asked, instances.create_instance(new("a")), other new("b"), then built);
    let id = made.instances[0].id.clone();
    let update = |name: &str| api::UpdateInstanceRequest {
        instance_id: id.clone(),
        instance: Some(pb::InstanceSpec { name: name.into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    let changed = async |_| drop(ask!(api, instances.update_instance(update("c"))));
    once!(asked, instances.update_instance(update("b")), other update("d"), then changed);
    power(asked, &id).await;
    moves(asked, &id).await;
    attachments(asked, &id).await;
    let spare = ask!(api, instances.create_instance(new("spare"))).instances.remove(0).id;
    api.until(&spare, State::Active).await;
    let other = of!(DeleteInstanceRequest, spare, "0");
    let gone = async |_| {
        until("the instance is gone", || async { api.get(&spare).await.is_err().then_some(()) }).await;
    };
    once!(asked, instances.delete_instance(of!(DeleteInstanceRequest, spare, "")), other other, then gone);
    dead_host(asked, &id).await;
}

async fn power(asked: &Asked, id: &str) {
    let (start, stop) = (of!(StartInstanceRequest, id, ""), of!(StopInstanceRequest, id, ""));
    let started = async |asked: &Asked| {
        ask!(asked.api, instances.start_instance(start.clone()));
        asked.at_rest(id, State::Active).await;
    };
    let stopped = async |asked: &Asked| {
        ask!(asked.api, instances.stop_instance(stop.clone()));
        asked.at_rest(id, State::Stopped).await;
    };
    let other = of!(StopInstanceRequest, id, "0");
    once!(asked, instances.stop_instance(stop.clone()), other other, then async |_| started(asked).await);
    stopped(asked).await;
    let other = of!(StartInstanceRequest, id, "0");
    once!(asked, instances.start_instance(start.clone()), other other, then async |_| stopped(asked).await);
    started(asked).await;
    let (reboot, other) =
        (of!(RebootInstanceRequest, id, ""), of!(RebootInstanceRequest, id, "", hard: true));
    let rebooted = async |_| asked.at_rest(id, State::Active).await;
    once!(asked, instances.reboot_instance(reboot), other other, then rebooted);
    let (rebuild, other) = (of!(RebuildInstanceRequest, id, ""), of!(RebuildInstanceRequest, id, "0"));
    let rebuilt = async |_| asked.at_rest(id, State::Active).await;
    once!(asked, instances.rebuild_instance(rebuild), other other, then rebuilt);
}

async fn moves(asked: &Asked, id: &str) {
    let resize = |flavor: &str| of!(ResizeInstanceRequest, id, "", flavor_id: flavor.into());
    let (confirm, revert) = (of!(ConfirmResizeRequest, id, ""), of!(RevertResizeRequest, id, ""));
    let resized = async |asked: &Asked, flavor: &str| {
        ask!(asked.api, instances.resize_instance(resize(flavor)));
        asked.at_rest(id, State::Resized).await;
    };
    let reverted = async |_| {
        ask!(asked.api, instances.revert_resize(revert.clone()));
        asked.at_rest(id, State::Active).await;
    };
    once!(asked, instances.resize_instance(resize("double")), other resize("huge"), then reverted);
    resized(asked, "double").await;
    let other = of!(RevertResizeRequest, id, "0");
    let again = async |_| resized(asked, "double").await;
    once!(asked, instances.revert_resize(revert.clone()), other other, then again);
    let triple =
        pb::Flavor { id: "triple".into(), vcpus: 3, ram_mib: 1536, disk_gib: 2, ..Default::default() };
    let new = api::CreateFlavorRequest { flavor: Some(triple), ..Default::default() };
    ask!(asked.api, flavors.create_flavor(new));
    let other = of!(ConfirmResizeRequest, id, "0");
    let again = async |_| resized(asked, "triple").await;
    once!(asked, instances.confirm_resize(confirm.clone()), other other, then again);
    ask!(asked.api, instances.confirm_resize(confirm));
    asked.at_rest(id, State::Active).await;
    let migrate = of!(MigrateInstanceRequest, id, "", live: true);
    let migrated = async |_| asked.at_rest(id, State::Active).await;
    let other = of!(MigrateInstanceRequest, id, "");
    once!(asked, instances.migrate_instance(migrate), other other, then migrated);
}

async fn attachments(asked: &Asked, id: &str) {
    let api = asked.api.clone();
    let spec = pb::VolumeSpec { name: "disk".into(), size_gib: 1, ..Default::default() };
    let new = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let volume = ask!(api, volumes.create_volume(new)).volume.unwrap().id;
    api.until_volume(&volume, VolumeState::Available).await;
    let attach = of!(AttachVolumeRequest, id, "", volume_id: volume.clone());
    let detach = of!(DetachVolumeRequest, id, "", volume_id: volume.clone());
    let attached = async |_| {
        ask!(api, instances.attach_volume(attach.clone()));
        api.until_volume(&volume, VolumeState::InUse).await;
        asked.at_rest(id, State::Active).await;
    };
    let detached = async |_| {
        ask!(api, instances.detach_volume(detach.clone()));
        api.until_volume(&volume, VolumeState::Available).await;
        asked.at_rest(id, State::Active).await;
    };
    let other = of!(AttachVolumeRequest, id, "0", volume_id: volume.clone());
    once!(asked, instances.attach_volume(attach.clone()), other other, then detached);
    attached(()).await;
    let other = of!(DetachVolumeRequest, id, "0", volume_id: volume.clone());
    let attached = async |_| attached(()).await;
    once!(asked, instances.detach_volume(detach.clone()), other other, then attached);
    detached(api::AttachVolumeResponse::default()).await;
}

async fn dead_host(asked: &mut Asked, id: &str) {
    let api = asked.api.clone();
    let host = api.get(id).await.unwrap().host;
    asked.cluster.stop(ServiceKind::Compute, &host).await;
    let asked = &*asked;
    let service = pb::ServiceKind::Compute.into();
    let fence = |host: &str| api::FenceHostRequest { service, host: host.into(), ..Default::default() };
    let unfence = |host: &str| api::UnfenceHostRequest { service, host: host.into(), ..Default::default() };
    let unfenced = async |_| drop(ask!(api, hosts.unfence_host(unfence(&host))));
    once!(asked, hosts.fence_host(fence(&host)), other fence("compute-9"), then unfenced);
    ask!(api, hosts.fence_host(fence(&host)));
    let fenced = async |_| drop(ask!(api, hosts.fence_host(fence(&host))));
    once!(asked, hosts.unfence_host(unfence(&host)), other unfence("compute-9"), then fenced);

    let evacuated = async |_| {
        let away = |instance: &pb::Instance| instance.host != host && instance.state() == State::Active;
        until("it runs elsewhere", || async { api.get(id).await.ok().filter(away) }).await;
        asked.at_rest(id, State::Active).await;
    };
    let (evacuate, other) = (of!(EvacuateInstanceRequest, id, ""), of!(EvacuateInstanceRequest, id, "0"));
    once!(asked, instances.evacuate_instance(evacuate), other other, then evacuated);
}
