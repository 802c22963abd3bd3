//! `kilonova.capability.v1.CapabilityService`: a publisher's capabilities, streamed.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::Stream;
use kilonova_model::{Error, Reason, time};
use kilonova_proto::capability::v1::capability_service_server::CapabilityService;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::{
    Heartbeat, RefreshCapabilitiesRequest, RefreshCapabilitiesResponse, SnapshotEnd,
    WatchCapabilitiesRequest, WatchCapabilitiesResponse,
};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::status::to_status;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::publisher::{CapabilityPublisher, Position};

/// The full name of the service.
pub const CAPABILITY_SERVICE: &str = "kilonova.capability.v1.CapabilityService";

const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(2);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(500);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(60);

/// Where the figures come from.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// Publishes what is known now.
    fn publish(&self);

    /// Asks the driver again and publishes what it says. Bounded in time.
    async fn refresh(&self) -> Result<(), Error>;
}

/// The service over one publisher.
pub struct CapabilityServer {
    publisher: CapabilityPublisher,
    source: Arc<dyn Source>,
    streams_end: CancellationToken,
}

impl CapabilityServer {
    /// Serves what `publisher` has until `streams_end` is cancelled.
    pub fn new(
        publisher: CapabilityPublisher,
        source: Arc<dyn Source>,
        streams_end: CancellationToken,
    ) -> Self {
        Self { publisher, source, streams_end }
    }
}

type Item = Result<WatchCapabilitiesResponse, Status>;
type Watching = Pin<Box<dyn Stream<Item = Item> + Send>>;

#[tonic::async_trait]
impl CapabilityService for CapabilityServer {
    async fn watch_capabilities(
        &self,
        request: Request<WatchCapabilitiesRequest>,
    ) -> Result<Response<Watching>, Status> {
        let request = request.into_inner();
        let mut changes = self.publisher.subscribe();
        let current = changes.borrow_and_update().clone();
        let first = first_messages(&current, &request.resume_token).map_err(|error| to_status(&error))?;
        let watcher = Watcher {
            first,
            token: Position::of(&current).token(),
            changes,
            heartbeat: heartbeat(&request),
            end: self.streams_end.clone(),
        };
        Ok(Response::new(Box::pin(futures::stream::unfold(Some(watcher), next))))
    }

    async fn refresh_capabilities(
        &self,
        _: Request<RefreshCapabilitiesRequest>,
    ) -> Result<Response<RefreshCapabilitiesResponse>, Status> {
        self.source.refresh().await.map_err(|error| to_status(&error))?;
        let capabilities = Some(Capabilities::clone(&self.publisher.current()));
        Ok(Response::new(RefreshCapabilitiesResponse { capabilities }))
    }
}

fn heartbeat(request: &WatchCapabilitiesRequest) -> Duration {
    let asked = request.heartbeat_interval.as_ref().map(time::to_duration);
    asked.unwrap_or(DEFAULT_HEARTBEAT).clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT)
}

/// What a reader with this token gets before it waits for changes.
fn first_messages(current: &Capabilities, token: &str) -> Result<VecDeque<Event>, Error> {
    let held = !token.is_empty() && Position::of(current).is_held_by(token)?;
    let mut messages = VecDeque::with_capacity(2);
    if !held {
        messages.push_back(Event::Snapshot(current.clone()));
    }
    messages.push_back(Event::SnapshotEnd(SnapshotEnd {}));
    Ok(messages)
}

struct Watcher {
    first: VecDeque<Event>,
    /// Where the reader stands.
    token: String,
    changes: watch::Receiver<Arc<Capabilities>>,
    heartbeat: Duration,
    end: CancellationToken,
}

async fn next(watcher: Option<Watcher>) -> Option<(Item, Option<Watcher>)> {
    let mut watcher = watcher?;
    let event = match watcher.first.pop_front() {
        Some(event) => event,
        None => tokio::select! {
            biased;
            () = watcher.end.cancelled() => return Some((Err(draining()), None)),
            changed = watcher.changes.changed() => {
                if changed.is_err() {
                    return Some((Err(draining()), None));
                }
                let current = watcher.changes.borrow_and_update().clone();
                watcher.token = Position::of(&current).token();
                Event::Update(Capabilities::clone(&current))
            }
            () = tokio::time::sleep(watcher.heartbeat) => Event::Heartbeat(Heartbeat {}),
        },
    };
    let message = WatchCapabilitiesResponse { event: Some(event), resume_token: watcher.token.clone() };
    Some((Ok(message), Some(watcher)))
}

fn draining() -> Status {
    to_status(&Error::new(Reason::Draining, "the publisher is stopping"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    struct Nothing;

    #[async_trait]
    impl Source for Nothing {
        fn publish(&self) {}

        async fn refresh(&self) -> Result<(), Error> {
            Err(Error::new(Reason::DriverFailed, "on purpose"))
        }
    }

    fn server() -> (CapabilityServer, CapabilityPublisher, CancellationToken) {
        let publisher = CapabilityPublisher::new(Capabilities { epoch: 3, ..Default::default() });
        let end = CancellationToken::new();
        (CapabilityServer::new(publisher.clone(), Arc::new(Nothing), end.clone()), publisher, end)
    }

    async fn watch(server: &CapabilityServer, token: &str) -> Result<Watching, Status> {
        let request = WatchCapabilitiesRequest {
            resume_token: token.into(),
            heartbeat_interval: Some(time::duration(Duration::from_millis(1))),
        };
        Ok(server.watch_capabilities(Request::new(request)).await?.into_inner())
    }

    async fn event(stream: &mut (impl Stream<Item = Item> + Unpin)) -> (Event, String) {
        let message = stream.next().await.unwrap().unwrap();
        (message.event.unwrap(), message.resume_token)
    }

    #[tokio::test(start_paused = true)]
    async fn snapshot_update_heartbeat_and_end() {
        let (server, publisher, end) = server();
        let mut stream = watch(&server, "").await.unwrap();
        assert!(matches!(event(&mut stream).await.0, Event::Snapshot(c) if c.generation == 1));
        assert!(matches!(event(&mut stream).await.0, Event::SnapshotEnd(_)));
        publisher.publish(|c| c.enabled = true);
        publisher.publish(|c| c.disabled_reason = "x".into());
        assert!(matches!(event(&mut stream).await.0, Event::Update(c) if c.generation == 3));
        let before = tokio::time::Instant::now();
        assert!(matches!(event(&mut stream).await.0, Event::Heartbeat(_)));
        assert_eq!(before.elapsed().as_millis(), SHORTEST_HEARTBEAT.as_millis());
        end.cancel();
        let last = stream.next().await.unwrap().unwrap_err();
        assert_eq!(kilonova_rpc::status::reason_of(&last), Some(Reason::Draining));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_resumes_where_it_stood() {
        let (server, publisher, _end) = server();
        let mut stream = watch(&server, "").await.unwrap();
        let (_, token) = event(&mut stream).await;
        let mut current = watch(&server, &token).await.unwrap();
        assert!(matches!(event(&mut current).await.0, Event::SnapshotEnd(_)));
        publisher.publish(|c| c.enabled = true);
        let mut behind = watch(&server, &token).await.unwrap();
        assert!(matches!(event(&mut behind).await.0, Event::Snapshot(c) if c.generation == 2));
        publisher.publish(|c| c.epoch = 4);
        let expired = watch(&server, &token).await.err().unwrap();
        assert_eq!(kilonova_rpc::status::reason_of(&expired), Some(Reason::ResumeTokenExpired));
        assert_eq!(expired.code(), tonic::Code::OutOfRange);
    }
}
