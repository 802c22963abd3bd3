//! Where things would go and why they went where they are, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::scheduler::v1::ListHostStatesRequest;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};

over_both_stores!(
    a_dry_run_says_where_the_next_build_goes_and_takes_nothing,
    a_dry_run_asks_with_the_same_wishes_as_a_build,
    a_dry_run_of_what_fits_nowhere_explains,
    a_volume_goes_where_its_dry_run_said,
    an_instance_says_why_it_is_where_it_is,
    a_decision_outlives_a_host_that_failed_and_makes_way_for_that_of_a_move,
);

/// A cell with one scheduler, so that the one that is asked is the one that places.
async fn cell(backing: Backing) -> Option<(Cluster, Api)> {
    started(Plan { schedulers: 1, ..Plan::new(backing) }).await
}

fn small(hints: pb::SchedulerHints) -> pb::InstanceSpec {
    pb::InstanceSpec {
        name: "vm".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    }
}

fn only(host: &str) -> pb::SchedulerHints {
    pb::SchedulerHints { force_host: host.into(), ..Default::default() }
}

async fn evaluate(
    api: &Api,
    instance: pb::InstanceSpec,
    count: u32,
) -> Result<api::EvaluateInstancePlacementResponse, Reason> {
    let request = api::EvaluateInstancePlacementRequest {
        instance: Some(instance),
        count,
        alternates: 2,
        ..Default::default()
    };
    let answer = api.placements().evaluate_instance_placement(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| from_status(&status).unwrap().reason)
}

fn hosts(answer: &api::EvaluateInstancePlacementResponse) -> Vec<&str> {
    answer.selections.iter().map(|one| one.place.as_ref().unwrap().host.as_str()).collect()
}

async fn build(api: &Api, instance: pb::InstanceSpec) -> pb::Instance {
    let request = api::CreateInstanceRequest { instance: Some(instance), ..Default::default() };
    let created = api.instances().create_instance(request).await.unwrap().into_inner().instances;
    api.until(&created[0].id, State::Active).await
}

/// Makes `compute-3` the emptiest host, and waits until the scheduler knows.
async fn crowd(cluster: &Cluster, api: &Api) {
    for host in ["compute-1", "compute-2"] {
        build(api, small(only(host))).await;
    }
    until("the builds are seen", || async { (holds(cluster).await == 0).then_some(()) }).await;
}

/// How many promises the scheduler holds.
async fn holds(cluster: &Cluster) -> u32 {
    let mut scheduler = SchedulerServiceClient::new(cluster.channel(ServiceKind::Scheduler, "scheduler-1"));
    let states = scheduler.list_host_states(ListHostStatesRequest::default()).await.unwrap().into_inner();
    states.hosts.iter().map(|state| state.holds).sum()
}

async fn used(api: &Api) -> pb::QuotaUsage {
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    quota.quota.unwrap().usage.unwrap()
}

async fn placement(api: &Api, id: &str) -> Option<pb::PlacementDecision> {
    let request = api::GetInstancePlacementRequest { instance_id: id.into(), ..Default::default() };
    api.placements().get_instance_placement(request).await.unwrap().into_inner().placement
}

async fn a_dry_run_says_where_the_next_build_goes_and_takes_nothing(backing: Backing) {
    let Some((cluster, api)) = cell(backing).await else { return };
    crowd(&cluster, &api).await;
    let before = used(&api).await;

    let answer = evaluate(&api, small(Default::default()), 1).await.unwrap();
    assert_eq!(hosts(&answer), ["compute-3"]);
    assert_eq!(answer.selections[0].alternates.len(), 2);
    let best = &answer.explanation.as_ref().unwrap().candidates[0];
    assert_eq!(best.host, "compute-3");
    let ram = best.weighers.iter().find(|weigher| weigher.name == "RAMWeigher").unwrap();
    assert_eq!((ram.normalized, ram.multiplier), (1.0, 1.0));

    let answer = evaluate(&api, small(Default::default()), 3).await.unwrap();
    assert_eq!(answer.selections.len(), 3);
    assert_eq!(hosts(&answer)[0], "compute-3");
    assert!(hosts(&answer)[1..].contains(&"compute-1"), "each counts where the earlier ones are");

    assert_eq!((holds(&cluster).await, used(&api).await), (0, before));
    assert_eq!(build(&api, small(Default::default())).await.host, "compute-3");
    cluster.shutdown().await;
}

