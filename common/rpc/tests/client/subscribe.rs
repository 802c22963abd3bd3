//! A watch that heals itself, against a publisher that misbehaves in every way it must survive.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Error, Reason, ServiceKind};
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::capability_service_server::{CapabilityService, CapabilityServiceServer};
use kilonova_proto::capability::v1::watch_capabilities_response::Event as Wire;
use kilonova_proto::capability::v1::{
    Heartbeat, SnapshotEnd, WatchCapabilitiesRequest, WatchCapabilitiesResponse,
};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::backoff::{BackoffPolicy, Jitter};
use kilonova_rpc::peers::Channel;
use kilonova_rpc::status::to_status;
use kilonova_rpc::subscribe::{Classified, Event, Lost, SubscribeOptions, Subscription, subscribe};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Cell, PATIENCE, Server, host};

type Answers = tonic::codegen::BoxStream<WatchCapabilitiesResponse>;

/// Serves one scripted stream after the other, and notes the tokens it was asked with.
#[derive(Clone, Default)]
struct Publisher {
    tokens: Arc<Mutex<Vec<String>>>,
}

fn say(event: Wire, token: &str) -> Result<WatchCapabilitiesResponse, Status> {
    Ok(WatchCapabilitiesResponse { event: Some(event), resume_token: token.to_owned() })
}

#[tonic::async_trait]
impl CapabilityService for Publisher {
    async fn watch_capabilities(
        &self,
        request: Request<WatchCapabilitiesRequest>,
    ) -> Result<Response<Answers>, Status> {
        let mut tokens = self.tokens.lock();
        tokens.push(request.into_inner().resume_token);
        let snapshot = || say(Wire::Snapshot(Capabilities::default()), "t1");
        let script = match tokens.len() {
            // Breaks off within the snapshot.
            1 => vec![snapshot(), Err(Status::unavailable("restarting"))],
            // Whole, then ended by the publisher.
            2 => vec![
                snapshot(),
                say(Wire::SnapshotEnd(SnapshotEnd {}), "t2"),
                say(Wire::Update(Capabilities::default()), "t3"),
            ],
            3 => return Err(to_status(&Error::new(Reason::ResumeTokenExpired, "too old"))),
            // Falls silent.
            _ => {
                let script = vec![
                    snapshot(),
                    say(Wire::SnapshotEnd(SnapshotEnd {}), "t4"),
                    say(Wire::Heartbeat(Heartbeat {}), ""),
                ];
                let silent = tokio_stream::iter(script).chain(tokio_stream::pending());
                return Ok(Response::new(Box::pin(silent)));
            }
        };
        Ok(Response::new(Box::pin(tokio_stream::iter(script))))
    }
}

/// Writes down what it is told.
struct Scribe {
    channel: Channel,
    notes: mpsc::UnboundedSender<String>,
}

impl Scribe {
    fn note(&self, text: impl Into<String>) {
        let _ = self.notes.send(text.into());
    }
}

impl Subscription for Scribe {
    type Message = WatchCapabilitiesResponse;
    type Item = Capabilities;

    async fn open(&mut self, token: &str) -> Result<Streaming<WatchCapabilitiesResponse>, Status> {
        let request = WatchCapabilitiesRequest { resume_token: token.to_owned(), heartbeat_interval: None };
        let mut client = CapabilityServiceClient::new(self.channel.clone());
        client.watch_capabilities(request).await.map(Response::into_inner)
    }

    fn classify(&self, message: WatchCapabilitiesResponse) -> Option<Classified<Capabilities>> {
        let event = match message.event? {
            Wire::Snapshot(item) | Wire::Update(item) => Event::Item(item),
            Wire::SnapshotEnd(_) => Event::SnapshotEnd,
            Wire::Heartbeat(_) => Event::Heartbeat,
        };
        Some(Classified { event, resume_token: message.resume_token })
    }

    fn on_connected(&mut self, snapshot: bool) {
        self.note(if snapshot { "snapshot" } else { "resumed" });
    }

    fn on_event(&mut self, event: Event<Capabilities>) {
        self.note(match event {
            Event::Item(_) => "item",
            Event::SnapshotEnd => "end",
            Event::Heartbeat => "beat",
        });
    }

    fn on_lost(&mut self, lost: &Lost) {
        self.note(match lost {
            Lost::Failed(status) => format!("failed: {}", status.message()),
            Lost::Ended => "ended".to_owned(),
            Lost::Silent(_) => "silent".to_owned(),
            Lost::TokenExpired => "expired".to_owned(),
        });
    }
}

#[tokio::test]
async fn a_subscription_survives_all_that_a_stream_can_do() {
    let cell = Cell::new();
    let publisher = Publisher::default();
    let tokens = publisher.tokens.clone();
    let server = Server::start(Routes::new(CapabilityServiceServer::new(publisher)), true).await;
    server.set_serving(true).await;
    let _node = cell.register(ServiceKind::Compute, "node-1", &server.addr).await;
    let peers = cell.peers();
    let (notes, mut told) = mpsc::unbounded_channel();
    let mut scribe = Scribe { channel: peers.call_host(ServiceKind::Compute, &host("node-1")), notes };
    let (initial, max) = (Duration::from_millis(1), Duration::from_millis(10));
    let options = SubscribeOptions {
        heartbeat_interval: Duration::from_millis(300),
        backoff: BackoffPolicy::new(initial, max, 2.0, Jitter::Full).unwrap(),
    };
    let cancelled = CancellationToken::new();
    let expected = [
        "snapshot",
        "item",
        "failed: restarting", // the broken snapshot is not resumed
        "snapshot",
        "item",
        "end",
        "item",
        "ended",   // its last token is
        "expired", //
        "snapshot",
        "item",
        "end",
        "beat",
        "silent",
        "resumed",
    ];
    let reading = async {
        for line in expected {
            let told = timeout(PATIENCE, told.recv()).await.expect(line).unwrap();
            assert_eq!(told, line);
        }
        cancelled.cancel();
    };
    let watching = subscribe(&mut scribe, options, &cancelled);
    timeout(PATIENCE, async { tokio::join!(watching, reading) }).await.unwrap();
    assert_eq!(*tokens.lock(), ["", "", "t3", "", "t4"]);
}
