//! A store that is not what it was: agents wait for the operator, and remove nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_compute::config::Verb;
use kilonova_model::ServiceKind;
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::{InstanceRecord, StoreRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::Store;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_runtime::agent::simulated::VerbConfig;
use kilonova_runtime::config::Period;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::cluster::{Cluster, name};
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Plan, over_both_stores};
use prost::Message;

over_both_stores!(
    agents_wait_for_the_operator_while_the_store_is_another_one,
    one_agent_that_was_told_of_more_than_there_is_has_all_of_them_wait,
    a_store_that_has_outgrown_what_an_agent_was_told_is_known_by_the_mark_that_it_lacks,
    what_a_record_wants_on_another_host_is_left_alone_and_what_none_wants_is_not,
    nothing_is_driven_before_hosts_have_compared_what_they_have_with_an_accepted_store,
);

const AGENTS: [ServiceKind; 2] = [ServiceKind::Compute, ServiceKind::Volume];

fn plan(backing: Backing) -> Plan {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.volumes) = (1, 1);
    plan.compute.register_interval = Period::from_millis(200);
    plan.volume.register_interval = Period::from_millis(200);
    plan
}

async fn store(api: &Api) -> pb::Store {
    api.stores().get_store(api::GetStoreRequest {}).await.unwrap().into_inner().store.unwrap()
}

async fn accept(api: &Api, id: &str) -> Result<pb::Store, tonic::Status> {
    let request = api::AcceptStoreRequest { id: id.into(), accepted_by: "ada".into() };
    api.stores().accept_store(request).await.map(|answer| answer.into_inner().store.unwrap())
}

async fn until_agents(cluster: &Cluster, ready: bool) {
    let all = || AGENTS.iter().all(|kind| cluster.is_ready(*kind, &name(*kind, 1)) == ready);
    until(&format!("every agent is ready: {ready}"), || async { all().then_some(()) }).await;
}

async fn until_nobody_drives(cluster: &Cluster) {
    let shards = Keys::new(cluster.cell()).shards();
    until("nobody drives a store that was set back", || async {
        let owned = cluster.shared_store().list(&shards, None, 10).await.ok()?;
        owned.items.is_empty().then_some(())
    })
    .await;
}

/// Accepts the store, after which all goes on as if nothing had been.
async fn accepted(cluster: Cluster, api: &Api, instance: &pb::Instance) {
    let Store { id, previous_id, .. } = store(api).await;
    if !previous_id.is_empty() {
        until_nobody_drives(&cluster).await;
    }
    // What is asked of a store that was set back waits; it does not fail because agents wait too.
    let count = u32::from(!previous_id.is_empty());
    let waiting = if count == 0 { vec![] } else { api.create("waiting", "small", count).await.unwrap() };
    let store = accept(api, &id).await.unwrap();
    assert_eq!((store.accepted, store.accepted_by.as_str()), (true, "ada"));
    until_agents(&cluster, true).await;
    assert_eq!(api.get(&instance.id).await.unwrap().state(), instance.state());
    assert_eq!(cluster.journals().iter().filter(|line| line.op == "destroy").count(), 0);
    api.active("new").await;
    for id in waiting {
        api.until(&id, State::Active).await;
    }
    cluster.shutdown().await;
}

async fn agents_wait_for_the_operator_while_the_store_is_another_one(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("web").await;
    let first = store(&api).await;
    assert!(!first.accepted && first.revision > 0);
    let another = pb::Store { id: "01a21692-f5a0-77ea-bd5e-52c79967c526".into(), ..Default::default() };
    let record = StoreRecord { store: Some(another.clone()), lineage: 0 }.encode_to_vec();
    let txn = Txn::new().put(Keys::new(cluster.cell()).store_identity(), record);
    cluster.shared_store().txn(txn).await.unwrap();
    until_agents(&cluster, false).await;
    assert!(accept(&api, &first.id).await.is_err(), "that is not the store there is");
    accepted(cluster, &api, &instance).await;
}