async fn a_dry_run_asks_with_the_same_wishes_as_a_build(backing: Backing) {
    let Some((cluster, api)) = cell(backing).await else { return };
    let group =
        pb::ServerGroup { name: "apart".into(), policy: Policy::AntiAffinity.into(), ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let group = api.server_groups().create_server_group(request).await.unwrap().into_inner();
    let group_id = group.server_group.unwrap().id;
    let member = |host: &str| pb::SchedulerHints { server_group_id: group_id.clone(), ..only(host) };
    let first = build(&api, small(member("compute-1"))).await;
    build(&api, small(member("compute-2"))).await;

    let apart = evaluate(&api, small(member("")), 1).await.unwrap();
    assert_eq!(hosts(&apart), ["compute-3"], "the members' hosts are read");
    assert_eq!(evaluate(&api, small(member("compute-1")), 1).await.unwrap().selections, []);
    assert_eq!(evaluate(&api, small(member("")), 2).await, Err(Reason::ValidationFailed));
    let of_nobody = kilonova_model::ServerGroupId::generate().to_string();
    let stranger = pb::SchedulerHints { server_group_id: of_nobody, ..Default::default() };
    assert_eq!(evaluate(&api, small(stranger), 1).await, Err(Reason::ServerGroupNotFound));

    let together = pb::SchedulerHints { same_host: vec![first.id.clone()], ..Default::default() };
    assert_eq!(hosts(&evaluate(&api, small(together), 1).await.unwrap()), [first.host]);
    let nowhere = pb::InstanceSpec { availability_zone: "elsewhere".into(), ..small(Default::default()) };
    assert_eq!(evaluate(&api, nowhere, 1).await.unwrap().selections, []);
    let bare = pb::InstanceSpec { flavor_id: "small".into(), ..Default::default() };
    assert_eq!(evaluate(&api, bare, 1).await.unwrap().selections.len(), 1, "neither name nor image");
    let unknown = pb::InstanceSpec { flavor_id: "unknown".into(), ..Default::default() };
    assert_eq!(evaluate(&api, unknown, 1).await, Err(Reason::FlavorNotFound));
    assert_eq!(build(&api, small(member(""))).await.host, "compute-3");
    cluster.shutdown().await;
}

async fn a_dry_run_of_what_fits_nowhere_explains(backing: Backing) {
    let Some((cluster, api)) = cell(backing).await else { return };
    let huge = pb::InstanceSpec { flavor_id: "huge".into(), ..Default::default() };
    let answer = evaluate(&api, huge, 1).await.unwrap();
    assert_eq!(answer.selections, []);
    let explanation = answer.explanation.unwrap();
    assert_eq!((explanation.considered, explanation.remaining), (3, 0));
    assert!(explanation.summary.starts_with("no valid host: 3 considered"), "{}", explanation.summary);
    let removed: u32 = explanation.filters.iter().map(|filter| filter.removed).sum();
    assert_eq!(removed, 3);
    cluster.shutdown().await;
}

async fn a_volume_goes_where_its_dry_run_said(backing: Backing) {
    let Some((cluster, api)) = cell(backing).await else { return };
    let create = async |spec: pb::VolumeSpec| {
        let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
        let created = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap();
        api.until_volume(&created.id, VolumeState::Available).await
    };
    create(pb::VolumeSpec { size_gib: 50, hints: Some(only("storage-1@sim")), ..Default::default() }).await;
    let spec = pb::VolumeSpec { size_gib: 1, ..Default::default() };
    let evaluate = async |volume: pb::VolumeSpec| {
        let request = api::EvaluateVolumePlacementRequest { volume: Some(volume), ..Default::default() };
        api.placements().evaluate_volume_placement(request).await.unwrap().into_inner()
    };
    let place = until("the backend reported the volume", || async {
        let place = evaluate(spec.clone()).await.selections.remove(0).place.unwrap();
        (place.host == "storage-2@sim").then_some(place)
    })
    .await;
    let volume = create(spec.clone()).await;
    assert_eq!((&volume.host, &volume.pool), (&place.host, &place.pool));
    let request = api::GetVolumePlacementRequest { volume_id: volume.id, ..Default::default() };
    let decision =
        api.placements().get_volume_placement(request).await.unwrap().into_inner().placement.unwrap();
    assert_eq!((decision.kind(), &decision.hosts[0]), (Kind::Create, &volume.host));
    let told = decision.explanation.unwrap();
    assert_eq!((&told.candidates[0].host, &told.candidates[0].pool), (&volume.host, &volume.pool));

    let impossible = pb::VolumeSpec { size_gib: 1 << 20, ..Default::default() };
    let answer = evaluate(impossible).await;
    assert_eq!(answer.selections, []);
    assert!(answer.explanation.unwrap().summary.contains("CapacityFilter removed 2"));
    cluster.shutdown().await;
}

async fn an_instance_says_why_it_is_where_it_is(backing: Backing) {
    let Some((cluster, api)) = cell(backing).await else { return };
    crowd(&cluster, &api).await;
    let placed = build(&api, small(Default::default())).await;
    let decision = placement(&api, &placed.id).await.unwrap();
    assert_eq!((decision.kind(), decision.hosts[0].as_str()), (Kind::Create, "compute-3"));
    let told = decision.explanation.unwrap();
    assert_eq!((told.considered, told.remaining, told.candidates.len()), (3, 3, 2));
    assert_eq!((told.scheduler.as_str(), told.filters), ("scheduler-1", vec![]));
    assert_eq!(told.candidates[0].host, placed.host);
    assert!(told.candidates[0].weighers.iter().any(|weigher| weigher.name == "RAMWeigher"));

    let id = api.create("vm", "huge", 1).await.unwrap().remove(0);
    let fault = api.until(&id, State::Error).await.fault.unwrap();
    let removed = fault.explanation.unwrap().filters.into_iter().find(|filter| filter.removed > 0).unwrap();
    assert_eq!(removed.removed, 3);
    assert_eq!(placement(&api, &id).await, None, "no scheduler named a place");

    let id = kilonova_model::InstanceId::generate().to_string();
    let request = api::GetInstancePlacementRequest { instance_id: id, ..Default::default() };
    let missing = api.placements().get_instance_placement(request).await.unwrap_err();
    assert_eq!(from_status(&missing).unwrap().reason, Reason::InstanceNotFound);
    cluster.shutdown().await;
}

async fn a_decision_outlives_a_host_that_failed_and_makes_way_for_that_of_a_move(backing: Backing) {
    let mut plan = Plan { schedulers: 1, ..Plan::new(backing) };
    plan.compute.driver.fail = vec![FailRule { name: "unlucky".into(), attempts: 1 }];
    let Some((cluster, api)) = started(plan).await else { return };
    let instance = api.active("unlucky").await;
    let decision = placement(&api, &instance.id).await.unwrap();
    assert_eq!(instance.failed_attempts[0].host, decision.hosts[0]);
    assert_eq!(instance.host, decision.hosts[1], "the alternate of the same decision");

    let request = api::MigrateInstanceRequest { instance_id: instance.id.clone(), ..Default::default() };
    api.instances().migrate_instance(request).await.unwrap();
    let moved = api.until(&instance.id, State::Resized).await;
    let decision = placement(&api, &instance.id).await.unwrap();
    assert_eq!((decision.kind(), &decision.hosts[0]), (Kind::Migrate, &moved.host));
    cluster.shutdown().await;
}
