//! What is asked of instances that are there, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use futures::future::join_all;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_runtime::config::Period;
use kilonova_tests::waiting::comes_to;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, journal, over_both_stores};

over_both_stores!(
    instances_are_stopped_started_and_rebooted,
    volumes_are_attached_in_turn_and_detached_with_or_without_the_instance,
    a_volume_that_cannot_be_attached_is_available_again,
    a_volume_is_promised_to_one_instance_only,
    an_attach_is_finished_after_every_agent_and_conductor_restarted,
    a_volume_grows_and_counts_as_much_as_it_has,
    an_instance_goes_at_last_though_its_volumes_backend_is_away,
    a_detach_ends_though_its_volumes_backend_is_off_for_good,
);

async fn instances_are_stopped_started_and_rebooted(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.compute.driver.power_fail = vec![FailRule { name: "stuck".into(), attempts: 99 }];
    let Some(cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let ids = api.create("vm", "small", 5).await.unwrap();
    join_all(ids.iter().map(|id| api.until(id, State::Active))).await;
    let stop = |id: &String| {
        let request = api::StopInstanceRequest {
            instance_id: id.clone(),
            request_id: id.clone(),
            ..Default::default()
        };
        let mut instances = api.instances();
        async move { instances.stop_instance(request).await.map(|answer| answer.into_inner().instance.unwrap()) }
    };
    let twice = ids.iter().chain(&ids);
    let accepted = join_all(twice.map(stop)).await;
    let generation = |number: usize| accepted[number].as_ref().unwrap().generation;
    assert!(
        (0..ids.len())
            .all(|number| generation(number) > 1 && generation(number) == generation(number + ids.len()))
    );
    for instance in join_all(ids.iter().map(|id| api.until(id, State::Stopped))).await {
        assert_eq!(instance.power_state(), pb::instance::PowerState::Shutdown);
    }
    let start = api::StartInstanceRequest { instance_id: ids[0].clone(), ..Default::default() };
    let asked = api.instances().start_instance(start.clone()).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.state(), State::Active);
    let refused = api.instances().start_instance(start).await.unwrap_err();
    assert_eq!(from_status(&refused).unwrap().reason, Reason::InvalidState);
    let reboot = api::RebootInstanceRequest { instance_id: ids[1].clone(), hard: true, ..Default::default() };
    let asked = api.instances().reboot_instance(reboot).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.state(), State::Active);

    let stuck = api.create("stuck", "small", 1).await.unwrap().remove(0);
    api.until(&stuck, State::Active).await;
    let instance = api.settled(&stop(&stuck).await.unwrap()).await;
    assert_eq!((instance.state(), instance.desired()), (State::Active, pb::instance::Desired::Running));
    let actions = api.actions(&stuck, 2).await;
    assert_eq!(actions[1].outcome(), pb::Outcome::Failed);
    let steps: Vec<&str> = actions[1].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["accept", "stop", "power_off"]);

    for id in ids.iter().chain([&stuck]) {
        api.delete(id).await.unwrap();
        api.until(id, State::Deleted).await;
    }
    let powered = journal::count(&cluster.journals(), "power");
    let times = |id: &String| powered.get(id).map_or(0, Vec::len);
    assert_eq!(ids.iter().map(times).collect::<Vec<_>>(), [2, 2, 1, 1, 1]);
    assert_eq!(times(&stuck), 0);
    cluster.shutdown().await;
}

