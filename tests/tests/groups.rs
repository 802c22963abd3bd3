//! Server groups, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use futures::future::join_all;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_runtime::config::Period;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};

over_both_stores!(
    anti_affinity_gives_each_host_one_member_and_a_deleted_one_makes_room,
    affinity_brings_all_to_one_host,
    soft_rules_are_wishes,
    a_rule_holds_while_builds_fail_and_a_conductor_dies,
    groups_are_created_listed_and_deleted,
);

async fn group(api: &Api, policy: Policy, max_per_host: u32) -> String {
    let group =
        pb::ServerGroup { name: "g".into(), policy: policy.into(), max_per_host, ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let created = api.server_groups().create_server_group(request).await.unwrap().into_inner();
    created.server_group.unwrap().id
}

async fn get(api: &Api, id: &str) -> pb::ServerGroup {
    let request = api::GetServerGroupRequest { server_group_id: id.into(), ..Default::default() };
    api.server_groups().get_server_group(request).await.unwrap().into_inner().server_group.unwrap()
}

async fn create(api: &Api, group: &str, count: u32) -> Result<Vec<String>, tonic::Status> {
    create_named(api, "member", group, count).await
}

async fn create_named(api: &Api, name: &str, group: &str, count: u32) -> Result<Vec<String>, tonic::Status> {
    let hints = pb::SchedulerHints { server_group_id: group.into(), ..Default::default() };
    let spec = pb::InstanceSpec {
        name: name.into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), count, ..Default::default() };
    let created = api.instances().create_instance(request).await?.into_inner();
    Ok(created.instances.into_iter().map(|instance| instance.id).collect())
}

/// Waits until an instance is built or has failed.
async fn ended(api: &Api, id: &str) -> pb::Instance {
    until(&format!("the build of {id} ended"), || async {
        api.get(id).await.ok().filter(|i| matches!(i.state(), State::Active | State::Error))
    })
    .await
}

/// Creates so many members at once, each by a request of its own.
async fn at_once(api: &Api, group: &str, count: usize) -> Vec<pb::Instance> {
    join_all((0..count).map(|_| async { ended(api, &create(api, group, 1).await.unwrap()[0]).await })).await
}

/// Creates so many members by one request.
async fn of_one_request(api: &Api, group: &str, count: u32) -> Vec<pb::Instance> {
    let ids = create(api, group, count).await.unwrap();
    join_all(ids.iter().map(|id| ended(api, id))).await
}

fn by_host(instances: &[pb::Instance]) -> BTreeMap<&str, usize> {
    let mut hosts = BTreeMap::new();
    for instance in instances.iter().filter(|instance| instance.state() == State::Active) {
        *hosts.entry(instance.host.as_str()).or_default() += 1;
    }
    hosts
}

async fn anti_affinity_gives_each_host_one_member_and_a_deleted_one_makes_room(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let id = group(&api, Policy::AntiAffinity, 0).await;
    let instances = at_once(&api, &id, 12).await;
    assert_eq!(by_host(&instances), [("compute-1", 1), ("compute-2", 1), ("compute-3", 1)].into());
    let faults: Vec<&pb::Fault> = instances.iter().filter_map(|instance| instance.fault.as_ref()).collect();
    assert_eq!(faults.len(), 9);
    for fault in faults {
        assert_eq!(fault.reason, "NO_VALID_HOST");
        let filters = &fault.explanation.as_ref().unwrap().filters;
        let rule = filters.iter().find(|filter| filter.name == "ServerGroupAntiAffinityFilter").unwrap();
        assert_eq!(rule.removed, 3, "{fault:?}");
        assert_eq!(rule.samples[0].detail, "has 1 of its server group, 1 may share a host");
    }

    let gone = instances.iter().find(|instance| instance.state() == State::Active).unwrap();
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;
    let next = at_once(&api, &id, 2).await;
    assert_eq!(by_host(&next), [(gone.host.as_str(), 1)].into(), "one takes the place, one finds none");
    cluster.shutdown().await;
}

async fn affinity_brings_all_to_one_host(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let groups = join_all((0..6).map(|_| group(&api, Policy::Affinity, 0))).await;
    // The members of one request are placed side by side on both conductors as soon as it is accepted.
    let by_requests = join_all(groups[..2].iter().map(|id| at_once(&api, id, 6))).await;
    let by_one_request = join_all(groups[2..].iter().map(|id| of_one_request(&api, id, 6))).await;
    let each = [by_requests, by_one_request].concat();
    for instances in &each {
        let hosts = by_host(instances);
        assert_eq!(hosts.values().copied().collect::<Vec<_>>(), [6], "{hosts:?}");
    }
    let (id, instances) = (&groups[0], &each[0]);
    let hosts = by_host(instances);

    let elsewhere = ["compute-1", "compute-2", "compute-3"].iter().find(|host| !hosts.contains_key(*host));
    let hints = pb::SchedulerHints {
        server_group_id: id.clone(),
        force_host: (*elsewhere.unwrap()).into(),
        ..Default::default()
    };
    let spec = pb::InstanceSpec { hints: Some(hints), ..instances[0].spec.clone().unwrap() };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let created = api.instances().create_instance(request).await.unwrap().into_inner().instances;
    let fault = api.until(&created[0].id, State::Error).await.fault.unwrap();
    assert!(fault.message.contains("ServerGroupAffinityFilter removed 2"), "{fault:?}");
    cluster.shutdown().await;
}

