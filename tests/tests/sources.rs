//! What is used is not taken away, what failed is as it was, and what was asked once is done once; over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{Error, Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::{FailRule, VerbConfig};
use kilonova_runtime::config::Period;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::{comes_to, until};
use kilonova_tests::{Api, Backing, Plan, over_both_stores};

over_both_stores!(
    a_snapshot_stays_while_a_volume_is_made_of_it,
    a_detach_that_fails_leaves_the_volume_in_use_and_can_be_asked_again,
    an_update_that_is_repeated_late_does_not_undo_a_newer_one,
    a_rebuild_is_refused_where_the_image_does_not_fit,
    a_volume_of_a_snapshot_says_why_it_could_not_be_made,
);

fn error(status: &tonic::Status) -> Error {
    from_status(status).unwrap()
}

async fn volume(api: &Api, name: &str, snapshot: &str) -> Result<String, Reason> {
    let spec =
        pb::VolumeSpec { name: name.into(), size_gib: 1, snapshot_id: snapshot.into(), ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let answer = api.volumes().create_volume(request).await.map_err(|status| error(&status).reason)?;
    Ok(answer.into_inner().volume.unwrap().id)
}

async fn snapshot(api: &Api, volume: &str) -> String {
    let request = api::CreateSnapshotRequest { volume_id: volume.into(), ..Default::default() };
    let id = api.snapshots().create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().id;
    until("the snapshot is there", || async {
        let request = api::GetSnapshotRequest { snapshot_id: id.clone(), ..Default::default() };
        let snapshot = api.snapshots().get_snapshot(request).await.ok()?.into_inner().snapshot?;
        (snapshot.state() == SnapshotState::Available).then_some(())
    })
    .await;
    id
}

async fn delete_snapshot(api: &Api, id: &str) -> Result<(), Reason> {
    let request = api::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    api.snapshots().delete_snapshot(request).await.map(drop).map_err(|status| error(&status).reason)
}

async fn a_snapshot_stays_while_a_volume_is_made_of_it(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volume.driver.latency = Period::from_millis(700);
    plan.volume.driver.latency_jitter = Period::from_millis(0);
    let Some((cluster, api)) = started(plan).await else { return };
    let of = volume(&api, "disk", "").await.unwrap();
    api.until_volume(&of, VolumeState::Available).await;
    let kept = snapshot(&api, &of).await;
    let copy = volume(&api, "copy", &kept).await.unwrap();
    assert_eq!(delete_snapshot(&api, &kept).await, Err(Reason::InvalidState));
    api.until_volume(&copy, VolumeState::Available).await;
    assert_eq!(delete_snapshot(&api, &kept).await, Ok(()));
    assert_eq!(volume(&api, "late", &kept).await, Err(Reason::InvalidState), "it is being deleted");
    cluster.shutdown().await;
}

async fn a_detach_that_fails_leaves_the_volume_in_use_and_can_be_asked_again(backing: Backing) {
    let mut plan = Plan::new(backing);
    let once = VerbConfig {
        fail: vec![FailRule { name: "vm".into(), attempts: 99 }],
        times: 1,
        ..Default::default()
    };
    plan.compute.driver.verbs.insert(kilonova_compute::config::Verb::Detach, once);
    let Some((cluster, api)) = started(plan).await else { return };
    let vm = api.active("vm").await;
    let disk = volume(&api, "disk", "").await.unwrap();
    api.until_volume(&disk, VolumeState::Available).await;
    let pair = |request_id: &str| api::DetachVolumeRequest {
        instance_id: vm.id.clone(),
        volume_id: disk.clone(),
        request_id: request_id.into(),
        ..Default::default()
    };
    let request = api::AttachVolumeRequest {
        instance_id: vm.id.clone(),
        volume_id: disk.clone(),
        ..Default::default()
    };
    api.instances().attach_volume(request).await.unwrap();
    let attached = api.until_volume(&disk, VolumeState::InUse).await;
    let answer = api.instances().detach_volume(pair("first")).await.unwrap().into_inner();
    let outcome = until("the detach has ended", || async {
        let request = api::ListInstanceActionsRequest { instance_id: vm.id.clone(), ..Default::default() };
        let actions = api.instances().list_instance_actions(request).await.ok()?.into_inner().actions;
        let detach = actions.iter().find(|action| action.request_id == "first")?;
        Some(detach.outcome()).filter(|outcome| *outcome != pb::Outcome::InProgress)
    })
    .await;
    assert_eq!(outcome, pb::Outcome::Failed);
    let is_attached = |one: &pb::Attachment| one.state() == pb::attachment::State::Attached;
    let volume = api.until_volume_after(&attached, VolumeState::InUse).await;
    assert!(volume.attachments.iter().all(is_attached) && volume.attachments.len() == 1, "{volume:?}");
    let has_it = |vm: &pb::Instance| vm.attachments.iter().all(is_attached) && vm.attachments.len() == 1;
    api.until_after(&answer.instance.unwrap(), "has its volume", has_it).await;
    api.instances().detach_volume(pair("second")).await.unwrap();
    api.until_volume(&disk, VolumeState::Available).await;
    cluster.shutdown().await;
}

async fn an_update_that_is_repeated_late_does_not_undo_a_newer_one(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let vm = api.active("vm").await;
    let rename = |request_id: &str, name: &str| api::UpdateInstanceRequest {
        request_id: request_id.into(),
        instance_id: vm.id.clone(),
        instance: Some(pb::InstanceSpec { name: name.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["name".into()] }),
        ..Default::default()
    };
    let mut named = String::new();
    for (request_id, name) in [("a", "first"), ("b", "second"), ("a", "first")] {
        let updated = api.instances().update_instance(rename(request_id, name)).await.unwrap().into_inner();
        named = updated.instance.unwrap().spec.unwrap().name;
    }
    assert_eq!(named, "second");
    comes_to("second".to_owned(), async || api.get(&vm.id).await.unwrap().spec.unwrap().name).await;
    let reused = api.instances().update_instance(rename("a", "third")).await.unwrap_err();
    assert_eq!(error(&reused).reason, Reason::RequestIdReused);

    let disable = |request_id: &str, reason: &str| api::DisableHostRequest {
        request_id: request_id.into(),
        service: pb::ServiceKind::Compute.into(),
        host: "compute-1".into(),
        reason: reason.into(),
    };
    let limit = |request_id: &str, cores: i32| api::UpdateQuotaRequest {
        request_id: request_id.into(),
        limits: Some(pb::QuotaLimits { cores, ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["cores".into()] }),
        ..Default::default()
    };
    for (request_id, reason, cores) in [("c", "one", 11), ("d", "two", 12), ("c", "one", 11)] {
        api.hosts().disable_host(disable(request_id, reason)).await.unwrap();
        api.quotas().update_quota(limit(&format!("q{request_id}"), cores)).await.unwrap();
    }
    let request = api::GetHostRequest { service: pb::ServiceKind::Compute.into(), host: "compute-1".into() };
    let host = api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap();
    assert_eq!(host.disabled_reason, "two");
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    assert_eq!(quota.quota.unwrap().limits.unwrap().cores, 12);
    cluster.shutdown().await;
}

async fn image(api: &Api, image: pb::Image) {
    let request = api::CreateImageRequest { image: Some(image), ..Default::default() };
    api.images().create_image(request).await.unwrap();
}

async fn a_rebuild_is_refused_where_the_image_does_not_fit(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let flavor = pb::Flavor { id: "diskless".into(), vcpus: 1, ram_mib: 512, ..Default::default() };
    let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
    api.flavors().create_flavor(request).await.unwrap();
    let arm = [("hw_architecture".to_owned(), "aarch64".to_owned())].into();
    image(&api, pb::Image { id: "arm".into(), properties: arm, ..Default::default() }).await;
    image(&api, pb::Image { id: "vast".into(), min_disk_gib: 100_000, ..Default::default() }).await;
    image(&api, pb::Image { id: "large".into(), min_disk_gib: 300, ..Default::default() }).await;
    let id = api.create("vm", "diskless", 1).await.unwrap().remove(0);
    let before = api.until(&id, State::Active).await;
    let rebuild = async |image: &str| {
        let request = api::RebuildInstanceRequest {
            instance_id: id.clone(),
            image_id: image.into(),
            ..Default::default()
        };
        let answer = api.instances().rebuild_instance(request).await;
        answer.map(|answer| answer.into_inner().instance.unwrap()).map_err(|status| error(&status))
    };
    for image in ["arm", "vast"] {
        let refusal = rebuild(image).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::NoValidHost, "{refusal}");
        assert_eq!(refusal.metadata["host"], before.host);
    }
    assert_eq!(api.get(&id).await.unwrap().task(), Task::Unspecified);
    let asked = rebuild("large").await.unwrap();
    assert_eq!(api.settled(&asked).await.spec.unwrap().image_id, "large");
    let taken = until("its host counts what it takes", || async {
        let request =
            api::GetHostRequest { service: pb::ServiceKind::Compute.into(), host: before.host.clone() };
        let host = api.hosts().get_host(request).await.ok()?.into_inner().host?;
        match host.capabilities?.resources? {
            pb::capabilities::Resources::Compute(figures) => {
                Some(figures.disk_used_gib).filter(|used| *used > 0)
            }
            pb::capabilities::Resources::Volume(_) => None,
        }
    })
    .await;
    assert_eq!(taken, 300);
    cluster.shutdown().await;
}

async fn a_volume_of_a_snapshot_says_why_it_could_not_be_made(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volume.driver.fail = vec![FailRule { name: "copy".into(), attempts: 99 }];
    let Some((cluster, api)) = started(plan).await else { return };
    let of = volume(&api, "disk", "").await.unwrap();
    api.until_volume(&of, VolumeState::Available).await;
    let kept = snapshot(&api, &of).await;
    let copy = volume(&api, "copy", &kept).await.unwrap();
    let fault = api.until_volume(&copy, VolumeState::Error).await.fault.unwrap();
    assert_eq!(fault.reason, "DRIVER_FAILED", "{}", fault.message);
    assert!(cluster.names(ServiceKind::Volume).contains(&fault.host));
    cluster.shutdown().await;
}
