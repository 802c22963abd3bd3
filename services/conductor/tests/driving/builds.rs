//! Builds, from a request to ACTIVE or ERROR.

use kilonova_conductor::Config;
use kilonova_conductor::placed::Placed;
use kilonova_conductor::reports::{self, Report};
use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::ReportStatus;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_runtime::config::Period;
use std::time::Duration;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_built_once_and_deleted_without_a_trace() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("r1", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    assert_eq!(cell.hosts.world.lock().builds.len(), 1);
    let steps: Vec<&str> = record.actions[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["accept", "schedule", "build"]);
    assert_eq!(conductor.used().await.instances, 1);

    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert!(record.receipts.is_empty() && !record.counted);
    assert_eq!(conductor.used().await, pb::QuotaUsage::default());
    assert_eq!(conductor.delete(id).await.unwrap_err().reason, Reason::InstanceNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_build_lands_elsewhere_and_ends_in_error_when_no_host_takes_it() {
    let cell = Cell::new(&["h1", "h2", "h3", "h4"]).await;
    let conductor = cell.conductor_with("c1", Config { max_refusals: 3, ..Default::default() }).await;
    cell.hosts.world.lock().refusing = ["h1"].map(str::to_owned).into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    let instance = record.resource();
    assert_eq!((instance.host.as_str(), instance.attempt), ("h2", 2));
    assert_eq!(instance.failed_attempts[0].host, "h1");

    cell.hosts.world.lock().refusing = ["h1", "h2", "h3", "h4"].map(str::to_owned).into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Error).await;
    let instance = record.resource();
    let tried: Vec<&str> = instance.failed_attempts.iter().map(|fault| fault.host.as_str()).collect();
    assert_eq!(tried, ["h1", "h2", "h3"]);
    assert_eq!(instance.fault.as_ref().unwrap().reason, "MAX_ATTEMPTS_EXCEEDED");
    assert!(record.receipts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_because_of_what_it_has_keeps_its_receipt_until_it_says_that_nothing_is_left() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let conductor = cell.conductor("c1").await;
    {
        let mut world = cell.hosts.world.lock();
        world.refusing = ["h1"].map(str::to_owned).into();
        world.deaf = ["h1"].map(str::to_owned).into();
        world.refusal = Some(Error::new(Reason::StillRemoving, "not taken"));
    }
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    assert_eq!((record.resource().host.as_str(), record.refusals()), ("h2", 1));
    let hosts: Vec<&str> = record.receipts.iter().map(|receipt| receipt.host.as_str()).collect();
    assert_eq!(hosts, ["h1", "h2"]);
    cell.hosts.world.lock().deaf.clear();
    let left = || conductor.records.cache.get(&id).is_some_and(|entry| entry.record.receipts.len() == 1);
    eventually("h1 has said that nothing is left", || left().then_some(())).await;
    assert_eq!(cell.hosts.world.lock().terminated, [(id, "h1".to_owned())]);
}

/// As after a store that was put back to a copy of the time of the build.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_made_and_has_worked_on_since_is_not_removed() {
    let there = |attempt: u32| {
        Error::new(Reason::OlderGenerationPresent, "not taken").with("generation", 9).with("attempt", attempt)
    };
    for (attempt, state) in [(1, State::Active), (2, State::Error)] {
        let cell = Cell::new(&["h1", "h2"]).await;
        let conductor = cell.conductor("c1").await;
        {
            let mut world = cell.hosts.world.lock();
            world.refusing = ["h1"].map(str::to_owned).into();
            world.refusal = Some(there(attempt));
        }
        let id = conductor.create("", 1).await.unwrap()[0];
        let record = conductor.until(id, |i| i.state() == state).await;
        let [receipt] = record.receipts.as_slice() else { panic!("{:?}", record.receipts) };
        assert_eq!((receipt.host.as_str(), receipt.found), ("h1", state == State::Error));
        assert_eq!(record.actions[0].outcome() == pb::Outcome::Succeeded, state == State::Active);
        assert!(cell.hosts.world.lock().terminated.is_empty(), "of attempt {attempt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_asked_again_is_told_where_it_was_tried() {
    let cell = Cell::new(&["h1", "h2", "h3"]).await;
    let conductor = cell.conductor_with("c1", Config { alternates: 0, ..Default::default() }).await;
    cell.hosts.world.lock().refusing = ["h1", "h2"].map(str::to_owned).into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    assert_eq!(record.resource().host, "h3");
    assert_eq!(record.tried(), ["h1", "h2", "h3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_ends_in_error_with_the_explanation() {
    let cell = Cell::new(&[]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Error).await;
    let fault = record.resource().fault.clone().unwrap();
    assert_eq!(
        (fault.reason.as_str(), fault.message.as_str()),
        ("NO_VALID_HOST", "no valid host: none left")
    );
    assert!(fault.explanation.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_never_reported_is_tried_elsewhere_and_cleaned_up() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let config = Config {
        build_timeout: Period::from_millis(300),
        resend_interval: Period::from_millis(200),
        leave_timeout: Period::from_millis(300),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active && i.host == "h2").await;
    cell.hosts.world.lock().silent.clear();
    let one_receipt = || (conductor.records.cache.get(&id)?.record.receipts.len() == 1).then_some(());
    eventually("the first host holds nothing more", one_receipt).await;
    assert!(cell.hosts.world.lock().terminated.contains(&(id, "h1".to_owned())));
    assert_eq!(conductor.records.cache.get(&id).unwrap().record.receipts[0].host, "h2");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_elsewhere_before_the_host_that_was_left_has_said_that_nothing_is_left_there() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let config = Config { build_timeout: Period::from_millis(300), ..Default::default() };
    let conductor =
        cell.conductor_with("c1", Config { resend_interval: Period::from_millis(200), ..config }).await;
    cell.hosts.world.lock().stuck = ["h1".to_owned()].into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active && i.host == "h2").await;
    assert_eq!(record.receipts.len(), 1);
    let log = cell.hosts.world.lock().log.clone();
    let left = log.iter().position(|(what, host)| *what == "terminate" && host == "h1").unwrap();
    let built = log.iter().position(|(what, host)| *what == "build" && host == "h2").unwrap();
    assert!(left < built, "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_on_a_conductor_whose_memory_is_behind() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = one.create("", 1).await.unwrap()[0];
    two.until(id, |_| true).await;
    // From here on the second conductor hears of no change; it remembers the record as it was.
    two.tasks.shutdown(Duration::from_secs(1)).await;
    let placed = one.until(id, |i| i.host == "h1").await;
    let ready = report(id, "h1", 1, 1, ReportStatus::Ready);
    reports::enter(&two.records, ready.clone(), AGAIN, |_| false).await.unwrap();
    one.until(id, |i| i.state() == State::Active).await;

    one.delete(id).await.unwrap();
    let generation = one.until(id, |i| i.generation > 1).await.resource().generation;
    let gone = Report { generation, status: ReportStatus::Gone, ..ready };
    reports::enter(&two.records, gone, AGAIN, |_| false).await.unwrap();
    one.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(placed.receipts.len(), 1);
}
