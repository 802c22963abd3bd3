//! The store under a cell that runs: it goes back, and all goes on from what it says, without a restart; its history is
//! compacted; a shard has no owner.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use etcd_client::{Client, GetOptions};
use kilonova_model::ServiceKind;
use kilonova_proto::api::v1::{AcceptStoreRequest, GetStoreRequest};
use kilonova_proto::types::v1::instance::State;
use kilonova_runtime::config::Period;
use kilonova_store::{Keys, Txn};
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan};
use tonic::Code;

const CONDUCTORS: usize = 3;

async fn cell() -> Option<Cluster> {
    let plan = Plan { conductors: CONDUCTORS, own_connections: true, ..Plan::new(Backing::Etcd) };
    Cluster::start(plan).await
}

/// Creates instances until the cell takes them, and waits until they run.
async fn create(api: &Api, name: &str, count: u32) -> Vec<String> {
    let ids = until("the cell takes work", || async { api.create(name, "small", count).await.ok() }).await;
    for id in &ids {
        api.until(id, State::Active).await;
    }
    ids
}

async fn store_id(api: &Api) -> Option<String> {
    let answer = api.stores().get_store(GetStoreRequest {}).await.ok()?;
    answer.into_inner().store.map(|store| store.id)
}

/// Waits until the store is another one than `before` to the cell, and says that it is the one to go by.
async fn accept(api: &Api, before: &str) {
    until("the store is accepted", || async {
        let id = store_id(api).await.filter(|id| id != before)?;
        api.stores().accept_store(AcceptStoreRequest { id, accepted_by: "ada".into() }).await.ok()
    })
    .await;
    until("all hosts take work", || async { api.takes_work().await.then_some(()) }).await;
}

async fn is_gone(api: &Api, id: &str) {
    until("the lost instance is not served", || async {
        api.get(id).await.is_err_and(|status| status.code() == Code::NotFound).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_etcd_is_put_back_to_a_copy_what_is_created_runs_without_any_restart() {
    let Some(mut cluster) = cell().await else { return };
    let api = cluster.api();
    api.seed().await;
    let before = create(&api, "before", 4).await;
    let copy = cluster.etcd().unwrap().copy().await.unwrap();
    let lost = create(&api, "lost", 4).await;
    let known = store_id(&api).await.unwrap();
    cluster.etcd().unwrap().restore(&copy).await.unwrap();
    for id in &lost {
        is_gone(&api, id).await;
    }
    accept(&api, &known).await;
    // Enough that every conductor has some of them.
    let after = create(&api, "after", 12).await;
    for id in before.iter().chain(&after) {
        api.until(id, State::Active).await;
    }
    cluster.ready().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_etcd_is_wiped_the_cell_begins_anew_without_any_restart() {
    let Some(mut cluster) = cell().await else { return };
    let api = cluster.api();
    api.seed().await;
    let lost = create(&api, "lost", 4).await;
    let known = store_id(&api).await.unwrap();
    cluster.etcd().unwrap().wipe().await.unwrap();
    for id in &lost {
        is_gone(&api, id).await;
    }
    accept(&api, &known).await;
    api.seed().await;
    create(&api, "after", 12).await;
    cluster.ready().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_etcd_is_compacted_and_the_cell_goes_on() {
    let mut plan = Plan { conductors: CONDUCTORS, ..Plan::new(Backing::Etcd) };
    plan.conductor.history = Period::from_secs(1);
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    create(&api, "before", 2).await;
    let revision = cluster.shared_store().get("any").await.unwrap().1;
    let endpoint = cluster.etcd().unwrap().endpoint();
    let etcd = Client::connect([endpoint], None).await.unwrap();
    let then = GetOptions::new().with_revision(i64::try_from(revision.0).unwrap() - 1);
    // Nothing is compacted beyond what was reached when all was quiet: so something has to go on.
    until("what was before is compacted", || async {
        cluster.shared_store().txn(Txn::new().put("something", "else")).await.unwrap();
        let read = etcd.kv_client().get("any", Some(then.clone())).await;
        read.is_err_and(|error| error.to_string().contains("compacted")).then_some(())
    })
    .await;
    create(&api, "after", 4).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_nobody_may_own_show_and_calls_are_served_all_the_same() {
    let Some(cluster) = Cluster::start(Plan::new(Backing::Embedded)).await else { return };
    let api = cluster.api();
    api.seed().await;
    // One who is in the list and does not work: its part of the shards is nobody's.
    let (store, ghost) = (cluster.shared_store(), Keys::new(cluster.cell()).owner(&"ghost".parse().unwrap()));
    store.txn(Txn::new().put(&ghost, "")).await.unwrap();
    for conductor in ["conductor-1", "conductor-2"] {
        let waits_for = || async {
            let said = cluster.waits_for(ServiceKind::Conductor, conductor);
            said.contains("have had no owner for").then_some(())
        };
        until("a conductor says so", waits_for).await;
        assert!(!cluster.is_ready(ServiceKind::Conductor, conductor));
    }
    assert!(api.create("vm", "small", 1).await.is_ok());
    store.txn(Txn::new().delete(&ghost)).await.unwrap();
    cluster.ready().await;
    cluster.shutdown().await;
}
