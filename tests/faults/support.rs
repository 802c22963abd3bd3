//! Cells, peers, members and waiting.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_rpc::backoff::{BackoffPolicy, Jitter};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Registration, Registry, RegistryOptions};
use kilonova_rpc::server::{Limits, Server};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_tests::echo::{Echo, Seen};
use kilonova_tests::process::Process;
use kilonova_tests::waiting::until;
use tokio::net::TcpListener;

/// The service whose members echo.
pub const SERVICE: ServiceKind = ServiceKind::Scheduler;

pub fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// One cell, by default on an embedded store of its own.
pub struct Cell {
    pub store: SharedStore,
    pub registry: Registry,
}

impl Cell {
    pub fn new() -> Self {
        Self::over(Arc::new(EmbeddedStore::open_temporary().unwrap()))
    }

    pub fn over(store: SharedStore) -> Self {
        let registry = Registry::new(store.clone(), CellName::parse("test").unwrap());
        Self { store, registry }
    }

    pub async fn register(&self, name: &str, addr: &str) -> Registration {
        self.register_for(name, addr, RegistryOptions::default().ttl).await
    }

    pub async fn register_for(&self, name: &str, addr: &str, ttl: Duration) -> Registration {
        self.registry.register(endpoint(name, addr), RegistryOptions { ttl }).await.unwrap()
    }

    /// Peers that connect again soon.
    pub fn peers(&self) -> Peers {
        self.peers_with(|_| {})
    }

    pub fn peers_with(&self, adjust: impl FnOnce(&mut PeersOptions)) -> Peers {
        let mut options = quick();
        adjust(&mut options);
        Peers::new(self.registry.clone(), Caller::new(ServiceKind::Api, host("api-1")), options)
    }
}

pub fn quick() -> PeersOptions {
    let (initial, max) = (Duration::from_millis(10), Duration::from_millis(200));
    PeersOptions {
        connect_timeout: Duration::from_secs(2),
        backoff: BackoffPolicy::new(initial, max, 2.0, Jitter::Around(0.2)).unwrap(),
        ..PeersOptions::default()
    }
}

pub fn endpoint(name: &str, addr: &str) -> Endpoint {
    let zone = ZoneName::parse("az1").unwrap();
    Endpoint { service: SERVICE, host: host(name), addr: addr.to_owned(), zone, minor: 0, authority: None }
}

/// An echo in this process.
pub struct Member {
    pub addr: String,
    pub seen: Arc<Seen>,
    pub server: Server,
}

impl Member {
    pub async fn start(name: &str) -> Self {
        Self::limited(name, "127.0.0.1:0", Limits::default()).await
    }

    pub async fn limited(name: &str, addr: &str, limits: Limits) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let echo = Echo::new(name);
        Self { addr, seen: echo.seen(), server: echo.serve(SERVICE, listener, limits) }
    }
}

/// An echo in a process of its own, registered nowhere that anybody looks.
pub async fn process(name: &str) -> Process {
    start(&["--service", SERVICE.as_str(), "--host", name, "--echo"]).await
}

/// A member in a process of its own.
pub async fn start(arguments: &[&str]) -> Process {
    Process::start(Path::new(env!("CARGO_BIN_EXE_member")), arguments).await.unwrap()
}

/// Waits until as many members as wanted may be called.
pub async fn ready(peers: &Peers, wanted: usize) {
    let peers = &peers;
    until(&format!("{wanted} members are ready"), || async {
        let states = peers.states();
        (states.iter().filter(|peer| peer.ready && !peer.directed).count() == wanted).then_some(())
    })
    .await;
}

/// Waits until one member may be called, or may not; says why not.
pub async fn member_until(peers: &Peers, name: &str, wanted: bool) -> String {
    let name = host(name);
    let (peers, name) = (&peers, &name);
    until(&format!("{name} is {}ready", if wanted { "" } else { "not " }), || async {
        let states = peers.states();
        states.into_iter().find(|peer| peer.host == *name && peer.ready == wanted).map(|peer| peer.detail)
    })
    .await
}
