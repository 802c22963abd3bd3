//! Servers, registrations and waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_rpc::backoff::{BackoffPolicy, Jitter};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{
    Discovery, Endpoint, MemberSet, Registration, Registry, RegistryOptions, Sources,
};
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::testing::EtcdProcess;
use kilonova_store::{EtcdOptions, EtcdStore, LeaseId, SharedStore, Txn};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Nothing a test waits for takes longer than this.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// One cell on an embedded store of its own.
pub struct Cell {
    pub store: SharedStore,
    pub registry: Registry,
}

impl Cell {
    pub fn new() -> Self {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
        Self::over(store)
    }

    pub fn over(store: SharedStore) -> Self {
        let registry = Registry::new(store.clone(), CellName::parse("test").unwrap());
        Self { store, registry }
    }

    /// Calls one service where its target says.
    pub fn with_target(service: ServiceKind, target: Discovery) -> Self {
        Self::with_sources(Sources { targets: [(service, target)].into(), ..Sources::default() })
    }

    pub fn with_sources(sources: Sources) -> Self {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
        let registry = Registry::with_sources(store.clone(), CellName::parse("test").unwrap(), sources);
        Self { store, registry }
    }

    /// Over a real etcd. None when there is no such program.
    pub async fn etcd() -> Option<(EtcdProcess, Self)> {
        let etcd = EtcdProcess::start().await.unwrap()?;
        let cell = Self::over(Arc::new(EtcdStore::connect(etcd_options(etcd.endpoint())).await.unwrap()));
        Some((etcd, cell))
    }

    /// Puts a member under a lease that nobody renews.
    pub async fn put_leased(&self, service: ServiceKind, name: &str, addr: &str) -> LeaseId {
        let lease = self.store.grant_lease(Duration::from_secs(60)).await.unwrap();
        let key = format!("kilonova/v1/test/endpoints/{service}/{name}");
        let value = format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":{{"host":"{name}","epoch":7}}}}"#);
        self.store.txn(Txn::new().put_leased(key, value, lease)).await.unwrap();
        lease
    }

    pub async fn register(&self, service: ServiceKind, name: &str, addr: &str) -> Registration {
        self.registry.register(endpoint(service, name, addr), RegistryOptions::default()).await.unwrap()
    }

    /// Peers with short delays.
    pub fn peers(&self) -> Peers {
        self.peers_with(|_| {})
    }

    pub fn peers_with(&self, adjust: impl FnOnce(&mut PeersOptions)) -> Peers {
        let (initial, max) = (Duration::from_millis(10), Duration::from_millis(100));
        let mut options = PeersOptions {
            connect_timeout: Duration::from_secs(2),
            backoff: BackoffPolicy::new(initial, max, 2.0, Jitter::Around(0.2)).unwrap(),
            ..PeersOptions::default()
        };
        adjust(&mut options);
        Peers::new(self.registry.clone(), Caller::new(ServiceKind::Api, host("api-1")), options)
    }
}

/// Options that notice soon what fails.
pub fn etcd_options(endpoint: String) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![endpoint],
        call_deadline: Duration::from_secs(2),
        keep_alive_interval: Duration::from_secs(1),
        keep_alive_timeout: Duration::from_secs(1),
        reconnect_pause: Duration::from_millis(500),
        ..EtcdOptions::default()
    }
}

/// Waits until the members of a service are as wanted.
pub async fn members_until(
    registry: &Registry,
    service: ServiceKind,
    wanted: impl Fn(&MemberSet) -> bool,
) -> Arc<MemberSet> {
    let members = registry.members(service);
    let mut sets = members.subscribe();
    match timeout(PATIENCE, sets.wait_for(|set| wanted(set))).await {
        Ok(set) => set.unwrap().clone(),
        Err(_) => panic!("never so: {:?}", members.current()),
    }
}

pub fn endpoint(service: ServiceKind, name: &str, addr: &str) -> Endpoint {
    let zone = ZoneName::parse("az1").unwrap();
    Endpoint { service, host: host(name), addr: addr.to_owned(), zone, minor: 0, authority: None }
}

