//! Start, stop and reboot, whatever hosts and conductors do.

use kilonova_conductor::Config;
use kilonova_conductor::placed::Placed;
use kilonova_model::{InstanceId, Reason};
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::Outcome::{Succeeded, Superseded};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{Desired, State, Task};
use kilonova_runtime::config::Period;

use super::support::*;

async fn active(cell: &Cell, conductor: &Conductor) -> InstanceId {
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active).await;
    assert!(cell.hosts.world.lock().operations.is_empty());
    id
}

fn settled(instance: &pb::Instance) -> bool {
    instance.task() == Task::Unspecified
}

fn last(record: &InstanceRecord) -> &pb::Action {
    record.actions.last().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_stopped_started_and_rebooted_each_once() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let id = active(&cell, &conductor).await;
    for (kind, state) in
        [(Kind::Stop, State::Stopped), (Kind::Start, State::Active), (Kind::Reboot, State::Active)]
    {
        let accepted = conductor.operate(id, kind, "").await.unwrap();
        assert!(!settled(&accepted), "{kind:?} goes on");
        let record = conductor.until(id, settled).await;
        assert_eq!(record.resource().state(), state, "{kind:?}");
        assert_eq!((last(&record).kind(), last(&record).outcome()), (kind, pb::Outcome::Succeeded));
        let steps: Vec<&str> = last(&record).steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(steps, ["accept", kind.as_str_name().trim_start_matches("KIND_").to_lowercase().as_str()]);
    }
    let generations: Vec<u64> = cell.hosts.world.lock().operations.iter().map(|o| o.2).collect();
    assert!(generations.len() == 3 && generations.is_sorted_by(|one, next| one < next), "{generations:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_one_operation_and_another_is_refused_while_it_goes_on() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let id = active(&cell, &one).await;
    two.until(id, |i| i.state() == State::Active).await;
    cell.hosts.world.lock().silent.insert("h1".into());
    let (a, b) = tokio::join!(one.operate(id, Kind::Stop, "stop"), two.operate(id, Kind::Stop, "stop"));
    let generation = a.unwrap().generation;
    assert_eq!(b.unwrap().generation, generation);
    assert_eq!(two.operate(id, Kind::Stop, "again").await.unwrap_err().reason, Reason::InvalidState);
    assert_eq!(one.operate(id, Kind::Stop, "stop").await.unwrap().generation, generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_cannot_do_leaves_the_instance_as_it_was() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let id = active(&cell, &conductor).await;
    let fault = pb::Fault { reason: "DRIVER_FAILED".into(), message: "stuck".into(), ..Default::default() };
    cell.hosts.world.lock().failing = Some(fault);
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    let record = conductor.until(id, settled).await;
    assert_eq!(record.resource().state(), State::Active);
    assert_eq!(record.resource().desired(), Desired::Running);
    assert_eq!(last(&record).outcome(), pb::Outcome::Failed);
    assert_eq!(last(&record).steps.last().unwrap().fault.as_ref().unwrap().message, "stuck");

    cell.hosts.world.lock().failing = None;
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    conductor.until(id, |i| i.state() == State::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_is_never_reported_is_sent_again_and_given_up_in_time() {
    let cell = Cell::new(&["h1"]).await;
    let config = Config {
        operation_timeout: Period::from_millis(600),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    let id = active(&cell, &conductor).await;
    cell.hosts.world.lock().silent.insert("h1".into());
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    let record = conductor.until(id, settled).await;
    assert_eq!(record.resource().state(), State::Active);
    let fault = last(&record).steps.last().unwrap().fault.clone().unwrap();
    assert_eq!((fault.reason.as_str(), fault.host.as_str()), ("OPERATION_TIMEOUT", "h1"));
    assert!(cell.hosts.world.lock().operations.len() >= 3, "asked again, and once more at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_conductors_operation_is_finished_by_the_other() {
    let cell = Cell::new(&["h1"]).await;
    let one = cell.conductor("c1").await;
    let id = active(&cell, &one).await;
    cell.hosts.world.lock().deaf.insert("h1".into());
    one.operate(id, Kind::Stop, "").await.unwrap();
    one.die().await;
    let two = cell.conductor("c2").await;
    cell.hosts.world.lock().deaf.clear();
    two.until(id, |i| i.state() == State::Stopped).await;
    assert_eq!(cell.hosts.world.lock().operations.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_has_taken_of_a_record_that_the_store_lost_is_gone_on_after() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let id = active(&cell, &conductor).await;
    // Later than any step from the present one.
    cell.hosts.world.lock().taken.insert(id, 1 << 40);
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Stopped && settled(i)).await;
    let generation = record.resource().generation;
    assert_eq!((generation > 1 << 40, last(&record).outcome()), (true, pb::Outcome::Succeeded));
    assert_eq!(cell.hosts.world.lock().operations, [(id, "h1".to_owned(), generation)]);

    cell.hosts.world.lock().taken.insert(id, 1 << 41);
    conductor.delete(id).await.unwrap();
    conductor.until(id, |i| i.state() == State::Deleted).await;

    let made = conductor.create("", 1).await.unwrap()[0];
    conductor.until(made, |i| i.state() == State::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_overtakes_an_operation() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let id = active(&cell, &conductor).await;
    cell.hosts.world.lock().deaf.insert("h1".into());
    conductor.operate(id, Kind::Stop, "").await.unwrap();
    conductor.delete(id).await.unwrap();
    cell.hosts.world.lock().deaf.clear();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    let outcomes: Vec<pb::Outcome> = record.actions.iter().map(pb::Action::outcome).collect();
    assert_eq!(outcomes, [Succeeded, Superseded, Succeeded]);
    assert!(cell.hosts.world.lock().operations.is_empty());
}
