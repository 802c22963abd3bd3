//! Commands that overtake each other while the driver is slow.

use std::time::Duration;

use kilonova_model::{Reason, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::ReportStatus;
use kilonova_proto::volume::v1::{
    CreateSnapshotRequest, DeleteSnapshotRequest, ExtendVolumeRequest, InitializeConnectionRequest,
    TerminateConnectionRequest,
};
use kilonova_runtime::agent::simulated::{FailRule, VerbConfig};
use kilonova_runtime::config::Period;
use kilonova_volume::Config;
use kilonova_volume::config::Verb;
use tokio::task::JoinSet;
use tonic::Status;

use super::reason;
use super::support::{Cell, quick};

const SLOW: Duration = Duration::from_secs(1);

fn slow(verb: Verb) -> Config {
    let mut config = quick();
    let slow = VerbConfig { latency: Some(Period::from(SLOW)), ..VerbConfig::default() };
    config.driver.verbs = [(verb, slow)].into();
    config
}

fn connect(cell: &Cell, id: VolumeId, generation: u64) -> JoinSet<Result<(), Status>> {
    connect_to(cell, id, generation, "node1")
}

fn connect_to(cell: &Cell, id: VolumeId, generation: u64, host: &str) -> JoinSet<Result<(), Status>> {
    let connector = [("host".to_owned(), host.to_owned())].into();
    let request = InitializeConnectionRequest { command: Some(cell.command(id, generation, 1)), connector };
    let mut client = cell.client();
    let mut connecting = JoinSet::new();
    connecting.spawn(async move { client.initialize_connection(request).await.map(drop) });
    connecting
}

async fn ended(mut connecting: JoinSet<Result<(), Status>>) -> Result<(), Status> {
    connecting.join_next().await.unwrap().unwrap()
}

async fn disconnect(cell: &Cell, id: VolumeId, generation: u64) -> Result<(), Status> {
    let connector = [("host".to_owned(), "node1".to_owned())].into();
    let command = Some(cell.command(id, generation, 1));
    cell.client().terminate_connection(TerminateConnectionRequest { command, connector }).await.map(drop)
}

async fn created(cell: &mut Cell, name: &str) -> VolumeId {
    let id = VolumeId::generate();
    cell.create(id, 1, name, 5, "").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    id
}

#[tokio::test]
async fn a_connect_that_is_overtaken_by_a_disconnect_leaves_nothing_exported() {
    let mut cell = Cell::start(slow(Verb::Export)).await;
    let id = created(&mut cell, "data").await;
    let connecting = connect(&cell, id, 2);
    cell.until(|agent| agent["connecting"] == 1).await;
    disconnect(&cell, id, 3).await.unwrap();
    assert_eq!(reason(ended(connecting).await), Some(Reason::StaleGeneration));
    assert_eq!(cell.done(), ["create data", "export data", "unexport data"]);
}

#[tokio::test]
async fn a_connect_that_was_overtaken_while_it_waited_is_not_begun() {
    let mut cell = Cell::start(slow(Verb::Export)).await;
    let id = created(&mut cell, "data").await;
    let first = connect(&cell, id, 2);
    cell.until(|agent| agent["connecting"] == 1).await;
    // What is exported to the same host again is written down once.
    let second = connect_to(&cell, id, 3, "node2");
    cell.until(|agent| agent["connecting"] == 2).await;
    disconnect(&cell, id, 4).await.unwrap();
    for connecting in [first, second] {
        assert_eq!(reason(ended(connecting).await), Some(Reason::StaleGeneration));
    }
    assert_eq!(cell.done(), ["create data", "export data", "unexport data"]);
}

#[tokio::test]
async fn a_connect_whose_caller_left_is_over_before_the_disconnect_begins() {
    let mut cell = Cell::start(slow(Verb::Export)).await;
    let id = created(&mut cell, "data").await;
    let connecting = connect(&cell, id, 2);
    cell.until(|agent| agent["connecting"] == 1).await;
    drop(connecting);
    disconnect(&cell, id, 3).await.unwrap();
    cell.until(|agent| agent["connecting"] == 0).await;
    assert_eq!(cell.done(), ["create data", "export data", "unexport data"]);
}

#[tokio::test]
async fn a_volume_is_deleted_once_nothing_needs_it_any_more() {
    let mut cell = Cell::start(slow(Verb::Export)).await;
    let id = created(&mut cell, "data").await;
    let connecting = connect(&cell, id, 2);
    cell.until(|agent| agent["connecting"] == 1).await;
    cell.delete(id, 3).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(reason(ended(connecting).await), Some(Reason::StaleGeneration));
    assert_eq!(cell.done(), ["create data", "export data", "delete data"]);

    let mut cell = Cell::start(slow(Verb::CreateSnapshot)).await;
    let id = created(&mut cell, "data").await;
    let snapshot_id = SnapshotId::generate().to_string();
    let command = Some(cell.command(id, 1, 1));
    let request = CreateSnapshotRequest { command, snapshot_id, name: "kept".into() };
    cell.client().create_snapshot(request).await.unwrap();
    cell.until(|agent| agent["needed"] == 1).await;
    cell.delete(id, 3).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(cell.snapshot_report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.done(), ["create data", "create_snapshot kept", "delete data"]);
}

#[tokio::test]
async fn a_snapshot_is_deleted_once_the_volume_is_made_from_it() {
    let mut config = slow(Verb::Create);
    config.driver.latency = Period::from_millis(0);
    let mut cell = Cell::start(config).await;
    let id = created(&mut cell, "data").await;
    let snapshot_id = SnapshotId::generate().to_string();
    let command = Some(cell.command(id, 1, 1));
    let request = CreateSnapshotRequest { command, snapshot_id: snapshot_id.clone(), name: "kept".into() };
    cell.client().create_snapshot(request).await.unwrap();
    assert_eq!(cell.snapshot_report().await.status(), ReportStatus::Ready);

    let mut order = cell.order(VolumeId::generate(), 1, "copy", 5, "");
    order.spec.as_mut().unwrap().snapshot_id.clone_from(&snapshot_id);
    cell.client().create_volume(order).await.unwrap();
    cell.until(|agent| agent["needed"] == 1).await;
    let command = Some(cell.command(id, 2, 1));
    cell.client().delete_snapshot(DeleteSnapshotRequest { command, snapshot_id }).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.snapshot_report().await.status(), ReportStatus::Gone);
    assert_eq!(cell.done(), ["create data", "create_snapshot kept", "create copy", "delete_snapshot "]);
}

