//! Both ends with all default layers.

use std::sync::Arc;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Registration, Registry, RegistryOptions};
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::PATIENCE;
use crate::echo::{Flat, Nested};

async fn registry(etcd: &str) -> Registry {
    let options = EtcdOptions { endpoints: vec![etcd.to_owned()], ..EtcdOptions::default() };
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    Registry::new(Arc::new(store), cell())
}

fn cell() -> CellName {
    CellName::parse("bench").expect("a cell name")
}

fn host(name: &str) -> HostName {
    HostName::parse(name).expect("a host name")
}

/// A server that is registered.
pub struct Serving {
    registration: Registration,
    _server: Server,
}

impl Serving {
    pub async fn deregister(self) {
        self.registration.deregister().await.expect("deregistered");
    }
}

pub async fn serve(etcd: &str) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let identity = Identity::unregistered(ServiceKind::Scheduler, host("echo"), cell());
    let endpoint = Endpoint {
        service: identity.service,
        host: identity.host.clone(),
        addr: listener.local_addr().expect("an address").to_string(),
        zone: ZoneName::parse("zone-1").expect("a zone name"),
        minor: 0,
        authority: None,
    };
    let builder = ServerBuilder::new(identity)
        .add(BaseServiceServer::new(Flat), Served::only("kilonova.base.v1.BaseService", &["Ping"]))
        .add(Nested, Served::only("kilonova.scheduler.v1.SchedulerService", &["SelectHosts"]));
    builder.health().set_serving(true);
    let server = builder.serve(listener).expect("a server");
    let registration = registry(etcd).await.register(endpoint, RegistryOptions::default()).await;
    Serving { registration: registration.expect("registered"), _server: server }
}

pub async fn connect(etcd: &str) -> Channel {
    let caller = Caller::new(ServiceKind::Conductor, host("caller"));
    let peers = Peers::new(registry(etcd).await, caller, PeersOptions::default());
    let channel = peers.call(ServiceKind::Scheduler);
    channel.wait_ready(Instant::now() + PATIENCE).await.expect("the server is found");
    channel
}
