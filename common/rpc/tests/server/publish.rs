//! Published state, streamed to many over real connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Reason, time};
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::conductor::v1::record_service_server::{RecordService, RecordServiceServer};
use kilonova_proto::conductor::v1::watch_instances_response::Event as Out;
use kilonova_proto::conductor::v1::*;
use kilonova_proto::types::v1::Instance;
use kilonova_rpc::publish::{Ask, Event, Framed, Publication, PublishOptions};
use kilonova_rpc::server::{Served, Server};
use kilonova_rpc::status::{reason_of, to_status};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::setup::{Echo, Raw, builder, channel, serve};

const RECORDS: &str = "kilonova.conductor.v1.RecordService";
const WATCH: &str = "/kilonova.conductor.v1.RecordService/WatchInstances";

/// Nothing a test waits for takes longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is watched is published; nothing else is served.
struct Nothing;

impl RecordService for Nothing {}

fn message(event: Event<Instance>, resume_token: String) -> WatchInstancesResponse {
    let event = Some(match event {
        Event::Snapshot(instance) => Out::Snapshot(instance),
        Event::SnapshotEnd => Out::SnapshotEnd(SnapshotEnd {}),
        Event::Update(instance) => Out::Update(instance),
        Event::Delete(id) => Out::Delete(id),
        Event::Heartbeat => Out::Heartbeat(Heartbeat {}),
    });
    WatchInstancesResponse { event, resume_token }
}

type Instances = Publication<String, Instance>;

async fn publish(options: PublishOptions) -> (Server, Instances) {
    let instances = Instances::new((RECORDS, "WatchInstances"), 1, options, message);
    let published = instances.clone();
    let watch = move |request: Request<WatchInstancesRequest>| {
        let WatchInstancesRequest { resume_token, heartbeat_interval, .. } = request.get_ref();
        let ask = Ask { token: resume_token, heartbeat: heartbeat_interval.as_ref() };
        std::future::ready(published.subscribe(&ask).map_err(|error| to_status(&error)))
    };
    let service = Framed::new(RecordServiceServer::new(Nothing)).stream("WatchInstances", watch);
    let served = Served::only(RECORDS, &["WatchInstances", "GetInstance"]);
    (serve(builder(&Echo::default()).add(service, served)).await, instances)
}

fn put(instances: &Instances, key: usize, generation: u64, padding: usize) {
    let id = format!("k{key}");
    let value = Instance { id: id.clone(), generation, host: "x".repeat(padding), ..Default::default() };
    instances.put(id, &value);
}

async fn watch(channel: Channel, token: &str) -> Result<Streaming<WatchInstancesResponse>, Status> {
    let heartbeat_interval = Some(time::duration(Duration::from_millis(1)));
    let request =
        WatchInstancesRequest { resume_token: token.to_owned(), heartbeat_interval, ..Default::default() };
    RecordServiceClient::new(channel).watch_instances(request).await.map(tonic::Response::into_inner)
}

/// What a reader has made of what it was sent.
struct Reader {
    stream: Streaming<WatchInstancesResponse>,
    view: BTreeMap<String, u64>,
    token: String,
    items: usize,
}

impl Reader {
    async fn open(channel: Channel, token: &str) -> Result<Self, Status> {
        let stream = watch(channel, token).await?;
        Ok(Self { stream, view: BTreeMap::new(), token: token.to_owned(), items: 0 })
    }

    async fn read(&mut self) -> Result<Out, Status> {
        let message = self.stream.message().await?.expect("the stream ended without a word");
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
        let event = message.event.expect("an event");
        self.items += 1;
        match &event {
            Out::Snapshot(instance) | Out::Update(instance) => {
                let before = self.view.insert(instance.id.clone(), instance.generation);
                assert!(
                    before.is_none_or(|before| before < instance.generation),
                    "a value again, or an older"
                );
            }
            Out::Delete(id) => assert!(self.view.remove(id).is_some(), "{id} was never there"),
            Out::SnapshotEnd(_) | Out::Heartbeat(_) => self.items -= 1,
        }
        Ok(event)
    }

    async fn until(&mut self, done: impl Fn(&BTreeMap<String, u64>) -> bool) -> Result<(), Status> {
        while !done(&self.view) {
            self.read().await?;
        }
        Ok(())
    }

    async fn until_caught_up(&mut self) -> Result<(), Status> {
        while !matches!(self.read().await?, Out::SnapshotEnd(_)) {}
        Ok(())
    }
}