#[tokio::test]
async fn what_a_driver_fails_to_remove_or_answers_wrongly_is_removed_once_all_the_same() {
    let mut config = quick();
    let all = || vec![FailRule { name: "*".into(), attempts: 99 }];
    let fails = VerbConfig { fail: all(), times: 2, ..VerbConfig::default() };
    let loses = VerbConfig { lose: all(), times: 1, ..VerbConfig::default() };
    config.driver.verbs =
        [(Verb::Delete, fails), (Verb::Unexport, loses.clone()), (Verb::Export, loses)].into();
    let mut cell = Cell::start(config).await;
    let id = created(&mut cell, "data").await;
    assert_eq!(reason(ended(connect(&cell, id, 2)).await), Some(Reason::DriverFailed));
    assert_eq!(reason(disconnect(&cell, id, 3).await), Some(Reason::DriverFailed));
    disconnect(&cell, id, 3).await.unwrap();
    cell.delete(id, 4).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    let done = cell.done();
    assert_eq!(done[..3], ["create data", "export data", "unexport data"]);
    assert_eq!(done[3..], ["delete_failed data", "delete_failed data", "delete data"]);
}

#[tokio::test]
async fn a_volume_that_grew_keeps_its_room_though_the_driver_says_that_it_failed() {
    let mut config = quick();
    let lose = vec![FailRule { name: "*".into(), attempts: 99 }];
    config.driver.verbs = [(Verb::Extend, VerbConfig { lose, ..VerbConfig::default() })].into();
    let mut cell = Cell::start(config).await;
    let id = created(&mut cell, "data").await;
    let request = ExtendVolumeRequest { command: Some(cell.command(id, 2, 1)), size_gib: 9 };
    cell.client().extend_volume(request).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.fault), (ReportStatus::Ready, None));
    assert_eq!(cell.agent()["claims"]["pools"][0]["provisioned_gib"], 9);
}
