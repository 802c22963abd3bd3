//! What schedulers know of hosts and backends that come and go, and of those whose driver hangs, end to end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::ServiceKind;
use kilonova_proto::api::v1 as api;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::scheduler::v1::{HostState, ListBackendStatesRequest, ListHostStatesRequest};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::host::State as HostUp;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_runtime::config::Period;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};

over_both_stores!(
    a_driver_that_hangs_takes_its_host_down_and_brings_it_back,
    a_scheduler_knows_all_whenever_it_starts,
);

/// How often drivers are asked: three times as long is too old.
const REFRESH: Period = Period::from_millis(500);
const HUNG: &str = "its driver, asked every 500ms, gave no figures 3 times in a row";

/// What users see of a host or backend.
async fn host(api: &Api, service: pb::ServiceKind, name: &str) -> pb::Host {
    let request = api::GetHostRequest { host: name.into(), service: service.into() };
    api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap()
}

async fn until_host(api: &Api, service: pb::ServiceKind, name: &str, state: HostUp) -> String {
    until(&format!("{name} is {state:?}"), || async {
        let host = host(api, service, name).await;
        (host.state() == state).then_some(host.state_detail)
    })
    .await
}

/// A new instance that goes there or nowhere.
async fn instance_on(api: &Api, host: &str) -> String {
    let hints = pb::SchedulerHints { force_host: host.into(), ..Default::default() };
    let spec = pb::InstanceSpec {
        name: "here".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let created = api.instances().create_instance(request).await.unwrap().into_inner();
    created.instances[0].id.clone()
}

/// A new volume that goes there or nowhere.
async fn volume_on(api: &Api, backend: &str) -> String {
    let hints = pb::SchedulerHints { force_host: backend.into(), ..Default::default() };
    let spec = pb::VolumeSpec { size_gib: 1, hints: Some(hints), ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id
}

async fn a_driver_that_hangs_takes_its_host_down_and_brings_it_back(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.schedulers, plan.computes) = (1, 2);
    (plan.compute.refresh_interval, plan.volume.refresh_interval) = (REFRESH, REFRESH);
    let Some((cluster, api)) = started(plan).await else { return };
    let hung = [(pb::ServiceKind::Compute, "compute-1"), (pb::ServiceKind::Volume, "storage-1@sim")];
    for (service, name) in hung {
        let file = cluster.data_dir(name).join("hang-figures");
        std::fs::write(&file, "").unwrap();
        assert_eq!(until_host(&api, service, name, HostUp::Down).await, HUNG);
    }

    // The streams are alive: what else is published is heard, and what runs there is not touched.
    let request = api::DisableHostRequest {
        host: "compute-1".into(),
        reason: "while it hangs".into(),
        service: pb::ServiceKind::Compute.into(),
        ..Default::default()
    };
    api.hosts().disable_host(request).await.unwrap();
    until("what it publishes is heard", || async {
        let host = host(&api, pb::ServiceKind::Compute, "compute-1").await;
        host.capabilities.is_some_and(|told| !told.enabled).then_some(())
    })
    .await;
    let request = api::EnableHostRequest {
        host: "compute-1".into(),
        service: pb::ServiceKind::Compute.into(),
        ..Default::default()
    };
    api.hosts().enable_host(request).await.unwrap();
    assert_eq!(until_host(&api, pb::ServiceKind::Compute, "compute-1", HostUp::Down).await, HUNG);

    let removed = |fault: &pb::Fault, filter: &str| {
        let filters = &fault.explanation.as_ref().unwrap().filters;
        let by = filters.iter().find(|one| one.name == filter).unwrap();
        (by.removed, by.samples[0].host.clone(), by.samples[0].detail.clone())
    };
    let refused = api.until(&instance_on(&api, "compute-1").await, State::Error).await.fault.unwrap();
    assert_eq!(removed(&refused, "ComputeFilter"), (1, "compute-1".into(), format!("down: {HUNG}")));
    let refused = volume_on(&api, "storage-1@sim").await;
    let refused = api.until_volume(&refused, VolumeState::Error).await.fault.unwrap();
    assert_eq!(
        removed(&refused, "BackendFilter"),
        (1, "storage-1@sim#pool0".into(), format!("down: {HUNG}"))
    );

    for (service, name) in hung {
        std::fs::remove_file(cluster.data_dir(name).join("hang-figures")).unwrap();
        until_host(&api, service, name, HostUp::Up).await;
    }
    api.until(&instance_on(&api, "compute-1").await, State::Active).await;
    api.until_volume(&volume_on(&api, "storage-1@sim").await, VolumeState::Available).await;
    cluster.shutdown().await;
}

/// What a scheduler knows: hosts and backends.
async fn known(cluster: &Cluster, scheduler: &str) -> Vec<HostState> {
    let mut client = SchedulerServiceClient::new(cluster.channel(ServiceKind::Scheduler, scheduler));
    let hosts = client.list_host_states(ListHostStatesRequest::default()).await.unwrap().into_inner().hosts;
    let backends = client.list_backend_states(ListBackendStatesRequest::default()).await.unwrap();
    [hosts, backends.into_inner().backends].concat()
}

async fn knows_all(cluster: &Cluster, scheduler: &str) {
    until(&format!("{scheduler} knows all and is ready"), || async {
        let known = known(cluster, scheduler).await;
        let up = known.iter().filter(|one| one.state() == HostUp::Up && one.capabilities.is_some()).count();
        (up == 5 && cluster.is_ready(ServiceKind::Scheduler, scheduler)).then_some(())
    })
    .await;
}

/// One scheduler starts before those it listens to, one between them, one after them, and one again.
async fn a_scheduler_knows_all_whenever_it_starts(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.schedulers, plan.computes, plan.volumes) = (1, 0, 0);
    let Some((mut cluster, api)) = started(plan).await else { return };
    assert!(known(&cluster, "scheduler-1").await.is_empty(), "it is ready, for nobody is registered");
    let early = api.create("early", "small", 1).await.unwrap().remove(0);
    let fault = api.until(&early, State::Error).await.fault.unwrap();
    assert_eq!(fault.message, "no valid host: no compute is registered");

    for kind in [ServiceKind::Compute, ServiceKind::Volume] {
        cluster.launch(kind, &kilonova_tests::cluster::name(kind, 1)).await;
    }
    cluster.launch(ServiceKind::Scheduler, "scheduler-2").await;
    for number in [2, 3] {
        cluster.launch(ServiceKind::Compute, &format!("compute-{number}")).await;
    }
    cluster.launch(ServiceKind::Volume, "storage-2@sim").await;
    cluster.launch(ServiceKind::Scheduler, "scheduler-3").await;
    for number in 1..=3 {
        knows_all(&cluster, &format!("scheduler-{number}")).await;
    }
    cluster.kill(ServiceKind::Scheduler, "scheduler-1");
    cluster.launch(ServiceKind::Scheduler, "scheduler-1").await;
    knows_all(&cluster, "scheduler-1").await;

    // Each of them places: the others are gone.
    for number in [1, 2] {
        cluster.stop(ServiceKind::Scheduler, &format!("scheduler-{number}")).await;
        api.active(&format!("after-{number}")).await;
    }
    cluster.stop(ServiceKind::Scheduler, "scheduler-3").await;
    cluster.launch(ServiceKind::Scheduler, "scheduler-1").await;
    api.active("after-all").await;
    cluster.shutdown().await;
}