async fn volume(api: &Api, name: &str) -> String {
    let spec = pb::VolumeSpec { name: name.into(), size_gib: 1, ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let id = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    api.until_volume(&id, VolumeState::Available).await;
    id
}

async fn instance(api: &Api, name: &str) -> String {
    let id = api.create(name, "small", 1).await.unwrap().remove(0);
    api.until(&id, State::Active).await;
    id
}

async fn attach(api: &Api, instance: &str, volume: &str) -> Result<pb::Instance, Reason> {
    let request = api::AttachVolumeRequest {
        instance_id: instance.into(),
        volume_id: volume.into(),
        ..Default::default()
    };
    let answer = api.instances().attach_volume(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

async fn detach(api: &Api, instance: &str, volume: &str) -> Result<pb::Instance, Reason> {
    let request = api::DetachVolumeRequest {
        instance_id: instance.into(),
        volume_id: volume.into(),
        ..Default::default()
    };
    let answer = api.instances().detach_volume(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

async fn volumes_are_attached_in_turn_and_detached_with_or_without_the_instance(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let web = instance(&api, "web").await;
    let volumes = join_all(["a", "b", "c"].map(|name| volume(&api, name))).await;
    for id in &volumes {
        attach(&api, &web, id).await.unwrap();
    }
    for id in &volumes {
        let volume = api.until_volume(id, VolumeState::InUse).await;
        assert_eq!(volume.attachments[0].instance_id, web);
    }
    let attached = |i: &pb::Instance| {
        i.attachments.iter().map(|one| (one.device.clone(), one.state())).collect::<Vec<_>>()
    };
    let expected = ["/dev/vdb", "/dev/vdc", "/dev/vdd"]
        .map(|device| (device.to_owned(), pb::attachment::State::Attached));
    comes_to(expected.to_vec(), async || attached(&api.get(&web).await.unwrap())).await;
    let busy = api::DeleteVolumeRequest { volume_id: volumes[0].clone(), ..Default::default() };
    let refused = api.volumes().delete_volume(busy).await.unwrap_err();
    assert_eq!(from_status(&refused).unwrap().reason, Reason::InvalidState);

    detach(&api, &web, &volumes[0]).await.unwrap();
    let free = api.until_volume(&volumes[0], VolumeState::Available).await;
    assert!(free.attachments.is_empty());
    comes_to(expected[1..].to_vec(), async || attached(&api.get(&web).await.unwrap())).await;
    assert_eq!(detach(&api, &web, &volumes[0]).await, Err(Reason::InvalidState));
    let actions = api.actions(&web, 5).await;
    assert!(actions.iter().all(|action| action.outcome() == pb::Outcome::Succeeded), "{actions:?}");
    let steps: Vec<&str> = actions[1].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["accept", "attach", "attach_volume"]);

    api.delete(&web).await.unwrap();
    api.until(&web, State::Deleted).await;
    for id in &volumes {
        api.until_volume(id, VolumeState::Available).await;
    }
    let lines = cluster.journals();
    let (exported, unexported) = (journal::count(&lines, "export"), journal::count(&lines, "unexport"));
    assert!(volumes.iter().all(|id| exported[id].len() == 1 && unexported[id].len() == 1));
    cluster.shutdown().await;
}

async fn a_volume_that_cannot_be_attached_is_available_again(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.compute.driver.attach_fail = vec![FailRule { name: "picky".into(), attempts: 99 }];
    let Some(cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let picky = instance(&api, "picky").await;
    let (first, second) = (volume(&api, "first").await, volume(&api, "second").await);
    let before = join_all([&first, &second].map(|id| api.until_volume(id, VolumeState::Available))).await;
    let spare = instance(&api, "spare").await;
    attach(&api, &picky, &first).await.unwrap();
    let asked = attach(&api, &picky, &second).await.unwrap();
    for volume in &before {
        api.until_volume_after(volume, VolumeState::Available).await;
    }
    let now = api.until_after(&asked, "has no volume", |instance| instance.attachments.is_empty()).await;
    assert_eq!(now.state(), State::Active);
    let actions = api.actions(&picky, 3).await;
    let failed = |action: &pb::Action| action.outcome() == pb::Outcome::Failed;
    assert!(actions[1..].iter().all(failed), "{actions:?}");
    let faults: Vec<&str> =
        actions[1].steps.iter().filter_map(|s| s.fault.as_ref()).map(|f| &*f.reason).collect();
    assert_eq!(faults, ["DRIVER_FAILED", "DRIVER_FAILED"]);

    attach(&api, &spare, &first).await.unwrap();
    api.until_volume(&first, VolumeState::InUse).await;
    cluster.shutdown().await;
}

async fn a_volume_is_promised_to_one_instance_only(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let instances = api.create("vm", "small", 6).await.unwrap();
    join_all(instances.iter().map(|id| api.until(id, State::Active))).await;
    let disk = volume(&api, "disk").await;
    let asked = join_all(instances.iter().map(|id| attach(&api, id, &disk))).await;
    assert_eq!(asked.iter().filter(|answer| answer.is_ok()).count(), 1, "{asked:?}");
    let winner = asked.iter().flatten().next().unwrap();
    let with = api.until_volume(&disk, VolumeState::InUse).await;
    assert_eq!(with.attachments[0].instance_id, winner.id);
    cluster.shutdown().await;
}

async fn an_attach_is_finished_after_every_agent_and_conductor_restarted(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.conductors, plan.volumes) = (1, 1, 1);
    plan.conductor.resend_interval = Period::from_millis(500);
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let web = instance(&api, "web").await;
    let disk = volume(&api, "disk").await;
    cluster.stop(ServiceKind::Volume, "storage-1@sim").await;
    attach(&api, &web, &disk).await.unwrap();
    api.until_volume(&disk, VolumeState::Reserved).await;
    for (kind, name) in [(ServiceKind::Compute, "compute-1"), (ServiceKind::Conductor, "conductor-1")] {
        cluster.stop(kind, name).await;
        cluster.launch(kind, name).await;
    }
    cluster.launch(ServiceKind::Volume, "storage-1@sim").await;
    cluster.ready().await;
    api.until_volume(&disk, VolumeState::InUse).await;
    let lines = cluster.journals();
    assert_eq!(journal::count(&lines, "attach")[&web].len(), 1);
    detach(&api, &web, &disk).await.unwrap();
    api.until_volume(&disk, VolumeState::Available).await;
    cluster.shutdown().await;
}

async fn a_volume_grows_and_counts_as_much_as_it_has(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.conductor.quota.gigabytes = 30;
    plan.volume.driver.extend_fail = vec![FailRule { name: "stiff".into(), attempts: 99 }];
    let Some(cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let (data, stiff) = (volume(&api, "data").await, volume(&api, "stiff").await);
    let extend = async |id: &str, size_gib| {
        let request = api::ExtendVolumeRequest {
            volume_id: id.into(),
            request_id: format!("{id}-{size_gib}"),
            size_gib,
            ..Default::default()
        };
        let answer = api.volumes().extend_volume(request).await;
        answer.map(drop).map_err(|status| from_status(&status).unwrap().reason)
    };
    let used = async || {
        let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
        quota.quota.unwrap().usage.unwrap().gigabytes
    };
    let before = join_all([&data, &stiff].map(|id| api.until_volume(id, VolumeState::Available))).await;
    let (one, two) = tokio::join!(extend(&data, 20), extend(&data, 20));
    assert_eq!((one, two), (Ok(()), Ok(())));
    let grown = api.until_volume_after(&before[0], VolumeState::Available).await;
    assert_eq!(grown.spec.unwrap().size_gib, 20);
    comes_to(21, used).await;
    assert_eq!(extend(&data, 30).await, Err(Reason::QuotaExceeded));
    assert_eq!(extend(&data, 20).await, Ok(()), "the same request again");
    assert_eq!(extend(&stiff, 5).await, Ok(()));
    let same = api.until_volume_after(&before[1], VolumeState::Available).await;
    assert_eq!(same.spec.unwrap().size_gib, 1);
    // What it did not get is given back.
    comes_to(21, used).await;
    let request = api::DeleteVolumeRequest { volume_id: data.clone(), ..Default::default() };
    api.volumes().delete_volume(request).await.unwrap();
    api.until_volume(&data, VolumeState::Deleted).await;
    comes_to(1, used).await;
    cluster.shutdown().await;
}

async fn a_detach_ends_though_its_volumes_backend_is_off_for_good(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volumes = 1;
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let web = instance(&api, "web").await;
    let disk = volume(&api, "disk").await;
    attach(&api, &web, &disk).await.unwrap();
    api.until_volume(&disk, VolumeState::InUse).await;
    cluster.stop(ServiceKind::Volume, "storage-1@sim").await;
    let asked = detach(&api, &web, &disk).await.unwrap();
    until("an operator says that the backend is off", || async {
        let service = pb::ServiceKind::Volume.into();
        let request = api::FenceHostRequest { service, host: "storage-1@sim".into(), ..Default::default() };
        api.hosts().fence_host(request).await.ok()
    })
    .await;
    api.until_volume(&disk, VolumeState::Available).await;
    api.until_after(&asked, "has it no more", |now| now.attachments.is_empty()).await;
    cluster.shutdown().await;
}

async fn an_instance_goes_at_last_though_its_volumes_backend_is_away(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.volumes = 1;
    plan.conductor.delete_timeout = Period::from_millis(500);
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let (web, next) = (instance(&api, "web").await, instance(&api, "next").await);
    let disk = volume(&api, "disk").await;
    attach(&api, &web, &disk).await.unwrap();
    api.until_volume(&disk, VolumeState::InUse).await;
    cluster.stop(ServiceKind::Volume, "storage-1@sim").await;
    api.delete(&web).await.unwrap();
    api.until(&web, State::Deleted).await;
    api.until_volume(&disk, VolumeState::Available).await;
    assert_eq!(journal::count(&cluster.journals(), "destroy")[&web].len(), 1, "its guest is gone first");

    cluster.launch(ServiceKind::Volume, "storage-1@sim").await;
    cluster.ready().await;
    attach(&api, &next, &disk).await.unwrap();
    api.until_volume(&disk, VolumeState::InUse).await;
    cluster.shutdown().await;
}
