//! Snapshots, and volumes made of snapshots and images, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures::future::join_all;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::snapshot::State;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::{comes_to, until};
use kilonova_tests::{Api, Backing, Plan, journal, over_both_stores};

over_both_stores!(
    a_snapshot_is_made_once_counts_and_keeps_its_volume,
    twins_that_fill_a_quota_are_one,
    a_snapshot_that_fails_says_why_and_can_be_deleted,
    a_volume_is_made_of_a_snapshot_where_that_is_or_of_an_image,
    a_snapshot_waits_for_its_backend,
);

fn reason<T>(answer: Result<T, tonic::Status>) -> Result<T, Reason> {
    answer.map_err(|status| from_status(&status).unwrap().reason)
}

async fn create_volume(api: &Api, spec: pb::VolumeSpec) -> Result<String, Reason> {
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let answer = api.volumes().create_volume(request).await;
    reason(answer).map(|answer| answer.into_inner().volume.unwrap().id)
}

async fn volume(api: &Api, name: &str, size_gib: u32) -> pb::Volume {
    let spec = pb::VolumeSpec { name: name.into(), size_gib, ..Default::default() };
    let id = create_volume(api, spec).await.unwrap();
    api.until_volume(&id, VolumeState::Available).await
}

async fn snapshot(api: &Api, volume: &str, name: &str) -> Result<pb::Snapshot, Reason> {
    let request = api::CreateSnapshotRequest {
        volume_id: volume.into(),
        name: name.into(),
        request_id: format!("{volume}-{name}"),
        ..Default::default()
    };
    let answer = api.snapshots().create_snapshot(request).await;
    reason(answer).map(|answer| answer.into_inner().snapshot.unwrap())
}

async fn snapshot_in(api: &Api, state: State, id: &str) -> pb::Snapshot {
    until(&format!("snapshot {id} is {state:?}"), || async {
        let request = api::GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        let snapshot = api.snapshots().get_snapshot(request).await.ok()?.into_inner().snapshot?;
        (snapshot.state() == state).then_some(snapshot)
    })
    .await
}

async fn delete_snapshot(api: &Api, id: &str) {
    let request = api::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    api.snapshots().delete_snapshot(request).await.unwrap();
    snapshot_in(api, State::Deleted, id).await;
}

async fn delete_volume(api: &Api, id: &str) -> Result<(), Reason> {
    let request = api::DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
    reason(api.volumes().delete_volume(request).await).map(drop)
}

async fn used(api: &Api) -> (u32, u32, u32) {
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    let usage = quota.quota.unwrap().usage.unwrap();
    (usage.volumes, usage.snapshots, usage.gigabytes)
}

async fn a_snapshot_is_made_once_counts_and_keeps_its_volume(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.conductor.quota.snapshots = 2;
    let Some((cluster, api)) = started(plan).await else { return };
    let data = volume(&api, "data", 3).await;
    let made = join_all(["one", "one", "one", "two"].map(|name| snapshot(&api, &data.id, name))).await;
    let ids: Vec<&str> = made.iter().map(|one| one.as_ref().unwrap().id.as_str()).collect();
    assert_eq!((ids[0], ids[0]), (ids[1], ids[2]), "the same request is one snapshot");
    assert_eq!(snapshot(&api, &data.id, "three").await.unwrap_err(), Reason::QuotaExceeded);
    for id in [ids[0], ids[3]] {
        let there = snapshot_in(&api, State::Available, id).await;
        assert_eq!((there.host.as_str(), there.size_gib), (data.host.as_str(), 3));
    }
    comes_to((1, 2, 9), || used(&api)).await;
    let request = api::ListSnapshotsRequest { volume_id: data.id.clone(), ..Default::default() };
    let listed = api.snapshots().list_snapshots(request).await.unwrap().into_inner().snapshots;
    assert_eq!(listed.len(), 2);
    assert_eq!(delete_volume(&api, &data.id).await, Err(Reason::InvalidState), "it has snapshots");
    for id in [ids[0], ids[3]] {
        delete_snapshot(&api, id).await;
    }
    comes_to((1, 0, 3), || used(&api)).await;
    delete_volume(&api, &data.id).await.unwrap();
    api.until_volume(&data.id, VolumeState::Deleted).await;
    comes_to((0, 0, 0), || used(&api)).await;
    let lines = cluster.journals();
    let (made, gone) = (journal::count(&lines, "create_snapshot"), journal::count(&lines, "delete_snapshot"));
    assert!([ids[0], ids[3]].iter().all(|id| made[*id].len() == 1 && gone[*id].len() == 1));
    cluster.shutdown().await;
}

