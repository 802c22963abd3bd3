//! Server groups: the rule holds whatever a scheduler says and however many ask at once.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_conductor::Config;
use kilonova_conductor::accept::Request;
use kilonova_conductor::placed::Placed;
use kilonova_model::{Error, InstanceId, Reason, ServerGroupId};
use kilonova_proto::conductor::v1::ServerGroupRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_runtime::config::Period;

use super::support::*;

fn request(project: &str, request_id: &str) -> Request {
    Request::new("CreateServerGroup", project, request_id, &pb::ServerGroup::default()).unwrap()
}

async fn group(conductor: &Conductor, policy: Policy, request_id: &str) -> ServerGroupId {
    let group = pb::ServerGroup { name: "g".into(), policy: policy.into(), ..Default::default() };
    let request = request("demo", request_id);
    let created = conductor.groups.create(&conductor.acceptor, &request, group, false).await.unwrap();
    created.id.parse().unwrap()
}

async fn stored(conductor: &Conductor, id: ServerGroupId) -> ServerGroupRecord {
    conductor.groups.read(id).await.unwrap().unwrap().record
}

async fn delete(conductor: &Conductor, id: ServerGroupId) -> Result<(), Error> {
    conductor.groups.delete(&conductor.acceptor, &request("demo", ""), id, "demo", false).await
}

/// Creates `count` members at once, on one conductor after the other; where each ended, by host or by its fault.
async fn ends(
    conductors: [&Conductor; 2],
    group: ServerGroupId,
    count: usize,
) -> Vec<Result<String, String>> {
    let one = async |n: usize| {
        let conductor = conductors[n % 2];
        let id = conductor.create_in("", 1, Some(group)).await.unwrap()[0];
        let record = conductor.until(id, |i| matches!(i.state(), State::Active | State::Error)).await;
        let instance = record.resource();
        match &instance.fault {
            None => Ok(instance.host.clone()),
            Some(fault) => Err(fault.reason.clone()),
        }
    };
    futures::future::join_all((0..count).map(one)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn anti_affinity_holds_against_schedulers_that_know_nothing_of_it() {
    let cell = Cell::new(&["h1", "h2", "h3"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let id = group(&one, Policy::AntiAffinity, "").await;
    let ends = ends([&one, &two], id, 10).await;
    let hosts: BTreeSet<&String> = ends.iter().flatten().collect();
    assert_eq!((hosts.len(), ends.iter().flatten().count()), (3, 3), "{ends:?}");
    assert!(ends.iter().filter_map(|end| end.as_ref().err()).all(|reason| reason == "NO_VALID_HOST"));

    let record = stored(&one, id).await;
    assert_eq!(record.server_group.unwrap().instance_ids.len(), 10, "those in ERROR are members too");
    let kept: BTreeSet<&String> = record.places.values().map(|place| &place.host).collect();
    assert_eq!((kept, record.places.len()), (hosts, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_holds_against_schedulers_that_name_another_host_each_time() {
    let cell = Cell::new(&["h1", "h2", "h3", "h4", "h5"]).await;
    cell.hosts.world.lock().turning = true;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let id = group(&one, Policy::Affinity, "").await;
    let ends = ends([&one, &two], id, 8).await;
    let hosts: BTreeSet<&String> = ends.iter().flatten().collect();
    assert_eq!((hosts.len(), ends.iter().flatten().count()), (1, 8), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_may_still_hold_a_member_counts_until_it_says_otherwise() {
    let cell = Cell::new(&["h1", "h2", "h3"]).await;
    let config = Config {
        build_timeout: Period::from_millis(300),
        resend_interval: Period::from_millis(200),
        leave_timeout: Period::from_millis(300),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    let id = group(&conductor, Policy::AntiAffinity, "").await;
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let create = async || conductor.create_in("", 1, Some(id)).await.unwrap()[0];
    let first = create().await;
    conductor.until(first, |i| i.state() == State::Active && i.host == "h2").await;
    let second = create().await;
    conductor.until(second, |i| i.state() == State::Active && i.host == "h3").await;
    let third = create().await;
    conductor.until(third, |i| i.state() == State::Error).await;

    cell.hosts.world.lock().silent.clear();
    let member = first.to_string();
    let left =
        || conductor.groups.cache.get(&id).map(|group| group.record.places[&member].left_hosts.clone());
    eventually("the first host holds nothing more", || left()?.is_empty().then_some(())).await;
    let fourth = create().await;
    conductor.until(fourth, |i| i.state() == State::Active && i.host == "h1").await;
    let places = stored(&conductor, id).await.places;
    let hosts: BTreeMap<&str, &str> =
        places.iter().map(|(id, place)| (place.host.as_str(), id.as_str())).collect();
    let ids = [fourth, first, second].map(|id| id.to_string());
    assert_eq!(
        hosts,
        BTreeMap::from_iter(["h1", "h2", "h3"].into_iter().zip(ids.iter().map(String::as_str)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_joined_by_its_project_and_goes_when_it_is_empty() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let id = group(&one, Policy::AntiAffinity, "same").await;
    assert_eq!(group(&two, Policy::AntiAffinity, "same").await, id, "created once");
    let unknown = one.create_in("", 1, Some(ServerGroupId::generate())).await.unwrap_err();
    assert_eq!(unknown.reason, Reason::ServerGroupNotFound);
    let foreign = pb::ServerGroup { policy: Policy::Affinity.into(), ..Default::default() };
    let foreign = one.groups.create(&one.acceptor, &request("other", ""), foreign, false).await.unwrap();
    let refused = one.create_in("", 1, Some(foreign.id.parse().unwrap())).await.unwrap_err();
    assert_eq!(refused.reason, Reason::ServerGroupNotFound);

    let (a, b) = tokio::join!(one.create_in("twice", 2, Some(id)), two.create_in("twice", 2, Some(id)));
    let members: Vec<InstanceId> = a.unwrap();
    assert_eq!(b.unwrap(), members);
    let ids: Vec<String> = members.iter().map(ToString::to_string).collect();
    assert_eq!(stored(&one, id).await.server_group.unwrap().instance_ids, ids);
    assert_eq!(delete(&two, id).await.unwrap_err().reason, Reason::InvalidState);
    for member in &members {
        two.until(*member, |i| matches!(i.state(), State::Active | State::Error)).await;
        two.delete(*member).await.unwrap();
        one.until(*member, |i| i.state() == State::Deleted).await;
    }
    let record = stored(&one, id).await;
    assert!(record.server_group.unwrap().instance_ids.is_empty() && record.places.is_empty());
    delete(&two, id).await.unwrap();
    assert_eq!(delete(&two, id).await.unwrap_err().reason, Reason::ServerGroupNotFound);
    let late = one.create_in("", 1, Some(id)).await.unwrap_err();
    assert_eq!(late.reason, Reason::ServerGroupNotFound);
}