async fn soft_rules_are_wishes(backing: Backing) {
    let mut plan = Plan::new(backing);
    // What pulls the other way is outweighed: hosts in use are taken first.
    let by = &mut plan.scheduler.hosts.multipliers;
    (by.ram, by.cpu, by.disk) = (-1.0, -1.0, -1.0);
    (by.soft_affinity, by.soft_anti_affinity) = (100.0, 100.0);
    let Some(cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let apart = group(&api, Policy::SoftAntiAffinity, 0).await;
    let mut spread = Vec::new();
    for _ in 0..6 {
        spread.extend(at_once(&api, &apart, 1).await);
    }
    assert_eq!(by_host(&spread), [("compute-1", 2), ("compute-2", 2), ("compute-3", 2)].into());

    let together = group(&api, Policy::SoftAffinity, 0).await;
    let mut packed = Vec::new();
    for _ in 0..4 {
        packed.extend(at_once(&api, &together, 1).await);
    }
    assert_eq!(by_host(&packed).values().copied().collect::<Vec<_>>(), [4]);
    let crowd = at_once(&api, &apart, 6).await;
    assert_eq!(by_host(&crowd).values().sum::<usize>(), 6, "a soft rule refuses nobody");
    cluster.shutdown().await;
}

async fn a_rule_holds_while_builds_fail_and_a_conductor_dies(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.computes = 5;
    plan.compute.driver.latency = Period::from_millis(300);
    plan.compute.driver.fail = vec![FailRule { name: "flaky".into(), attempts: 1 }];
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let (apart, together) =
        (group(&api, Policy::AntiAffinity, 0).await, group(&api, Policy::Affinity, 0).await);
    let accepted = join_all((0..20).map(|n| {
        let (name, group) = (["steady", "flaky"][n / 2 % 2], [&apart, &together][n % 2]);
        create_named(&api, name, group, 1)
    }))
    .await;
    cluster.kill(ServiceKind::Conductor, "conductor-1");
    let ids: Vec<String> = accepted.into_iter().map(|ids| ids.unwrap().remove(0)).collect();
    let instances = join_all(ids.iter().map(|id| ended(&api, id))).await;
    let of = |parity: usize| {
        let members = instances.iter().enumerate().filter(move |(n, _)| n % 2 == parity);
        members.map(|(_, instance)| instance.clone()).collect::<Vec<_>>()
    };
    let (apart, together) = (of(0), of(1));
    assert!(by_host(&apart).values().all(|members| *members == 1), "{apart:#?}");
    assert_eq!(by_host(&together).len(), 1, "{together:#?}");
    cluster.shutdown().await;
}

async fn groups_are_created_listed_and_deleted(backing: Backing) {
    let Some(cluster) = Cluster::start(Plan::new(backing)).await else { return };
    let api = cluster.api();
    api.seed().await;
    let (one, two) = (group(&api, Policy::AntiAffinity, 2).await, group(&api, Policy::Affinity, 0).await);
    let list = async || {
        let mut listed = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = api::ListServerGroupsRequest { page_size: 1, page_token, ..Default::default() };
            let page = api.server_groups().list_server_groups(request).await.unwrap().into_inner();
            listed.extend(page.server_groups.into_iter().map(|group| group.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        listed
    };
    let mut listed = list().await;
    // A conductor that did not make a group knows it a moment later.
    for _ in 0..1000 {
        if listed.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        listed = list().await;
    }
    assert_eq!(listed, [one.clone(), two.clone()]);

    let instances = of_one_request(&api, &one, 7).await;
    let members: Vec<String> = instances.iter().map(|instance| instance.id.clone()).collect();
    assert_eq!(by_host(&instances).into_values().collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(get(&api, &one).await.instance_ids, members);
    let delete = |id: &str| {
        let request = api::DeleteServerGroupRequest { server_group_id: id.into(), ..Default::default() };
        let mut groups = api.server_groups();
        async move { groups.delete_server_group(request).await.map(drop) }
    };
    let reason = |status: tonic::Status| from_status(&status).unwrap().reason;
    assert_eq!(reason(delete(&one).await.unwrap_err()), Reason::InvalidState);
    delete(&two).await.unwrap();
    assert_eq!(reason(create(&api, &two, 1).await.unwrap_err()), Reason::ServerGroupNotFound);
    for id in &members {
        api.delete(id).await.unwrap();
    }
    join_all(members.iter().map(|id| api.until(id, State::Deleted))).await;
    assert!(get(&api, &one).await.instance_ids.is_empty());
    delete(&one).await.unwrap();

    let hints = pb::SchedulerHints { server_group_id: one, ..Default::default() };
    let spec = pb::VolumeSpec { size_gib: 1, hints: Some(hints), ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let refused = from_status(&api.volumes().create_volume(request).await.unwrap_err()).unwrap();
    assert_eq!(refused.violations[0].field, "volume.hints.server_group_id");
    cluster.shutdown().await;
}