async fn twins_that_fill_a_quota_are_one(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.conductor.quota.snapshots = 1;
    let Some((cluster, api)) = started(plan).await else { return };
    let data = volume(&api, "data", 1).await;
    for round in 0..20 {
        let name = format!("round-{round}");
        let made = join_all((0..8).map(|_| snapshot(&api, &data.id, &name))).await;
        let ids: Vec<String> = made.into_iter().map(|one| one.unwrap().id).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        snapshot_in(&api, State::Available, &ids[0]).await;
        delete_snapshot(&api, &ids[0]).await;
    }
    cluster.shutdown().await;
}

async fn a_snapshot_that_fails_says_why_and_can_be_deleted(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volume.driver.snapshot_fail = vec![FailRule { name: "bad".into(), attempts: 99 }];
    let Some((cluster, api)) = started(plan).await else { return };
    let data = volume(&api, "data", 1).await;
    let bad = snapshot(&api, &data.id, "bad").await.unwrap();
    let failed = snapshot_in(&api, State::Error, &bad.id).await;
    let fault = failed.fault.unwrap();
    assert_eq!((fault.reason.as_str(), fault.host.as_str()), ("DRIVER_FAILED", data.host.as_str()));
    delete_snapshot(&api, &bad.id).await;
    comes_to((1, 0, 1), || used(&api)).await;
    delete_volume(&api, &data.id).await.unwrap();
    assert_eq!(snapshot(&api, &data.id, "late").await.unwrap_err(), Reason::InvalidState);
    cluster.shutdown().await;
}

async fn a_volume_is_made_of_a_snapshot_where_that_is_or_of_an_image(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let data = volume(&api, "data", 2).await;
    let kept = snapshot(&api, &data.id, "kept").await.unwrap();
    snapshot_in(&api, State::Available, &kept.id).await;
    let of = |size_gib, snapshot_id: &str, image_id: &str| pb::VolumeSpec {
        size_gib,
        snapshot_id: snapshot_id.into(),
        image_id: image_id.into(),
        ..Default::default()
    };
    assert_eq!(create_volume(&api, of(1, &kept.id, "")).await, Err(Reason::ValidationFailed), "too small");
    assert_eq!(create_volume(&api, of(5, "", "nothing")).await, Err(Reason::ImageNotFound));
    for number in 0..4 {
        let id = create_volume(&api, of(2 + number, &kept.id, "")).await.unwrap();
        assert_eq!(api.until_volume(&id, VolumeState::Available).await.host, data.host);
    }
    let id = create_volume(&api, of(1, "", "cirros")).await.unwrap();
    api.until_volume(&id, VolumeState::Available).await;
    delete_snapshot(&api, &kept.id).await;
    assert_eq!(create_volume(&api, of(2, &kept.id, "")).await, Err(Reason::InvalidState));
    cluster.shutdown().await;
}

async fn a_snapshot_waits_for_its_backend(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volumes = 1;
    let Some((mut cluster, api)) = started(plan).await else { return };
    let data = volume(&api, "data", 1).await;
    cluster.stop(ServiceKind::Volume, &data.host).await;
    let kept = snapshot(&api, &data.id, "kept").await.unwrap();
    assert_eq!(kept.state(), State::Creating);
    cluster.launch(ServiceKind::Volume, &data.host).await;
    cluster.ready().await;
    snapshot_in(&api, State::Available, &kept.id).await;
    cluster.stop(ServiceKind::Volume, &data.host).await;
    cluster.launch(ServiceKind::Volume, &data.host).await;
    cluster.ready().await;
    delete_snapshot(&api, &kept.id).await;
    let lines = cluster.journals();
    assert_eq!(journal::count(&lines, "delete_snapshot")[&kept.id].len(), 1, "it outlived the restart");
    cluster.shutdown().await;
}
