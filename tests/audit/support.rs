//! What the tests ask of a cell and of its audits.

use kilonova_model::Reason;
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::{Healing, Kind};
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Cluster};
use prost::Message;

pub async fn audit_of(api: &Api, heal: bool, host: &str) -> Result<pb::Audit, Reason> {
    let answer = api.audits().audit(api::AuditRequest { heal, host: host.into() }).await;
    answer.map(|a| a.into_inner().audit.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

pub async fn audit(api: &Api, heal: bool) -> pb::Audit {
    audit_of(api, heal, "").await.unwrap()
}

pub fn kinds(audit: &pb::Audit) -> Vec<Kind> {
    audit.drifts.iter().map(pb::Drift::kind).collect()
}

/// What is found without healing, and then, healed; once more, it is found no more.
pub async fn healed(api: &Api, expected: &[Kind]) -> Vec<pb::Drift> {
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
pub async fn clean(api: &Api) {
    until("nothing is found", || async {
        let found = audit(api, false).await;
        found.drifts.is_empty().then_some(())
    })
    .await;
}

pub fn keys(cluster: &Cluster) -> Keys {
    Keys::new(cluster.cell())
}

pub async fn read<R: Message + Default>(cluster: &Cluster, key: &str) -> R {
    let (found, _) = cluster.shared_store().get(key).await.unwrap();
    R::decode(found.unwrap().value).unwrap()
}

/// Changes the store behind the conductors' back.
pub async fn change(cluster: &Cluster, txn: Txn) {
    cluster.shared_store().txn(txn).await.unwrap().committed().unwrap();
}

pub async fn volume(api: &Api, name: &str) -> pb::Volume {
    let spec = pb::VolumeSpec { name: name.into(), size_gib: 1, ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let id = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    api.until_volume(&id, VolumeState::Available).await
}

pub async fn attach(api: &Api, instance: &str, volume: &str) {
    let (instance_id, volume_id) = (instance.to_owned(), volume.to_owned());
    let request = api::AttachVolumeRequest { instance_id, volume_id, ..Default::default() };
    api.instances().attach_volume(request).await.unwrap();
    api.until_volume(volume, VolumeState::InUse).await;
}

pub async fn detach(api: &Api, instance: &str, volume: &str) {
    let (instance_id, volume_id) = (instance.to_owned(), volume.to_owned());
    let request = api::DetachVolumeRequest { instance_id, volume_id, ..Default::default() };
    api.instances().detach_volume(request).await.unwrap();
    api.until_volume(volume, VolumeState::Available).await;
}

pub async fn snapshot(api: &Api, volume: &str) -> pb::Snapshot {
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

pub async fn migrate(api: &Api, id: &str, live: bool) {
    let request = api::MigrateInstanceRequest { instance_id: id.into(), live, ..Default::default() };
    let asked = api.instances().migrate_instance(request).await.unwrap().into_inner().instance.unwrap();
    let state = if live { State::Active } else { State::Resized };
    assert_eq!(api.settled(&asked).await.state(), state);
}

pub async fn confirm(api: &Api, id: &str) {
    let request = api::ConfirmResizeRequest { instance_id: id.into(), ..Default::default() };
    let asked = api.instances().confirm_resize(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.state(), State::Active);
}

pub async fn stop(api: &Api, id: &str) -> pb::Instance {
    let request = api::StopInstanceRequest { instance_id: id.into(), ..Default::default() };
    let asked = api.instances().stop_instance(request).await.unwrap().into_inner().instance.unwrap();
    let stopped = api.settled(&asked).await;
    assert_eq!(stopped.state(), State::Stopped);
    stopped
}

pub async fn group(api: &Api, policy: Policy) -> String {
    let group = pb::ServerGroup { name: "g".into(), policy: policy.into(), ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let answer = api.server_groups().create_server_group(request).await.unwrap();
    answer.into_inner().server_group.unwrap().id
}

pub async fn in_group(api: &Api, group: &str) -> pb::Instance {
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

pub async fn usage(api: &Api) -> pb::QuotaUsage {
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    quota.quota.unwrap().usage.unwrap()
}
