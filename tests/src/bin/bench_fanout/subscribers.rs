//! The subscribing process. It says `ready`, then the time at which the last subscriber had each update; asked with any
//! line, what it has used.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kilonova_model::time;
use kilonova_proto::capability::v1::WatchCapabilitiesRequest;
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::transport::Endpoint;

use super::usage::{Usage, now, orders};

/// Streams opened at once.
const AT_ONCE: usize = 32;

/// What the subscribers have had together.
pub struct Received {
    opening: Semaphore,
    open: AtomicUsize,
    updates: AtomicUsize,
    all: usize,
}

impl Received {
    pub fn of(all: usize) -> Arc<Self> {
        let opening = Semaphore::new(AT_ONCE);
        Arc::new(Self { opening, open: AtomicUsize::new(0), updates: AtomicUsize::new(0), all })
    }
}

pub async fn run(address: String, connections: usize, streams: usize) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
    let received = Received::of(connections * streams);
    let mut subscribers = JoinSet::new();
    for _ in 0..connections {
        let channel = endpoint.connect_lazy();
        for _ in 0..streams {
            subscribers.spawn(follow(channel.clone(), received.clone()));
        }
    }
    answer().await;
}

/// Says what this process has used, as often as asked.
pub async fn answer() {
    let mut questions = orders();
    while questions.recv().await.is_some() {
        println!("{}", Usage::of_this_process().line());
    }
}

/// One subscriber.
pub async fn follow<C>(channel: C, received: Arc<Received>)
where
    C: GrpcService<Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: http_body::Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    let opening = received.opening.acquire().await.expect("never closed");
    let request = WatchCapabilitiesRequest {
        resume_token: String::new(),
        heartbeat_interval: Some(time::duration(Duration::from_secs(60))),
    };
    let mut client = CapabilityServiceClient::new(channel);
    let mut events = client.watch_capabilities(request).await.expect("a stream").into_inner();
    let mut opening = Some(opening);
    while let Ok(Some(message)) = events.message().await {
        match message.event {
            Some(Event::SnapshotEnd(_)) => {
                opening.take();
                if received.open.fetch_add(1, Ordering::AcqRel) + 1 == received.all {
                    println!("ready");
                }
            }
            Some(Event::Update(_)) => {
                let count = received.updates.fetch_add(1, Ordering::AcqRel) + 1;
                if count.is_multiple_of(received.all) {
                    println!("{}", now().as_nanos());
                }
            }
            _ => {}
        }
    }
}