/// Heartbeats that do not get in the way.
fn quiet() -> PublishOptions {
    let hour = Duration::from_secs(3600);
    PublishOptions { heartbeats: hour..=hour, ..PublishOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_subscribers_get_the_last_of_a_burst_in_few_messages() {
    const KEYS: usize = 50;
    const PUTS: u64 = 10_000;
    let (server, instances) = publish(quiet()).await;
    let mut subscribers = JoinSet::new();
    for _ in 0..4 {
        let channel = channel(&server);
        for _ in 0..250 {
            let channel = channel.clone();
            subscribers.spawn(async move {
                let mut reader = Reader::open(channel, "").await.unwrap();
                reader.until_caught_up().await.unwrap();
                reader
            });
        }
    }
    let readers = subscribers.join_all().await;
    assert_eq!(instances.counts().subscribers, 1000);
    let mut last = BTreeMap::new();
    for generation in 1..=PUTS {
        let key = (generation * 7) as usize % KEYS;
        put(&instances, key, generation, 0);
        last.insert(format!("k{key}"), generation);
    }
    let last = Arc::new(last);
    let mut reading = JoinSet::new();
    for mut reader in readers {
        let last = last.clone();
        reading.spawn(async move {
            reader.until(|view| *view == *last).await.unwrap();
            reader.items
        });
    }
    let items: Vec<usize> = reading.join_all().await;
    let total: usize = items.iter().sum();
    assert!(total < 1000 * PUTS as usize / 4, "{total} messages");
    let counts = instances.counts();
    assert_eq!((counts.keys, counts.removals, counts.generation), (KEYS, 0, PUTS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_holds_up_nobody_and_is_ended() {
    const KEYS: usize = 200;
    let stalled_after = Duration::from_millis(200);
    let (server, instances) =
        publish(PublishOptions { stalled_after, max_behind: 20, most_removals: 8, ..quiet() }).await;
    let mut stalled = Reader::open(channel(&server), "").await.unwrap();
    stalled.until_caught_up().await.unwrap();
    let mut reader = Reader::open(channel(&server), "").await.unwrap();
    for round in 1..=5 {
        // More than fits into the windows of one who does not read.
        (0..KEYS).for_each(|key| put(&instances, key, round, 4096));
        reader.until(|view| view.len() == KEYS && view.values().all(|seen| *seen == round)).await.unwrap();
        let counts = instances.counts();
        assert_eq!((counts.subscribers, counts.keys, counts.removals), (2, KEYS, 0));
    }
    for key in 0..7 {
        assert!(instances.remove(&format!("k{key}")));
    }
    reader.until(|view| view.len() == KEYS - 7).await.unwrap();
    sleep(2 * stalled_after).await;
    let end = async {
        loop {
            if let Err(status) = stalled.read().await {
                break status;
            }
        }
    };
    let ended = timeout(PATIENCE, end).await.expect("it is ended");
    assert_eq!((reason_of(&ended), ended.code()), (Some(Reason::SlowConsumer), Code::ResourceExhausted));
    // Its token is good for what it missed.
    let mut again = Reader::open(channel(&server), &stalled.token).await.unwrap();
    again.view = stalled.view;
    again.until_caught_up().await.unwrap();
    assert_eq!(again.view, reader.view);
    put(&instances, 100, 6, 0);
    reader.until(|view| view["k100"] == 6).await.unwrap();
}

#[tokio::test]
async fn a_reader_resumes_without_gap_or_repeat() {
    let (server, instances) = publish(PublishOptions { most_removals: 2, ..quiet() }).await;
    (0..100).for_each(|key| put(&instances, key, 1, 500));
    let mut reader = Reader::open(channel(&server), "").await.unwrap();
    reader.until_caught_up().await.unwrap();
    let (held, view) = (reader.token.clone(), reader.view.clone());
    drop(reader);
    for generation in 2..5 {
        (0..50).for_each(|key| put(&instances, key, generation, 500));
    }
    instances.remove(&"k99".to_owned());

    let mut resumed = Reader { view, ..Reader::open(channel(&server), &held).await.unwrap() };
    resumed.until_caught_up().await.unwrap();
    assert_eq!(resumed.items, 51, "what changed, once each");
    assert_eq!(resumed.view.len(), 99);
    assert_eq!(resumed.view.values().filter(|seen| **seen == 4).count(), 50);

    (97..99).for_each(|key| assert!(instances.remove(&format!("k{key}"))));
    let expired = Reader::open(channel(&server), &held).await.err().unwrap();
    assert_eq!((reason_of(&expired), expired.code()), (Some(Reason::ResumeTokenExpired), Code::OutOfRange));
    resumed.until(|view| view.len() == 97).await.unwrap();
}

#[tokio::test]
async fn a_silent_stream_beats_as_often_as_it_may_and_ends_with_the_server() {
    let shortest = Duration::from_millis(300);
    let heartbeats = shortest..=Duration::from_secs(60);
    let (server, instances) = publish(PublishOptions { heartbeats, ..PublishOptions::default() }).await;
    let mut reader = Reader::open(channel(&server), "").await.unwrap();
    reader.until_caught_up().await.unwrap();
    put(&instances, 1, 1, 0);
    let asked = Instant::now();
    reader.until(|view| view.len() == 1).await.unwrap();
    let token = reader.token.clone();
    for beats in 1..=2 {
        assert!(matches!(reader.read().await, Ok(Out::Heartbeat(_))));
        assert!(asked.elapsed() >= shortest * beats);
        assert_eq!(reader.token, token);
    }
    let stop = server.stop(Duration::from_secs(10));
    let (ended, _) = tokio::join!(
        async {
            loop {
                if let Err(status) = reader.read().await {
                    break status;
                }
            }
        },
        stop
    );
    assert_eq!((reason_of(&ended), ended.code()), (Some(Reason::Draining), Code::Unavailable));
    assert_eq!(instances.counts().subscribers, 0);
}

#[tokio::test]
async fn the_other_methods_are_the_generated_ones_and_what_cannot_be_read_is_refused() {
    let (server, _instances) = publish(quiet()).await;
    let mut client = RecordServiceClient::new(channel(&server));
    let refused = client.get_instance(GetInstanceRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let mut raw = Raw::connect(&server).await;
    let request = WatchInstancesRequest { resume_token: "nonsense".into(), ..Default::default() };
    let answer = raw.call(WATCH, &[], &request).await;
    assert_eq!((answer.length, reason_of(&answer.status())), (0, Some(Reason::ResumeTokenExpired)));
    let answer = raw.call(WATCH, &[("grpc-encoding", "gzip")], &request).await;
    assert_eq!(answer.status().code(), Code::Unimplemented);
    assert_eq!(answer.headers["grpc-accept-encoding"], "identity");
}
