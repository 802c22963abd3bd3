//! Deletes, whatever the hosts do.

use kilonova_conductor::Config;
use kilonova_conductor::placed::Placed;
use kilonova_proto::conductor::v1::{InstanceRecord, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State;
use kilonova_runtime::config::Period;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_another_host_has_is_removed_only_once_its_own_host_says_that_it_has_it() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("", 1).await.unwrap()[0];
    let home = conductor.until(id, |i| i.state() == State::Active).await.resource().host.clone();
    let other = if home == "h1" { "h2" } else { "h1" };
    cell.hosts.world.lock().empty.insert(home.clone());
    let at = |attempt, found| Receipt { host: other.into(), attempt, found, ..Default::default() };
    let write = |receipt: Receipt| {
        let records = conductor.records.clone();
        async move {
            let changed = records.modify(id, |entry| {
                let mut record = InstanceRecord::clone(&entry.record);
                record.receipts.retain(|one| one.host != receipt.host);
                record.receipts.push(receipt.clone());
                Ok(Some(record))
            });
            changed.await.unwrap();
        }
    };
    write(at(7, false)).await;
    // Asked about more than once: it is looked at again at the pace at which commands are sent again.
    let looked = || (cell.hosts.world.lock().has_asked > 2).then_some(());
    eventually("the host was asked whether it has it", looked).await;
    assert!(cell.hosts.world.lock().terminated.is_empty());

    cell.hosts.world.lock().empty.clear();
    let removed = || (cell.hosts.world.lock().terminated == [(id, other.to_owned())]).then_some(());
    eventually("the other copy is removed", removed).await;

    cell.hosts.world.lock().terminated.clear();
    write(at(8, true)).await;
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    conductor.until(id, |i| i.state() == State::Stopped).await;
    assert!(cell.hosts.world.lock().terminated.is_empty(), "what was found stays, whoever has the other");
    conductor.delete(id).await.unwrap();
    conductor.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(cell.hosts.world.lock().terminated.len(), 2, "until the instance is deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_overtakes_a_build() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| !i.host.is_empty()).await;
    cell.hosts.world.lock().silent.clear();
    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(record.actions[0].outcome(), pb::Outcome::Superseded);
    assert_eq!(record.actions[1].outcome(), pb::Outcome::Succeeded);
    assert_eq!(cell.hosts.world.lock().terminated, [(id, "h1".to_owned())]);
    assert_eq!(cell.registrations.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_removal_does_not_keep_another_from_being_asked() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let config = Config {
        build_timeout: Period::from_millis(200),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    {
        let mut world = cell.hosts.world.lock();
        world.silent = ["h1".to_owned()].into();
        world.deaf = ["h1".to_owned()].into();
    }
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active && i.host == "h2").await;
    conductor.delete(id).await.unwrap();
    let asked = || cell.hosts.world.lock().terminated.contains(&(id, "h2".to_owned())).then_some(());
    eventually("the healthy host is asked", asked).await;
    {
        let mut world = cell.hosts.world.lock();
        world.silent.clear();
        world.deaf.clear();
    }
    conductor.until(id, |i| i.state() == State::Deleted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_for_a_delete_removes_its_copy_when_it_is_back() {
    let mut cell = Cell::new(&["h1"]).await;
    let config = Config {
        delete_timeout: Period::from_millis(200),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active).await;
    cell.registrations.remove(0).deregister().await.unwrap();
    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(record.receipts.len(), 1, "the copy is not forgotten");
    assert_eq!(conductor.used().await, pb::QuotaUsage::default());
    assert!(cell.hosts.world.lock().terminated.is_empty());

    cell.register("h1").await;
    let cleaned = || conductor.records.cache.get(&id)?.record.receipts.is_empty().then_some(());
    eventually("the host that is back removes its copy", cleaned).await;
    assert_eq!(cell.hosts.world.lock().terminated, [(id, "h1".to_owned())]);
}
