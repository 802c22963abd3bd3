//! The audit, end to end through every service, over both stores: what is right is left alone, whatever goes on; what is wrong is
//! found, healed, and not found again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write;

use futures::future::join_all;
use kilonova_model::{HostName, InstanceId, Reason, ServerGroupId, ServiceKind, SnapshotId, VolumeId};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1 as records;
use kilonova_proto::conductor::v1::{InstanceRecord, MemberPlace, ServerGroupRecord, UsageRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::{Healing, Kind};
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::volume::v1 as volume_service;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::status::from_status;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use prost::Message;
use tokio::sync::watch;

over_both_stores!(
    a_cell_that_is_right_has_no_drift,
    usage_and_groups_are_put_right,
    what_no_record_wants_is_removed,
    what_a_host_lost_ends_in_error_and_what_grew_is_counted,
    exports_follow_the_instances,
    what_cannot_be_asked_is_not_checked,
    an_audit_that_heals_loses_nothing_of_what_goes_on,
);

async fn audit_of(api: &Api, heal: bool, host: &str) -> Result<pb::Audit, Reason> {
    let answer = api.audits().audit(api::AuditRequest { heal, host: host.into() }).await;
    answer.map(|a| a.into_inner().audit.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

async fn audit(api: &Api, heal: bool) -> pb::Audit {
    audit_of(api, heal, "").await.unwrap()
}

fn kinds(audit: &pb::Audit) -> Vec<Kind> {
    audit.drifts.iter().map(pb::Drift::kind).collect()
}

/// What is found without healing, and then, healed; once more, it is found no more.
async fn healed(api: &Api, expected: &[Kind]) -> Vec<pb::Drift> {
    let found = audit(api, false).await;
    assert_eq!(kinds(&found), expected, "{found:#?}");
    assert!(found.drifts.iter().all(|drift| drift.healing() == Healing::Unspecified));
    assert!(found.drifts.iter().all(|drift| !drift.remedy.is_empty()), "{found:#?}");
    let mended = audit(api, true).await;
    assert_eq!(kinds(&mended), expected, "{mended:#?}");
    assert!(mended.drifts.iter().all(|drift| drift.healing() == Healing::Healed), "{mended:#?}");
    clean(api).await;
    found.drifts
}

/// Nothing is found, once hosts have done what they took.
async fn clean(api: &Api) {
    until("nothing is found", || async {
        let found = audit(api, false).await;
        found.drifts.is_empty().then_some(())
    })
    .await;
}

fn keys(cluster: &Cluster) -> Keys {
    Keys::new(cluster.cell())
}

async fn read<R: Message + Default>(cluster: &Cluster, key: &str) -> R {
    let (found, _) = cluster.shared_store().get(key).await.unwrap();
    R::decode(found.unwrap().value).unwrap()
}

/// Changes the store behind the conductors' back.
async fn change(cluster: &Cluster, txn: Txn) {
    cluster.shared_store().txn(txn).await.unwrap().committed().unwrap();
}

async fn volume(api: &Api, name: &str) -> pb::Volume {
    let spec = pb::VolumeSpec { name: name.into(), size_gib: 1, ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let id = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    api.until_volume(&id, VolumeState::Available).await
}

async fn attach(api: &Api, instance: &str, volume: &str) {
    let (instance_id, volume_id) = (instance.to_owned(), volume.to_owned());
    let request = api::AttachVolumeRequest { instance_id, volume_id, ..Default::default() };
    api.instances().attach_volume(request).await.unwrap();
    api.until_volume(volume, VolumeState::InUse).await;
}

async fn detach(api: &Api, instance: &str, volume: &str) {
    let (instance_id, volume_id) = (instance.to_owned(), volume.to_owned());
    let request = api::DetachVolumeRequest { instance_id, volume_id, ..Default::default() };
    api.instances().detach_volume(request).await.unwrap();
    api.until_volume(volume, VolumeState::Available).await;
}

async fn snapshot(api: &Api, volume: &str) -> pb::Snapshot {
    let request =
        api::CreateSnapshotRequest { volume_id: volume.into(), name: "kept".into(), ..Default::default() };
    let answer = api.snapshots().create_snapshot(request).await.unwrap();
    let id = answer.into_inner().snapshot.unwrap().id;
    until("the snapshot is there", || async {
        let request = api::GetSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
        let snapshot = api.snapshots().get_snapshot(request).await.ok()?.into_inner().snapshot?;
        (snapshot.state() == SnapshotState::Available).then_some(snapshot)
    })
    .await
}

async fn migrate(api: &Api, id: &str, live: bool) {
    let request = api::MigrateInstanceRequest { instance_id: id.into(), live, ..Default::default() };
    api.instances().migrate_instance(request).await.unwrap();
    let state = if live { State::Active } else { State::Resized };
    until(&format!("{id} has moved"), || async {
        let instance = api.get(id).await.ok()?;
        (instance.state() == state && instance.task() == Task::Unspecified).then_some(())
    })
    .await;
}

async fn confirm(api: &Api, id: &str) {
    let request = api::ConfirmResizeRequest { instance_id: id.into(), ..Default::default() };
    api.instances().confirm_resize(request).await.unwrap();
    api.until(id, State::Active).await;
    api.settled(id).await;
}

async fn stop(api: &Api, id: &str) {
    let request = api::StopInstanceRequest { instance_id: id.into(), ..Default::default() };
    api.instances().stop_instance(request).await.unwrap();
    api.until(id, State::Stopped).await;
}

async fn group(api: &Api, policy: Policy) -> String {
    let group = pb::ServerGroup { name: "g".into(), policy: policy.into(), ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let answer = api.server_groups().create_server_group(request).await.unwrap();
    answer.into_inner().server_group.unwrap().id
}

async fn in_group(api: &Api, group: &str) -> pb::Instance {
    let hints = pb::SchedulerHints { server_group_id: group.into(), ..Default::default() };
    let spec = pb::InstanceSpec {
        name: "member".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let answer = api.instances().create_instance(request).await.unwrap().into_inner();
    api.until(&answer.instances[0].id, State::Active).await
}

async fn usage(api: &Api) -> pb::QuotaUsage {
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    quota.quota.unwrap().usage.unwrap()
}

async fn a_cell_that_is_right_has_no_drift(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let spread = group(&api, Policy::AntiAffinity).await;
    let (first, second) = (in_group(&api, &spread).await, in_group(&api, &spread).await);
    let data = volume(&api, "data").await;
    attach(&api, &first.id, &data.id).await;
    snapshot(&api, &volume(&api, "kept").await.id).await;
    migrate(&api, &first.id, true).await;
    let resized = api.active("resized").await;
    migrate(&api, &resized.id, false).await;
    stop(&api, &second.id).await;
    let gone = api.active("gone").await;
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;

    let found = audit(&api, true).await;
    assert!(found.drifts.is_empty() && found.unchecked.is_empty() && !found.truncated, "{found:#?}");
    assert_eq!((found.instances, found.volumes, found.snapshots, found.server_groups), (4, 2, 1, 1));
    assert_eq!((found.projects, found.hosts), (1, 5));

    confirm(&api, &resized.id).await;
    assert!(audit(&api, true).await.drifts.is_empty());
    let of_one = audit_of(&api, true, "compute-1").await.unwrap();
    assert_eq!((of_one.hosts, of_one.drifts.len()), (1, 0));
    assert_eq!(audit_of(&api, true, "compute-77").await.unwrap_err(), Reason::HostNotFound);
    assert_eq!(audit_of(&api, true, "no host!").await.unwrap_err(), Reason::ValidationFailed);
    cluster.shutdown().await;
}

async fn usage_and_groups_are_put_right(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let together = group(&api, Policy::Affinity).await;
    let (first, second) = (in_group(&api, &together).await, in_group(&api, &together).await);
    let right = usage(&api).await;
    let wrong = pb::QuotaUsage { cores: 9, snapshots: 1, ..right };
    let key = keys(&cluster).usage(&"default".parse().unwrap());
    change(&cluster, Txn::new().put(key, UsageRecord { usage: Some(wrong) }.encode_to_vec())).await;
    let found = healed(&api, &[Kind::UsageDrift]).await;
    assert_eq!(found[0].cause, "cores: 9 counted, 2 in the records; snapshots: 1 counted, 0 in the records");
    assert_eq!(
        (found[0].subject_id.as_str(), found[0].remedy.as_str()),
        ("default", "write the sum of the records")
    );
    assert_eq!(usage(&api).await, right);

    let key = keys(&cluster).server_group(together.parse::<ServerGroupId>().unwrap());
    let mut record: ServerGroupRecord = read(&cluster, &key).await;
    let as_it_was = record.clone();
    let stranger = InstanceId::generate().to_string();
    record.server_group.as_mut().unwrap().instance_ids.push(stranger.clone());
    let elsewhere = MemberPlace { host: "compute-9".into(), ..Default::default() };
    record.places.insert(stranger, elsewhere.clone());
    record.places.insert(first.id.clone(), elsewhere);
    record.places.remove(&second.id);
    change(&cluster, Txn::new().put(&key, record.encode_to_vec())).await;
    let expected = [Kind::GroupMemberGone, Kind::GroupPlaceWrong, Kind::GroupPlaceWrong];
    healed(&api, &expected).await;
    let now: ServerGroupRecord = read(&cluster, &key).await;
    assert_eq!(now, as_it_was);

    let mut broken = as_it_was;
    broken.server_group.as_mut().unwrap().set_policy(Policy::AntiAffinity);
    change(&cluster, Txn::new().put(&key, broken.encode_to_vec())).await;
    let found = audit(&api, true).await;
    assert_eq!(kinds(&found), [Kind::GroupRuleBroken]);
    let drift = &found.drifts[0];
    assert_eq!((drift.remedy.as_str(), drift.healing()), ("", Healing::NotHealed));
    let cause = format!("at most 1 of them may share a host, and there are 2 on {}", first.host);
    assert_eq!(drift.cause, cause);
    cluster.shutdown().await;
}

async fn what_no_record_wants_is_removed(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let (lost, kept) = (api.active("lost").await, api.active("kept").await);
    let data = volume(&api, "data").await;
    attach(&api, &lost.id, &data.id).await;
    let (orphan, copied) = (volume(&api, "orphan").await, volume(&api, "copied").await);
    let copy = snapshot(&api, &copied.id).await;
    let keys = keys(&cluster);
    let txn = Txn::new()
        .delete(keys.instance(lost.id.parse::<InstanceId>().unwrap()))
        .delete(keys.volume(orphan.id.parse::<VolumeId>().unwrap()))
        .delete(keys.snapshot(copy.id.parse::<SnapshotId>().unwrap()));
    change(&cluster, txn).await;
    let expected = [
        Kind::UsageDrift,
        Kind::GuestOrphan,
        Kind::VolumeOrphan,
        Kind::SnapshotOrphan,
        Kind::AttachmentDrift,
    ];
    let found = healed(&api, &expected).await;
    assert_eq!(
        (found[1].subject_id.as_str(), found[1].host.as_str()),
        (lost.id.as_str(), lost.host.as_str())
    );
    assert_eq!(found[1].cause, "the host has a guest (RUNNING), and there is no record of it");
    assert!(found[1].remedy.starts_with(&format!("terminate it on {}", lost.host)));
    assert_eq!(found[4].cause, format!("its record says IN_USE, and there is no instance {}", lost.id));
    let freed = api.until_volume(&data.id, VolumeState::Available).await;
    assert!(freed.attachments.is_empty());
    let lines = cluster.journals();
    let did = |op: &str, id: &str| lines.iter().filter(|line| line.op == op && line.id == id).count();
    assert_eq!((did("destroy", &lost.id), did("destroy", &kept.id)), (1, 0));
    assert_eq!((did("delete", &orphan.id), did("delete", &copied.id)), (1, 0));
    assert_eq!((did("delete_snapshot", &copy.id), did("unexport", &data.id)), (1, 1));
    attach(&api, &kept.id, &data.id).await;
    assert!(audit(&api, false).await.drifts.is_empty());
    cluster.shutdown().await;
}

/// Stops an agent, has its journal say something it never did, and starts it again.
async fn forge(cluster: &mut Cluster, kind: ServiceKind, host: &str, lines: &[serde_json::Value]) {
    cluster.stop(kind, host).await;
    let path = cluster.data_dir(host).join("journal.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    for (n, line) in lines.iter().enumerate() {
        let mut entry = serde_json::json!({
            "seq": 10_000 + n, "time": "2026-01-01T00:00:00Z", "host": host, "epoch": 1, "op": "", "id": "",
            "name": "forged", "generation": 1, "attempt": 1, "detail": null,
        });
        entry.as_object_mut().unwrap().extend(line.as_object().unwrap().clone());
        writeln!(file, "{entry}").unwrap();
    }
    drop(file);
    cluster.launch(kind, host).await;
    cluster.ready().await;
}

async fn what_a_host_lost_ends_in_error_and_what_grew_is_counted(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.volumes) = (1, 1);
    let Some((mut cluster, api)) = started(plan).await else { return };
    let (lost, halted) = (api.active("lost").await, api.active("halted").await);
    let (gone, grown) = (volume(&api, "gone").await, volume(&api, "grown").await);
    let power = serde_json::json!({ "power": "stop" });
    let lines = [
        serde_json::json!({ "op": "destroy", "id": lost.id }),
        serde_json::json!({ "op": "power", "id": halted.id, "detail": power }),
    ];
    forge(&mut cluster, ServiceKind::Compute, "compute-1", &lines).await;
    let lines = [
        serde_json::json!({ "op": "delete", "id": gone.id }),
        serde_json::json!({ "op": "extend", "id": grown.id, "detail": { "size_gib": 4 } }),
    ];
    forge(&mut cluster, ServiceKind::Volume, "storage-1@sim", &lines).await;

    let expected = [Kind::GuestMissing, Kind::PowerDrift, Kind::VolumeMissing, Kind::VolumeSizeDrift];
    let found = until("agents and conductors have found each other again", || async {
        let found = audit(&api, false).await;
        found.unchecked.is_empty().then_some(found)
    })
    .await;
    assert_eq!(kinds(&found), expected, "{found:#?}");
    assert_eq!(found.drifts[1].cause, "its record says ACTIVE, and the guest is SHUTDOWN");
    assert_eq!(found.drifts[3].cause, "its record says 1 GiB, and the backend has 4 GiB");
    let mended = audit(&api, true).await;
    let healings: Vec<Healing> = mended.drifts.iter().map(pb::Drift::healing).collect();
    assert_eq!(healings, [Healing::Healed, Healing::NotHealed, Healing::Healed, Healing::Healed]);
    let failed = api.until(&lost.id, State::Error).await;
    assert_eq!(failed.fault.unwrap().reason, "BUILD_LOST");
    assert_eq!(api.until_volume(&gone.id, VolumeState::Error).await.fault.unwrap().reason, "BUILD_LOST");
    let grown = api.until_volume(&grown.id, VolumeState::Available).await;
    assert_eq!((grown.spec.unwrap().size_gib, usage(&api).await.gigabytes), (4, 5));
    assert_eq!(kinds(&audit(&api, true).await), [Kind::PowerDrift]);
    cluster.shutdown().await;
}

/// Talks to a backend itself, as a conductor would.
async fn backend(
    cluster: &Cluster,
    api: &Api,
    volume: &pb::Volume,
) -> (VolumeServiceClient<tonic::transport::Channel>, volume_service::VolumeCommand) {
    let service = pb::ServiceKind::Volume.into();
    let request = api::GetHostRequest { service, host: volume.host.clone() };
    let host = api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap();
    let command = volume_service::VolumeCommand {
        volume_id: volume.id.clone(),
        generation: volume.generation,
        attempt: volume.attempt,
        target_host: volume.host.clone(),
        target_epoch: host.epoch,
        request_id: "test".into(),
    };
    (VolumeServiceClient::new(cluster.channel(ServiceKind::Volume, &volume.host)), command)
}

async fn exports_follow_the_instances(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let guest = api.active("guest").await;
    let (free, used) = (volume(&api, "free").await, volume(&api, "used").await);
    attach(&api, &guest.id, &used.id).await;
    let used = api.until_volume(&used.id, VolumeState::InUse).await;
    for volume in [&free, &used] {
        let (mut client, command) = backend(&cluster, &api, volume).await;
        let connector = [("host".to_owned(), "compute-9".to_owned())].into();
        let request = volume_service::InitializeConnectionRequest { command: Some(command), connector };
        client.initialize_connection(request).await.unwrap();
    }
    let found = healed(&api, &[Kind::ExportOrphan, Kind::ExportOrphan]).await;
    assert_eq!(
        (found[0].host.as_str(), found[0].remedy.as_str()),
        ("compute-9", "end its export to compute-9")
    );

    let (mut client, command) = backend(&cluster, &api, &used).await;
    let connector = [("host".to_owned(), guest.host.clone())].into();
    let request = volume_service::TerminateConnectionRequest { command: Some(command), connector };
    client.terminate_connection(request).await.unwrap();
    let found = audit(&api, true).await;
    assert_eq!(kinds(&found), [Kind::ExportMissing]);
    assert_eq!((found.drifts[0].host.as_str(), found.drifts[0].remedy.as_str()), (guest.host.as_str(), ""));
    detach(&api, &guest.id, &used.id).await;
    clean(&api).await;
    cluster.shutdown().await;
}

async fn what_cannot_be_asked_is_not_checked(backing: Backing) {
    let Some((mut cluster, api)) = started(Plan::new(backing)).await else { return };
    let guest = api.active("guest").await;
    let key = keys(&cluster).instance(guest.id.parse::<InstanceId>().unwrap());
    let mut record: InstanceRecord = read(&cluster, &key).await;
    let left = records::Receipt { host: "compute-9".into(), attempt: 1, create_time: None };
    record.receipts.push(left);
    change(&cluster, Txn::new().put(&key, record.encode_to_vec())).await;
    cluster.stop(ServiceKind::Compute, &guest.host).await;
    let found = until("the conductors know that the host has left", || async {
        let found = audit(&api, true).await;
        found.unchecked.iter().any(|one| one.name == guest.host).then_some(found)
    })
    .await;
    assert_eq!(kinds(&found), [Kind::ReceiptLeft], "{found:#?}");
    assert_eq!(found.drifts[0].host, "compute-9");
    let unchecked = &found.unchecked[0];
    assert_eq!(
        (unchecked.service(), unchecked.name.as_str()),
        (pb::ServiceKind::Compute, guest.host.as_str())
    );
    assert_eq!(api.get(&guest.id).await.unwrap().state(), State::Active);
    assert!(HostName::parse(&guest.host).is_ok() && found.hosts == 4);
    cluster.shutdown().await;
}

/// One user's day: everything that moves guests, claims, exports and counts.
async fn live(api: &Api, number: usize) -> (String, String, String) {
    let spread = group(api, Policy::SoftAntiAffinity).await;
    let (gone, kept) = (in_group(api, &spread).await, in_group(api, &spread).await);
    let data = volume(api, &format!("data-{number}")).await;
    attach(api, &gone.id, &data.id).await;
    migrate(api, &gone.id, true).await;
    detach(api, &gone.id, &data.id).await;
    attach(api, &kept.id, &data.id).await;
    migrate(api, &kept.id, false).await;
    confirm(api, &kept.id).await;
    let extra = volume(api, &format!("extra-{number}")).await;
    let request = api::ExtendVolumeRequest { volume_id: extra.id.clone(), size_gib: 3, ..Default::default() };
    api.volumes().extend_volume(request).await.unwrap();
    api.until_volume(&extra.id, VolumeState::Available).await;
    let copy = snapshot(api, &extra.id).await;
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;
    stop(api, &kept.id).await;
    (kept.id, data.id, copy.id)
}

async fn an_audit_that_heals_loses_nothing_of_what_goes_on(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let (done, is_done) = watch::channel(false);
    let auditing = async {
        let mut audits = 0;
        while !*is_done.borrow() {
            let found = audit(&api, true).await;
            assert!(found.drifts.is_empty(), "what is in progress is no drift: {found:#?}");
            audits += 1;
        }
        audits
    };
    let living = async {
        let mut kept = Vec::new();
        for round in 0..3 {
            kept.extend(join_all((0..4).map(|number| live(&api, round * 4 + number))).await);
        }
        done.send_replace(true);
        kept
    };
    let (kept, audits) = tokio::join!(living, auditing);
    assert!(audits > 3, "only {audits} audits");
    for (instance, data, copy) in &kept {
        let instance = api.settled(instance).await;
        assert_eq!(instance.state(), State::Stopped);
        assert_eq!(instance.attachments.len(), 1);
        api.until_volume(data, VolumeState::InUse).await;
        let request = api::GetSnapshotRequest { snapshot_id: copy.clone(), ..Default::default() };
        let copy = api.snapshots().get_snapshot(request).await.unwrap().into_inner().snapshot.unwrap();
        assert_eq!(copy.state(), SnapshotState::Available);
    }
    let used = usage(&api).await;
    assert_eq!(
        (used.instances, used.volumes, used.snapshots, used.gigabytes),
        (12, 24, 12, 12 * (1 + 3 + 3))
    );
    let found = audit(&api, false).await;
    assert!(found.drifts.is_empty() && found.unchecked.is_empty(), "{found:#?}");
    cluster.shutdown().await;
}
