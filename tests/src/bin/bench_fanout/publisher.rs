//! The publishing process. It takes orders on its input: `put`, answered with the time of the update, and `usage`.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, Stream, StreamExt};
use kilonova_model::{CellName, Error, HostName, ServiceKind};
use kilonova_proto::capability::v1::capability_service_server::{CapabilityService, CapabilityServiceServer};
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::{SnapshotEnd, WatchCapabilitiesRequest, WatchCapabilitiesResponse};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use kilonova_runtime::agent::capability_server::{CAPABILITY_SERVICE, Source, capability_service};
use kilonova_runtime::agent::publisher::CapabilityPublisher;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status};

use super::usage::{Usage, now, orders};

/// Before each update, so that nothing of the last one is still going on.
const PAUSE: Duration = Duration::from_millis(2);
/// What all subscribers may open on one connection.
const STREAMS: u32 = 4096;

/// About 200 bytes.
fn value() -> Capabilities {
    Capabilities { disabled_reason: "x".repeat(190), generation: 1, ..Default::default() }
}

pub async fn run(which: String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("its address"));
    match which.as_str() {
        "ours" => ours(listener).await,
        _ => raw(listener).await,
    }
}

async fn obey(put: impl Fn() + Send) {
    let mut orders = orders();
    while let Some(order) = orders.recv().await {
        if order == "usage" {
            println!("{}", Usage::of_this_process().line());
            continue;
        }
        sleep(PAUSE).await;
        let at = now();
        put();
        println!("{}", at.as_nanos());
    }
}

async fn ours(listener: TcpListener) {
    let publisher = CapabilityPublisher::new(value());
    let _server = serve(&publisher, "bench", listener);
    obey(|| publisher.publish(|capabilities| capabilities.minor_change())).await;
}

/// So many members, all publishing the same.
pub async fn members(count: usize) {
    let publisher = CapabilityPublisher::new(value());
    let (mut servers, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        addresses.push(listener.local_addr().expect("its address").to_string());
        servers.push(serve(&publisher, &member(number), listener));
    }
    println!("{}", addresses.join(","));
    obey(|| publisher.publish(|capabilities| capabilities.minor_change())).await;
}

/// The name of a member.
pub fn member(number: usize) -> String {
    format!("compute-{number}")
}

fn serve(publisher: &CapabilityPublisher, host: &str, listener: TcpListener) -> Server {
    let host = HostName::parse(host).expect("a host name");
    let cell = CellName::parse("bench").expect("a cell name");
    let identity = Identity::unregistered(ServiceKind::Compute, host, cell);
    let service = capability_service(publisher.clone(), Arc::new(Nothing));
    let builder = ServerBuilder::new(identity).add(service, Served::all(CAPABILITY_SERVICE));
    builder.health().set_serving(true);
    builder.serve(listener).expect("a server")
}

trait Change {
    fn minor_change(&mut self);
}

impl Change for Capabilities {
    fn minor_change(&mut self) {
        self.enabled = !self.enabled;
    }
}

struct Nothing;

#[async_trait]
impl Source for Nothing {
    fn publish(&self) {}

    async fn refresh(&self) -> Result<(), Error> {
        pending().await
    }
}

async fn raw(listener: TcpListener) {
    let values = watch::Sender::new(Arc::new(value()));
    let service = CapabilityServiceServer::new(Raw { values: values.clone() });
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .max_concurrent_streams(STREAMS)
        .add_service(service);
    let obey = obey(|| {
        values.send_modify(|current| {
            let mut next = Capabilities::clone(current);
            next.minor_change();
            next.generation += 1;
            *current = Arc::new(next);
        });
    });
    tokio::select! {
        () = obey => {}
        served = server.serve_with_incoming(TcpListenerStream::new(listener)) => served.expect("a server"),
    }
}

/// As anyone would write it with tonic.
struct Raw {
    values: watch::Sender<Arc<Capabilities>>,
}

#[tonic::async_trait]
impl CapabilityService for Raw {
    async fn watch_capabilities(
        &self,
        _: Request<WatchCapabilitiesRequest>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<WatchCapabilitiesResponse, Status>> + Send>>>, Status>
    {
        let message =
            |event| Ok(WatchCapabilitiesResponse { event: Some(event), resume_token: String::new() });
        let end = stream::once(async move { message(Event::SnapshotEnd(SnapshotEnd {})) });
        let changes = WatchStream::from_changes(self.values.subscribe());
        let changes = changes.map(move |value| message(Event::Update(Capabilities::clone(&value))));
        Ok(Response::new(Box::pin(end.chain(changes))))
    }
}
