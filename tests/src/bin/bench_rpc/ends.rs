//! The two pairs of client and server.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, Epoch, HostName, ServiceKind, Version, ZoneName};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Registration, Registry, RegistryOptions};
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// Both pairs, connected.
pub struct Ends {
    ours: BaseServiceClient<Channel>,
    raw: BaseServiceClient<tonic::transport::Channel>,
    _server: Server,
    _registration: Registration,
    _raw_server: JoinSet<()>,
}

struct Echo;

#[tonic::async_trait]
impl BaseService for Echo {
    async fn ping(
        &self,
        request: Request<base::PingRequest>,
    ) -> Result<Response<base::PingResponse>, Status> {
        let payload = request.into_inner().payload;
        Ok(Response::new(base::PingResponse { payload, host: String::new() }))
    }
}

impl Ends {
    pub async fn start() -> Self {
        let (ours, _server, _registration) = ours().await;
        let (raw, _raw_server) = raw().await;
        Self { ours, raw, _server, _registration, _raw_server }
    }

    pub async fn ours(&self, payload: &str) {
        let request = base::PingRequest { payload: payload.to_owned() };
        self.ours.clone().ping(request).await.expect("an answer");
    }

    pub async fn raw(&self, payload: &str) {
        let request = base::PingRequest { payload: payload.to_owned() };
        self.raw.clone().ping(request).await.expect("an answer");
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address").to_string();
    (listener, addr)
}

async fn ours() -> (BaseServiceClient<Channel>, Server, Registration) {
    let (listener, addr) = listen().await;
    let host = HostName::parse("scheduler-1").expect("a host name");
    let cell = CellName::parse("bench").expect("a cell name");
    let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().expect("a store"));
    let registry = Registry::new(store, cell.clone());
    let endpoint = Endpoint {
        service: ServiceKind::Scheduler,
        host: host.clone(),
        addr,
        zone: ZoneName::parse("zone").expect("a zone name"),
        minor: 0,
        authority: None,
    };
    let registration = registry.register(endpoint, RegistryOptions::default()).await.expect("registered");
    let epoch: watch::Receiver<Epoch> = registration.epochs();
    let identity = Identity { service: ServiceKind::Scheduler, host, cell, version: Version::v1(0), epoch };
    let served = Served::only("kilonova.base.v1.BaseService", &["Ping"]);
    let server = ServerBuilder::new(identity).add(BaseServiceServer::new(Echo), served);
    let server = server.serve(listener).expect("a server");
    server.health().set_serving(true);
    let caller = Caller::new(ServiceKind::Api, HostName::parse("bench").expect("a host name"));
    let peers = Peers::new(registry, caller, PeersOptions::default());
    let channel = peers.call(ServiceKind::Scheduler);
    channel.wait_ready(Instant::now() + Duration::from_secs(5)).await.expect("it is there");
    (BaseServiceClient::new(channel), server, registration)
}

async fn raw() -> (BaseServiceClient<tonic::transport::Channel>, JoinSet<()>) {
    let (listener, addr) = listen().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(BaseServiceServer::new(Echo));
        server
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await
            .expect("it serves");
    });
    let client = BaseServiceClient::connect(format!("http://{addr}")).await.expect("it is there");
    (client, tasks)
}