/// Answers `Ping` with its own name. Some payloads are orders.
#[derive(Clone)]
pub struct Echo {
    name: String,
    callers: Arc<Mutex<Vec<Option<Caller>>>>,
}

#[tonic::async_trait]
impl BaseService for Echo {
    async fn ping(
        &self,
        request: Request<base::PingRequest>,
    ) -> Result<Response<base::PingResponse>, Status> {
        self.callers.lock().push(Caller::from_request(&request));
        let payload = request.into_inner().payload;
        if payload == "hang" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(base::PingResponse { payload, host: self.name.clone() }))
    }
}

/// A server in a runtime of its own, so that it can be killed with all its connections.
pub struct Server {
    pub addr: String,
    pub callers: Arc<Mutex<Vec<Option<Caller>>>>,
    health: Option<HealthReporter>,
    runtime: Option<Runtime>,
}

impl Server {
    /// An echo that says it serves.
    pub async fn echo(name: &str) -> Self {
        let callers = Arc::default();
        let echo = Echo { name: name.to_owned(), callers: Arc::clone(&callers) };
        let mut server = Self::start(Routes::new(BaseServiceServer::new(echo)), true).await;
        server.callers = callers;
        server
    }

    /// Any service, with or without a health service, which says at first that it serves.
    pub async fn start(routes: Routes, with_health: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap().into_std().unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = if with_health { routes.add_service(health) } else { routes };
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let health = with_health.then_some(reporter);
        Self { addr, callers: Arc::default(), health, runtime: Some(runtime) }
    }

    pub async fn set_serving(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.health.as_ref().unwrap().set_service_status("", status).await;
    }

    /// Keeps its only thread busy, as a stopped process would.
    pub fn freeze(&self) -> Frozen {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (asleep, is_asleep) = std::sync::mpsc::channel();
        self.runtime.as_ref().unwrap().spawn(async move {
            asleep.send(()).unwrap();
            let _ = wait.recv();
        });
        is_asleep.recv().unwrap();
        Frozen(release)
    }

    /// Ends it as `kill -9` would.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A server that does not move until it is thawed.
pub struct Frozen(std::sync::mpsc::Sender<()>);

impl Frozen {
    pub fn thaw(self) {
        drop(self.0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address nobody listens on.
pub async fn dead_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Who answered.
pub async fn ping(channel: &Channel) -> Result<String, Status> {
    ping_with(channel, "x").await
}

pub async fn ping_with(channel: &Channel, payload: &str) -> Result<String, Status> {
    let mut client = BaseServiceClient::new(channel.clone());
    let request = base::PingRequest { payload: payload.to_owned() };
    client.ping(request).await.map(|response| response.into_inner().host)
}

/// Calls until a condition on all answers so far holds.
pub async fn ping_until(channel: &Channel, done: impl Fn(&BTreeMap<String, u32>) -> bool) {
    let mut answers = BTreeMap::new();
    let all = async {
        while !done(&answers) {
            let key = match ping(channel).await {
                Ok(host) => host,
                Err(status) => format!("{:?}", status.code()),
            };
            *answers.entry(key).or_default() += 1;
            tokio::task::yield_now().await;
        }
    };
    let finished = timeout(PATIENCE, all).await;
    assert!(finished.is_ok(), "still not so: {answers:?}");
}

/// Waits until a peer's state is as wanted, both as one of many and by name.
pub async fn peer_until(peers: &Peers, name: &str, wanted: impl Fn(bool, &str) -> bool) {
    let name = host(name);
    let look = async {
        loop {
            let mut states = peers.states();
            states.retain(|peer| peer.host == name);
            if !states.is_empty() && states.iter().all(|peer| wanted(peer.ready, &peer.detail)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let finished = timeout(PATIENCE, look).await;
    assert!(finished.is_ok(), "{name} never came so far: {:?}", peers.states());
}
