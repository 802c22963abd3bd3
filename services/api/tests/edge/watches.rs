//! Watches that outlive the conductors behind them.

use std::time::Duration;

use kilonova_api::Config;
use kilonova_model::{Reason, time};
use kilonova_proto::api::v1::watch_instances_response::Event;
use kilonova_proto::api::v1::{WatchInstancesRequest, WatchInstancesResponse};
use kilonova_rpc::status::reason_of;
use kilonova_runtime::Running;
use kilonova_runtime::config::Period;
use tonic::{Code, Status, Streaming};

use crate::fake::{heartbeat, update};
use crate::setup::{Edge, SOON};

struct Reader(Streaming<WatchInstancesResponse>);

impl Reader {
    async fn open(edge: &Edge, request: WatchInstancesRequest) -> Self {
        Self(edge.instances().watch_instances(request).await.unwrap().into_inner())
    }

    /// The next message in short.
    async fn next(&mut self) -> Result<String, Status> {
        let message = tokio::time::timeout(SOON, self.0.message()).await.expect("nothing came")?;
        let message = message.ok_or_else(|| Status::internal("the stream ended without a status"))?;
        Ok(match message.event.unwrap() {
            Event::Snapshot(instance) => format!("snapshot {}", instance.id),
            Event::SnapshotEnd(_) => format!("end@{}", message.resume_token),
            Event::Update(instance) => format!("update {}@{}", instance.id, message.resume_token),
            Event::Delete(id) => format!("delete {id}"),
            Event::Heartbeat(_) => "heartbeat".to_owned(),
        })
    }

    async fn read(&mut self, count: usize) -> Vec<String> {
        let mut read = Vec::new();
        while read.len() < count {
            read.push(self.next().await.unwrap());
        }
        read
    }
}

/// Takes the conductor that serves the latest watch out of the running ones.
fn serving(edge: &Edge, conductors: &mut Vec<Running>) -> Running {
    let name = edge.world.asked.borrow().last().unwrap().conductor.clone();
    let index = conductors.iter().position(|running| running.host.as_str() == name).unwrap();
    conductors.remove(index)
}

#[tokio::test]
async fn a_watch_survives_a_crash_and_a_stop_of_its_conductor_without_gap() {
    let (edge, mut conductors) = Edge::start(&["c1", "c2", "c3"]).await;
    *edge.world.instances.lock() = vec!["a".into()];
    let mut reader = Reader::open(&edge, WatchInstancesRequest::default()).await;
    assert_eq!(reader.read(2).await, ["snapshot a", "end@0"]);
    edge.world.happen(update("b"));
    assert_eq!(reader.read(1).await, ["update b@1"]);

    drop(serving(&edge, &mut conductors));
    for id in ["c", "d"] {
        edge.world.happen(update(id));
    }
    assert_eq!(reader.read(2).await, ["update c@2", "update d@3"]);
    assert_eq!(edge.world.asked.borrow().last().unwrap().resume_token, "1");

    serving(&edge, &mut conductors).stop().await;
    edge.world.happen(heartbeat());
    edge.world.happen(update("e"));
    assert_eq!(reader.read(2).await, ["heartbeat", "update e@5"]);
    assert_eq!(conductors.len(), 1);
}

#[tokio::test]
async fn a_conductor_that_freezes_before_it_opens_a_watch_is_left_for_another() {
    let config = Config { resume_within: Period::from_secs(1), ..Config::default() };
    let (edge, mut conductors) = Edge::start_with(config, &["c1", "c2"]).await;
    *edge.world.frozen_opens.lock() = 1;
    let mut reader = Reader::open(&edge, WatchInstancesRequest::default()).await;
    assert_eq!(reader.read(1).await, ["end@0"]);

    *edge.world.frozen_opens.lock() = 1;
    drop(serving(&edge, &mut conductors));
    edge.world.happen(update("a"));
    assert_eq!(reader.read(1).await, ["update a@1"]);
    assert_eq!(*edge.world.frozen_opens.lock(), 0);
}

#[tokio::test]
async fn a_snapshot_that_breaks_off_begins_again_and_takes_back_what_is_gone() {
    let (edge, mut conductors) = Edge::start(&["c1", "c2"]).await;
    *edge.world.instances.lock() = vec!["a".into(), "b".into(), "c".into()];
    *edge.world.stall_after.lock() = Some(2);
    let mut reader = Reader::open(&edge, WatchInstancesRequest::default()).await;
    assert_eq!(reader.read(2).await, ["snapshot a", "snapshot b"]);

    edge.world.instances.lock().remove(0);
    *edge.world.stall_after.lock() = None;
    drop(serving(&edge, &mut conductors));
    assert_eq!(reader.read(4).await, ["snapshot b", "snapshot c", "delete a", "end@0"]);
}

#[tokio::test]
async fn an_expired_token_is_the_reader_s_to_know() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let request = WatchInstancesRequest { resume_token: "old".into(), ..Default::default() };
    let status = edge.instances().watch_instances(request).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::OutOfRange, Some(Reason::ResumeTokenExpired)));
    let request = WatchInstancesRequest { resume_token: "0".into(), ..Default::default() };
    let mut reader = Reader::open(&edge, request).await;
    edge.world.happen(update("a"));
    assert_eq!(reader.read(1).await, ["update a@1"]);
}

#[tokio::test]
async fn heartbeats_are_asked_for_within_bounds() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let intervals = [(Some(Duration::from_millis(1)), 1), (Some(Duration::from_secs(3600)), 60), (None, 20)];
    for (wanted, asked) in intervals {
        let heartbeat_interval = wanted.map(time::duration);
        let _reader =
            Reader::open(&edge, WatchInstancesRequest { heartbeat_interval, ..Default::default() }).await;
        assert_eq!(edge.world.asked.borrow().last().unwrap().heartbeat, Duration::from_secs(asked));
    }
    let wrong = WatchInstancesRequest { instance_ids: vec!["vm-1".into()], ..Default::default() };
    let status = edge.instances().watch_instances(wrong).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::ValidationFailed));
}

#[tokio::test]
async fn an_api_that_stops_ends_its_watches_as_draining() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let mut reader = Reader::open(&edge, WatchInstancesRequest::default()).await;
    assert_eq!(reader.read(1).await, ["end@0"]);
    let (status, ()) = tokio::join!(reader.next(), edge.api.stop());
    let status = status.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::Unavailable, Some(Reason::Draining)));
}
