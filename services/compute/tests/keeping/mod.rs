//! What an agent keeps, whatever the records say or do not say.

use kilonova_compute::Config;
use kilonova_model::InstanceId;
use kilonova_proto::types::v1::Store;
use kilonova_runtime::config::Period;

use super::support::{Cell, HOST, quick};

fn often() -> Config {
    Config { reconcile_interval: Period::from_millis(50), ..quick() }
}

fn store(id: &str, revision: u64, accepted: bool) -> Option<Store> {
    let replaced_ids = if accepted { vec!["one".to_owned()] } else { Vec::new() };
    Some(Store { id: id.into(), revision, accepted, replaced_ids, ..Store::default() })
}

async fn built(cell: &mut Cell, name: &str) -> InstanceId {
    let id = InstanceId::generate();
    cell.build(id, 1, name).await.unwrap();
    cell.report().await;
    id
}

#[tokio::test]
async fn an_agent_does_not_start_over_the_data_of_another_and_says_whose_they_are() {
    let mut cell = Cell::start(quick()).await;
    built(&mut cell, "web").await;
    cell.stop_agent().await;
    let refused = cell.launch_agent("node9").await.unwrap_err().to_string();
    assert!(refused.contains("compute host node1") && refused.contains("compute host node9"), "{refused}");
    assert!(refused.contains("start it under that name"), "{refused}");
    assert_eq!(cell.done(), ["spawn web"]);
}

#[tokio::test]
async fn what_a_record_wants_elsewhere_is_left_alone() {
    let mut config = often();
    config.orphan_grace = Period::from_secs(3600);
    let mut cell = Cell::start(config).await;
    let id = built(&mut cell, "web").await;
    cell.conductor.elsewhere.lock().insert(id.to_string(), "node7".into());
    cell.stop_agent().await;
    cell.config.orphan_grace = Period::from_millis(0);
    cell.start_agent().await;
    cell.compared().await;
    assert_eq!(cell.done(), ["spawn web"], "the agent is ready, and keeps it");
    cell.conductor.elsewhere.lock().clear();
    cell.compared().await;
    cell.report().await;
    assert_eq!(cell.done(), ["spawn web", "destroy web"], "no record wants it any more");
}

#[tokio::test]
async fn an_agent_that_sees_another_store_removes_nothing_until_that_is_accepted() {
    let mut cell = Cell::without_agent(often()).await;
    *cell.conductor.store.lock() = store("one", 5, false);
    cell.start_agent().await;
    cell.conductor.mute.send_replace(true);
    built(&mut cell, "web").await;
    cell.crash_agent();
    cell.conductor.mute.send_replace(false);

    *cell.conductor.store.lock() = store("two", 9, false);
    cell.agent = Some(cell.launch_agent(HOST).await.unwrap());
    let waits = |agent: &kilonova_runtime::Running| {
        agent.readiness.current().missing().any(|(name, why)| {
            name == "store" && why.contains("store two") && why.contains("store one at revision 5")
        })
    };
    cell.until(waits).await;
    let asked = cell.conductor.registrations.lock().len();
    cell.until(|_| cell.conductor.registrations.lock().len() > asked + 1).await;
    assert!(waits(cell.agent.as_ref().unwrap()));
    let last = cell.conductor.registrations.lock().last().unwrap().clone();
    assert_eq!((last.store_id.as_str(), last.store_revision), ("one", 5), "it tells what it remembers");
    assert_eq!(cell.done(), ["spawn web"]);

    *cell.conductor.store.lock() = store("two", 9, true);
    cell.until(|agent| agent.readiness.is_ready()).await;
    assert_eq!(cell.done(), ["spawn web", "destroy web"], "an administrator's word");
}

#[tokio::test]
async fn an_agent_whose_store_is_set_back_while_it_runs_takes_nothing_and_removes_nothing() {
    let mut cell = Cell::without_agent(often()).await;
    *cell.conductor.store.lock() = store("one", 500, false);
    cell.start_agent().await;
    *cell.conductor.store.lock() = store("one", 400, false);
    cell.until(|agent| !agent.readiness.is_ready()).await;
    *cell.conductor.store.lock() = store("one", 501, false);
    cell.until(|agent| agent.readiness.is_ready()).await;
}

#[tokio::test]
async fn what_was_made_of_a_record_that_the_store_lost_is_kept_though_the_agent_was_told_of_it_by_its_command_only()
 {
    let mut cell = Cell::without_agent(often()).await;
    *cell.conductor.store.lock() = store("one", 5, false);
    cell.start_agent().await;
    cell.conductor.mute.send_replace(true);
    let mut order = cell.order(InstanceId::generate(), 1, "web");
    order.command.as_mut().unwrap().store_revision = 50;
    cell.client().build_instance(order).await.unwrap();
    cell.report().await;
    cell.crash_agent();
    cell.conductor.mute.send_replace(false);

    *cell.conductor.store.lock() = store("one", 40, false);
    cell.agent = Some(cell.launch_agent(HOST).await.unwrap());
    let waits = |agent: &kilonova_runtime::Running| {
        agent.readiness.current().missing().any(|(name, why)| name == "store" && why.contains("revision 50"))
    };
    cell.until(waits).await;
    assert_eq!(cell.conductor.registrations.lock().last().unwrap().store_revision, 50);
    assert_eq!(cell.done(), ["spawn web"]);
}

#[tokio::test]
async fn no_more_than_a_share_of_the_guests_is_removed_in_an_hour() {
    let mut config = often();
    config.orphan_grace = Period::from_secs(3600);
    let mut cell = Cell::start(config).await;
    for name in ["one", "two", "three"] {
        built(&mut cell, name).await;
    }
    cell.stop_agent().await;
    cell.config.orphan_grace = Period::from_millis(0);
    cell.config.orphan_share_per_hour = 0.05;
    cell.start_agent().await;
    cell.compared().await;
    cell.compared().await;
    assert_eq!(cell.replay(), (3, 2), "one always may be removed");
}