async fn one_agent_that_was_told_of_more_than_there_is_has_all_of_them_wait(backing: Backing) {
    let ahead = |store: &pb::Store| {
        let ahead = store.revision + 1_000_000;
        format!(r#"{{"id":"{}","revision":{ahead}}}"#, store.id)
    };
    Box::pin(all_of_them_wait(backing, ahead)).await;
}

async fn a_store_that_has_outgrown_what_an_agent_was_told_is_known_by_the_mark_that_it_lacks(
    backing: Backing,
) {
    let lost = |store: &pb::Store| {
        let mark = "000000000001-0123456789abcdef";
        format!(r#"{{"id":"{}","revision":1,"mark":"{mark}"}}"#, store.id)
    };
    Box::pin(all_of_them_wait(backing, lost)).await;
}

async fn nothing_is_driven_before_hosts_have_compared_what_they_have_with_an_accepted_store(
    backing: Backing,
) {
    let mut plan = plan(backing);
    plan.computes = 2;
    let slow = VerbConfig { latency: Some(Period::from_secs(2)), ..VerbConfig::default() };
    plan.compute.driver.verbs = [(Verb::List, slow)].into();
    let Some((mut cluster, api)) = started(plan).await else { return };
    let instance = api.active("web").await;
    let first = store(&api).await;
    cluster.stop(ServiceKind::Compute, &instance.host).await;
    let ahead = format!(r#"{{"id":"{}","revision":{}}}"#, first.id, first.revision + 1_000_000);
    std::fs::write(cluster.data_dir(&instance.host).join("store.json"), ahead).unwrap();
    cluster.launch(ServiceKind::Compute, &instance.host).await;
    let second = until("the store has another id", || async {
        Some(store(&api).await).filter(|store| store.previous_id == first.id)
    })
    .await;
    until_nobody_drives(&cluster).await;
    // As it was before a place was found for it.
    let key = Keys::new(cluster.cell()).instance(instance.id.parse().unwrap());
    let found = cluster.shared_store().get(&key).await.unwrap().0.unwrap();
    let mut record = InstanceRecord::decode(found.value.as_ref()).unwrap();
    (record.receipts, record.tried_hosts, record.last_attempt) = Default::default();
    let was = record.instance.as_mut().unwrap();
    was.set_state(State::Building);
    was.set_task(Task::Scheduling);
    (was.host, was.attempt, was.launch_time) = Default::default();
    let txn = Txn::new().put(key, record.encode_to_vec());
    cluster.shared_store().txn(txn).await.unwrap().committed().unwrap();

    accept(&api, &second.id).await.unwrap();
    let failed = api.until(&instance.id, State::Error).await;
    assert!(failed.host.is_empty(), "{failed:?}");
    let spawned: Vec<_> = cluster.journals().into_iter().filter(|line| line.op == "spawn").collect();
    assert_eq!(spawned.len(), 1, "the copy that is there is not made a second time: {spawned:?}");
    assert!(store(&api).await.compared);
    cluster.shutdown().await;
}

/// One agent remembers what the store is not; all wait.
async fn all_of_them_wait(backing: Backing, remembers: impl Fn(&pb::Store) -> String) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("web").await;
    let first = store(&api).await;
    let compute = name(ServiceKind::Compute, 1);
    cluster.stop(ServiceKind::Compute, &compute).await;
    let remembered = remembers(&first);
    std::fs::write(cluster.data_dir(&compute).join("store.json"), remembered).unwrap();
    cluster.launch(ServiceKind::Compute, &compute).await;
    until_agents(&cluster, false).await;
    let second = store(&api).await;
    assert_eq!(second.previous_id, first.id, "so that every agent notices");
    accepted(cluster, &api, &instance).await;
}

async fn what_a_record_wants_on_another_host_is_left_alone_and_what_none_wants_is_not(backing: Backing) {
    let mut plan = plan(backing);
    plan.compute.remove_orphans = true;
    plan.compute.orphan_grace = Period::from_millis(0);
    plan.compute.orphan_share_per_hour = 1.0;
    let Some((mut cluster, api)) = started(plan).await else { return };
    let (kept, gone) = (api.active("kept").await, api.active("gone").await);
    let (first, second) = (name(ServiceKind::Compute, 1), name(ServiceKind::Compute, 2));
    let journal = |host: &str| cluster.data_dir(host).join("journal.jsonl");
    std::fs::create_dir_all(cluster.data_dir(&second)).unwrap();
    std::fs::copy(journal(&first), journal(&second)).unwrap();
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;

    cluster.launch(ServiceKind::Compute, &second).await;
    cluster.ready().await;
    let journals = cluster.journals();
    let destroyed: Vec<&str> =
        journals.iter().filter(|l| l.op == "destroy" && l.host == second).map(|l| l.id.as_str()).collect();
    assert_eq!(destroyed, [gone.id], "whoever is ready has removed what is not wanted");
    assert_eq!(api.get(&kept.id).await.unwrap().host, first);
    cluster.shutdown().await;
}
