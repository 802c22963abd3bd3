//! Volumes placed by where other volumes and instances are, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{Error, InstanceId, Reason, ServiceKind, VolumeId};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::volume::State;
use kilonova_rpc::status::from_status;
use kilonova_tests::asking::started;
use kilonova_tests::{Api, Backing, Plan, over_both_stores};

over_both_stores!(
    volumes_go_where_others_are_or_are_not,
    a_volume_goes_to_the_host_of_its_instance,
    hints_that_name_nothing_are_refused_by_field,
);

async fn create_in(api: &Api, project: &str, hints: pb::SchedulerHints) -> Result<String, Error> {
    let spec = pb::VolumeSpec { size_gib: 1, hints: Some(hints), ..Default::default() };
    let request =
        api::CreateVolumeRequest { volume: Some(spec), project_id: project.to_owned(), ..Default::default() };
    let answer =
        api.volumes().create_volume(request).await.map_err(|status| from_status(&status).unwrap())?;
    Ok(answer.into_inner().volume.unwrap().id)
}

async fn volume(api: &Api, hints: pb::SchedulerHints) -> pb::Volume {
    let id = create_in(api, "", hints).await.unwrap();
    api.until_volume(&id, State::Available).await
}

/// The volume that no backend was good enough for, and what the filter of that name said.
async fn refused(api: &Api, hints: pb::SchedulerHints, filter: &str) -> String {
    let id = create_in(api, "", hints).await.unwrap();
    let fault = api.until_volume(&id, State::Error).await.fault.unwrap();
    assert_eq!(fault.reason, "NO_VALID_BACKEND");
    let filters = &fault.explanation.as_ref().unwrap().filters;
    filters.iter().find(|one| one.name == filter).unwrap().samples[0].detail.clone()
}

fn with(volumes: &[&pb::Volume]) -> pb::SchedulerHints {
    let same_host = volumes.iter().map(|volume| volume.id.clone()).collect();
    pb::SchedulerHints { same_host, ..Default::default() }
}

fn apart_from(volumes: &[&pb::Volume]) -> pb::SchedulerHints {
    let different_host = volumes.iter().map(|volume| volume.id.clone()).collect();
    pb::SchedulerHints { different_host, ..Default::default() }
}

fn local_to(instance: &str) -> pb::SchedulerHints {
    pb::SchedulerHints { local_to_instance: instance.into(), ..Default::default() }
}

async fn volumes_go_where_others_are_or_are_not(backing: Backing) {
    let plan = Plan { volumes: 3, ..Plan::new(backing) };
    let Some((cluster, api)) = started(plan).await else { return };
    let first = volume(&api, pb::SchedulerHints::default()).await;
    // Each is sent as soon as the last is there, to whichever conductor: none may know less than the user.
    for _ in 0..4 {
        assert_eq!(volume(&api, with(&[&first])).await.host, first.host);
    }
    let second = volume(&api, apart_from(&[&first])).await;
    let third = volume(&api, apart_from(&[&first, &second])).await;
    let mut hosts = [&first, &second, &third].map(|volume| volume.host.clone());
    hosts.sort();
    assert_eq!(hosts, ["storage-1@sim", "storage-2@sim", "storage-3@sim"]);

    let detail = refused(&api, apart_from(&[&first, &second, &third]), "DifferentBackendFilter").await;
    assert_eq!(detail, "has a volume of different_host");
    let either =
        pb::SchedulerHints { same_host: with(&[&first, &second]).same_host, ..apart_from(&[&first]) };
    assert_eq!(volume(&api, either).await.host, second.host, "one of both, and not the first's");

    let request = api::DeleteVolumeRequest { volume_id: third.id.clone(), ..Default::default() };
    api.volumes().delete_volume(request).await.unwrap();
    api.until_volume(&third.id, State::Deleted).await;
    let error = create_in(&api, "", with(&[&third])).await.unwrap_err();
    assert_eq!(error.violations[0].field, "volume.hints.same_host", "what is gone is nowhere");
    cluster.shutdown().await;
}

async fn a_volume_goes_to_the_host_of_its_instance(backing: Backing) {
    let Some((mut cluster, api)) = started(Plan { volumes: 0, ..Plan::new(backing) }).await else { return };
    for host in ["compute-1@sim", "compute-2@sim", "elsewhere@sim"] {
        cluster.launch(ServiceKind::Volume, host).await;
    }
    cluster.ready().await;
    for host in ["compute-1", "compute-2", "compute-3"] {
        let hints = pb::SchedulerHints { force_host: host.into(), ..Default::default() };
        let spec = pb::InstanceSpec {
            name: host.into(),
            flavor_id: "small".into(),
            image_id: "cirros".into(),
            hints: Some(hints),
            ..Default::default()
        };
        let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
        let id = api.instances().create_instance(request).await.unwrap().into_inner().instances.remove(0).id;
        api.until(&id, pb::instance::State::Active).await;
        if host == "compute-3" {
            let detail = refused(&api, local_to(&id), "InstanceLocalityFilter").await;
            assert!(detail.ends_with("the instance of local_to_instance on compute-3"), "{detail}");
        } else {
            assert_eq!(volume(&api, local_to(&id)).await.host, format!("{host}@sim"));
        }
    }
    let nowhere = api.create("huge", "huge", 1).await.unwrap().remove(0);
    api.until(&nowhere, pb::instance::State::Error).await;
    let detail = refused(&api, local_to(&nowhere), "InstanceLocalityFilter").await;
    assert_eq!(detail, "the instance of local_to_instance is on no host");
    cluster.shutdown().await;
}

async fn hints_that_name_nothing_are_refused_by_field(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let (other, instance) = (VolumeId::generate().to_string(), InstanceId::generate().to_string());
    let hints = pb::SchedulerHints {
        different_host: vec![other.clone()],
        same_host: vec![other],
        ..local_to(&instance)
    };
    let error = create_in(&api, "", hints).await.unwrap_err();
    assert_eq!(error.reason, Reason::ValidationFailed);
    let fields: Vec<&str> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    let [different, same, local] =
        ["different_host", "same_host", "local_to_instance"].map(|field| format!("volume.hints.{field}"));
    assert_eq!(fields, [different, same, local]);

    let theirs = create_in(&api, "theirs", pb::SchedulerHints::default()).await.unwrap();
    let hints = pb::SchedulerHints { same_host: vec![theirs.clone()], ..Default::default() };
    let error = create_in(&api, "ours", hints).await.unwrap_err();
    assert_eq!(error.violations[0].description, format!("the project has no volume {theirs}"));

    let hints = pb::SchedulerHints { server_group_id: instance.clone(), ..Default::default() };
    let error = create_in(&api, "", hints).await.unwrap_err();
    assert_eq!(error.violations[0].field, "volume.hints.server_group_id");
    let spec = pb::InstanceSpec {
        name: "i".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(local_to(&instance)),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let error = from_status(&api.instances().create_instance(request).await.unwrap_err()).unwrap();
    assert_eq!(error.violations[0].field, "instance.hints.local_to_instance");
    cluster.shutdown().await;
}
