//! How many connections go to one member.

use futures::future::join_all;
use kilonova_model::{CellName, ServiceKind};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Cell, PATIENCE, host, ping, soon};

const SERVICE: ServiceKind = ServiceKind::Conductor;

/// Answers when it is let go.
struct Gate {
    waiting: watch::Sender<usize>,
    open: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl BaseService for Gate {
    async fn ping(&self, _: Request<base::PingRequest>) -> Result<Response<base::PingResponse>, Status> {
        self.waiting.send_modify(|n| *n += 1);
        let _ = self.open.clone().wait_for(|open| *open).await;
        Ok(Response::new(base::PingResponse::default()))
    }
}

struct Gated {
    server: Server,
    waiting: watch::Receiver<usize>,
    open: watch::Sender<bool>,
}

impl Gated {
    async fn start() -> Self {
        let (waiting, open) = (watch::Sender::new(0), watch::Sender::new(false));
        let gate = Gate { waiting: waiting.clone(), open: open.subscribe() };
        let cell = CellName::parse("test").unwrap();
        let served = Served::only("kilonova.base.v1.BaseService", &["Ping"]);
        let builder = ServerBuilder::new(Identity::unregistered(SERVICE, host("s"), cell));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = builder.add(BaseServiceServer::new(gate), served).serve(listener).unwrap();
        server.health().set_serving(true);
        Self { server, waiting: waiting.subscribe(), open }
    }

    async fn until_waiting(&mut self, count: usize) {
        drop(timeout(PATIENCE, self.waiting.wait_for(|n| *n == count)).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn many_calls_share_a_few_connections_and_one_call_uses_one() {
    let cell = Cell::new();
    let mut gated = Gated::start().await;
    let _member = cell.register(SERVICE, "s", &gated.server.address().to_string()).await;
    let peers = cell.peers_with(|options| (options.calls_per_connection, options.call_connections) = (2, 3));
    let channel = peers.call(SERVICE);
    channel.wait_ready(soon()).await.unwrap();
    assert_eq!(gated.server.load().connections(), 1);
    let calls = {
        let mut calls = Vec::new();
        for begun in 1..=20 {
            let channel = channel.clone();
            calls.push(tokio::task::JoinSet::new());
            calls.last_mut().unwrap().spawn(async move { ping(&channel).await });
            gated.until_waiting(begun).await;
        }
        calls
    };
    assert_eq!(gated.server.load().connections(), 3, "as many as may be, and no more");
    let states = peers.states();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].in_flight, 20, "all of them");
    gated.open.send_replace(true);
    for mut call in calls {
        assert!(call.join_next().await.unwrap().unwrap().is_ok());
    }
}

#[tokio::test]
async fn streams_make_room_for_calls() {
    let cell = Cell::new();
    let gated = Gated::start().await;
    gated.open.send_replace(true);
    let _member = cell.register(SERVICE, "s", &gated.server.address().to_string()).await;
    let peers = cell.peers_with(|options| options.streams_per_connection = 4);
    let channel = peers.call(SERVICE);
    channel.wait_ready(soon()).await.unwrap();
    let watches = (0..16).map(|_| async {
        let mut client = HealthClient::new(channel.clone());
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        watch.message().await.unwrap();
        watch
    });
    let watches = join_all(watches).await;
    let connections = gated.server.load().connections();
    assert!((4..=6).contains(&connections), "{connections} connections for {} watches", watches.len());
    assert!(ping(&channel).await.is_ok());
}
