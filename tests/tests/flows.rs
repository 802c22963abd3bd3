//! The main road, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::ServiceKind;
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1 as conductor;
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_tests::waiting::{at_this_pace, until};
use kilonova_tests::{Backing, Cluster, Plan, journal, over_both_stores};
use tokio::time::Instant;

over_both_stores!(
    fifty_instances_come_and_go_each_on_one_host,
    a_failed_build_lands_elsewhere_and_too_many_failures_are_an_error,
    an_instance_that_fits_nowhere_says_why,
    work_goes_on_when_a_conductor_and_a_scheduler_die,
    a_new_scheduler_knows_every_host_at_once_and_every_change_soon,
    a_watch_tells_every_change_and_any_conductor_resumes_it,
    volumes_come_and_go,
    a_disabled_host_takes_nothing_new,
    a_compute_that_restarts_keeps_its_guests_and_finishes_its_builds,
);

async fn fifty_instances_come_and_go_each_on_one_host(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let created = join_all((0..50).map(|n| {
        let api = api.clone();
        async move { api.create(&format!("vm-{n}"), "small", 1).await.unwrap().remove(0) }
    }))
    .await;
    let instances = join_all(created.iter().map(|id| api.until(id, State::Active))).await;
    assert!(
        instances.iter().all(|i| !i.host.is_empty() && i.power_state() == pb::instance::PowerState::Running)
    );

    let mut listed = BTreeSet::new();
    let (mut token, mut sizes) = (String::new(), Vec::new());
    loop {
        let request =
            api::ListInstancesRequest { page_size: 20, page_token: token.clone(), ..Default::default() };
        let page = api.instances().list_instances(request).await.unwrap().into_inner();
        sizes.push(page.instances.len());
        listed.extend(page.instances.into_iter().map(|instance| instance.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [20, 20, 10]);
    assert_eq!(listed, created.iter().cloned().collect());

    let request = api::ListInstanceActionsRequest { instance_id: created[0].clone(), ..Default::default() };
    let actions = api.instances().list_instance_actions(request).await.unwrap().into_inner().actions;
    let steps: Vec<&str> = actions[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["accept", "schedule", "build", "claim", "spawn"], "{actions:?}");

    join_all(created.iter().map(|id| api.delete(id)))
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()
        .unwrap();
    join_all(created.iter().map(|id| api.until(id, State::Deleted))).await;
    let lines = cluster.journals();
    let (spawned, destroyed) = (journal::count(&lines, "spawn"), journal::count(&lines, "destroy"));
    for id in &created {
        assert_eq!(spawned[id].len(), 1, "{id} was spawned on {:?}", spawned[id]);
        assert_eq!(spawned[id], destroyed[id]);
    }
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    assert_eq!(quota.quota.unwrap().usage.unwrap(), pb::QuotaUsage::default());
    cluster.shutdown().await;
}

async fn a_failed_build_lands_elsewhere_and_too_many_failures_are_an_error(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.compute.driver.fail = vec![
        FailRule { name: "unlucky".into(), attempts: 1 },
        FailRule { name: "doomed".into(), attempts: 99 },
    ];
    let Some(cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let unlucky = api.create("unlucky", "small", 1).await.unwrap().remove(0);
    let doomed = api.create("doomed", "small", 1).await.unwrap().remove(0);

    let instance = api.until(&unlucky, State::Active).await;
    assert_eq!((instance.attempt, instance.failed_attempts.len()), (2, 1));
    assert_ne!(instance.failed_attempts[0].host, instance.host);
    assert_eq!(instance.failed_attempts[0].reason, "DRIVER_FAILED");

    let instance = api.until(&doomed, State::Error).await;
    let tried: BTreeSet<&str> = instance.failed_attempts.iter().map(|fault| fault.host.as_str()).collect();
    assert_eq!(tried.len(), 3, "three different hosts were tried: {instance:?}");
    assert_eq!(instance.fault.unwrap().reason, "MAX_ATTEMPTS_EXCEEDED");
    api.delete(&doomed).await.unwrap();
    api.until(&doomed, State::Deleted).await;
    cluster.shutdown().await;
}

async fn an_instance_that_fits_nowhere_says_why(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let id = api.create("giant", "huge", 1).await.unwrap().remove(0);
    let fault = api.until(&id, State::Error).await.fault.unwrap();
    assert_eq!(fault.reason, "NO_VALID_HOST");
    let explanation = fault.explanation.unwrap();
    assert_eq!(explanation.considered, 3);
    assert_eq!(explanation.filters.iter().map(|filter| filter.removed).sum::<u32>(), 3, "{explanation:?}");

    let unknown = api.create("vm", "no-such-flavor", 1).await.unwrap_err();
    assert_eq!(from_status(&unknown).unwrap().reason.as_str(), "FLAVOR_NOT_FOUND");
    let unnamed = api.create("", "small", 1).await.unwrap_err();
    assert_eq!(from_status(&unnamed).unwrap().violations[0].field, "instance.name");
    cluster.shutdown().await;
}

async fn work_goes_on_when_a_conductor_and_a_scheduler_die(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.compute.driver.latency = kilonova_runtime::config::Period::from_millis(300);
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let before = api.create("before", "small", 10).await.unwrap();
    cluster.kill(ServiceKind::Conductor, "conductor-1");
    cluster.kill(ServiceKind::Scheduler, "scheduler-1");
    let killed = Instant::now();
    let after = until("a conductor accepts", || async { api.create("after", "small", 10).await.ok() }).await;
    println!("accepted again after {:?}", killed.elapsed());
    for id in before.iter().chain(&after) {
        api.until(id, State::Active).await;
    }
    println!("all active after {:?}", killed.elapsed());
    for id in before.iter().chain(&after) {
        until("the delete is accepted", || async { api.delete(id).await.ok() }).await;
        api.until(id, State::Deleted).await;
    }
    let lines = cluster.journals();
    let (spawned, destroyed) = (journal::count(&lines, "spawn"), journal::count(&lines, "destroy"));
    for id in before.iter().chain(&after) {
        assert_eq!((spawned[id].len(), &spawned[id]), (1, &destroyed[id]));
    }
    cluster.shutdown().await;
}

async fn a_new_scheduler_knows_every_host_at_once_and_every_change_soon(backing: Backing) {
    let Some(mut cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    cluster.launch(ServiceKind::Scheduler, "scheduler-3").await;
    cluster.ready().await;
    let client = SchedulerServiceClient::new(cluster.channel(ServiceKind::Scheduler, "scheduler-3"));
    let states = || async {
        let request = scheduler::ListHostStatesRequest::default();
        client.clone().list_host_states(request).await.unwrap().into_inner().hosts
    };
    let hosts = states().await;
    assert_eq!(hosts.len(), 3);
    assert!(hosts.iter().all(|host| host.state() == pb::host::State::Up && host.capabilities.is_some()));

    let id = api.create("vm", "small", 1).await.unwrap().remove(0);
    api.until(&id, State::Active).await;
    let built = Instant::now();
    let used = |hosts: &[scheduler::HostState]| -> u32 {
        let compute = |host: &scheduler::HostState| match host.capabilities.clone()?.resources? {
            pb::capabilities::Resources::Compute(compute) => Some(compute.instances),
            pb::capabilities::Resources::Volume(_) => None,
        };
        hosts.iter().filter_map(compute).sum()
    };
    until("the scheduler sees the claim", || async { (used(&states().await) == 1).then_some(()) }).await;
    println!("claim seen {:?} after ACTIVE was", built.elapsed());

    cluster.kill(ServiceKind::Compute, "compute-1");
    let killed = Instant::now();
    until("the dead host is down", || async {
        let hosts = states().await;
        hosts
            .iter()
            .find(|host| host.host == "compute-1")
            .filter(|host| host.state() == pb::host::State::Down)
            .map(drop)
    })
    .await;
    // Three heartbeats of half a second, and time for a busy machine.
    assert!(killed.elapsed() < at_this_pace(Duration::from_secs(4)), "{:?}", killed.elapsed());
    cluster.shutdown().await;
}

async fn a_watch_tells_every_change_and_any_conductor_resumes_it(backing: Backing) {
    use api::watch_instances_response::Event;
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let old = api.create("old", "small", 1).await.unwrap().remove(0);
    api.until(&old, State::Active).await;

    let request = api::WatchInstancesRequest::default();
    let mut watch = api.instances().watch_instances(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Snapshot(instance)) if instance.id == old));
    let end = watch.message().await.unwrap().unwrap();
    assert!(matches!(end.event, Some(Event::SnapshotEnd(_))));
    let token = end.resume_token;

    let new = api.create("new", "small", 1).await.unwrap().remove(0);
    let mut states = Vec::new();
    while states.last() != Some(&State::Active) {
        match watch.message().await.unwrap().unwrap().event {
            Some(Event::Update(instance)) if instance.id == new => states.push(instance.state()),
            // The last change before the snapshot may come again.
            Some(Event::Update(_) | Event::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(states[..states.len() - 1].iter().all(|state| *state == State::Building), "{states:?}");
    api.delete(&new).await.unwrap();
    loop {
        match watch.message().await.unwrap().unwrap().event {
            Some(Event::Delete(id)) => break assert_eq!(id, new),
            Some(Event::Update(instance)) => assert_eq!(instance.state(), State::Active),
            Some(Event::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    for conductor in ["conductor-1", "conductor-2"] {
        let channel = cluster.channel(ServiceKind::Conductor, conductor);
        let request = conductor::WatchInstancesRequest { resume_token: token.clone(), ..Default::default() };
        let mut client = RecordServiceClient::new(channel);
        let mut resumed = client.watch_instances(request).await.unwrap().into_inner();
        loop {
            use conductor::watch_instances_response::Event;
            match resumed.message().await.unwrap().unwrap().event {
                Some(Event::Delete(id)) => break assert_eq!(id, new),
                Some(Event::Update(_) | Event::SnapshotEnd(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    cluster.shutdown().await;
}

async fn volumes_come_and_go(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    let create = |size_gib| {
        let spec = pb::VolumeSpec { name: "data".into(), size_gib, ..Default::default() };
        let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
        let mut volumes = api.volumes();
        async move { volumes.create_volume(request).await.map(|answer| answer.into_inner().volume.unwrap()) }
    };
    let get = |volume_id: String| {
        let mut volumes = api.volumes();
        async move {
            let request = api::GetVolumeRequest { volume_id, ..Default::default() };
            volumes.get_volume(request).await.ok()?.into_inner().volume
        }
    };
    let id = create(10).await.unwrap().id;
    let volume = until("the volume is available", || async {
        get(id.clone()).await.filter(|v| v.state() == pb::volume::State::Available)
    })
    .await;
    assert!(volume.host.starts_with("storage-"));
    let giant = create(1_048_576).await.unwrap().id;
    let fault = until("the giant has no place", || async {
        get(giant.clone()).await.filter(|v| v.state() == pb::volume::State::Error)
    })
    .await
    .fault
    .unwrap();
    assert_eq!(fault.reason, "NO_VALID_BACKEND");
    assert_eq!(create(0).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    for volume_id in [id.clone(), giant] {
        let request = api::DeleteVolumeRequest { volume_id: volume_id.clone(), ..Default::default() };
        api.volumes().delete_volume(request).await.unwrap();
        until("the volume is gone", || async {
            get(volume_id.clone()).await.filter(|v| v.state() == pb::volume::State::Deleted)
        })
        .await;
    }
    let lines = cluster.journals();
    assert_eq!(journal::count(&lines, "create")[&id], journal::count(&lines, "delete")[&id]);
    cluster.shutdown().await;
}

async fn a_disabled_host_takes_nothing_new(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    for host in ["compute-1", "compute-2"] {
        let request = api::DisableHostRequest {
            service: pb::ServiceKind::Compute.into(),
            host: host.into(),
            reason: "maintenance".into(),
            ..Default::default()
        };
        until("the host is registered", || async {
            api.hosts().disable_host(request.clone()).await.ok().map(drop)
        })
        .await;
    }
    let ids = api.create("vm", "small", 6).await.unwrap();
    for id in &ids {
        assert_eq!(api.until(id, State::Active).await.host, "compute-3");
    }
    let request = api::ListHostsRequest::default();
    let hosts = api.hosts().list_hosts(request).await.unwrap().into_inner().hosts;
    let compute = hosts.iter().find(|host| host.name == "compute-1").unwrap();
    assert_eq!(compute.admin_state(), pb::host::AdminState::Disabled);
    assert_eq!(compute.disabled_reason, "maintenance");
    assert_eq!(hosts.len(), 5);
    cluster.shutdown().await;
}

async fn a_compute_that_restarts_keeps_its_guests_and_finishes_its_builds(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.computes = 1;
    plan.conductor.resend_interval = kilonova_runtime::config::Period::from_millis(500);
    let Some(mut cluster) = Cluster::start(plan.clone()).await else { return };
    let api = cluster.api();
    api.seed().await;
    let ids = api.create("vm", "small", 5).await.unwrap();
    for id in &ids {
        api.until(id, State::Active).await;
    }
    cluster.stop(ServiceKind::Compute, "compute-1").await;
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    for id in &ids {
        assert_eq!(api.get(id).await.unwrap().state(), State::Active);
        api.delete(id).await.unwrap();
        api.until(id, State::Deleted).await;
    }
    let lines = cluster.journals();
    let spawned = journal::count(&lines, "spawn");
    assert!(ids.iter().all(|id| spawned[id].len() == 1));
    cluster.shutdown().await;
}
