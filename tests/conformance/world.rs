//! One cell on either store, and members of it.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kilonova_model::{CellName, HostName, Reason, ServiceKind, Version, ZoneName};
use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
use kilonova_proto::capability::v1::capability_service_server::CapabilityServiceServer;
use kilonova_proto::compute::v1::compute_service_server::ComputeServiceServer;
use kilonova_rpc::backoff::{BackoffPolicy, Jitter};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Member as Known, Registration, Registry, RegistryOptions};
use kilonova_rpc::server::{Identity, Limits, Load, Served, Server, ServerBuilder, Stopped};
use kilonova_rpc::status::reason_of;
use kilonova_runtime::telemetry::Metrics;
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::Backing;
use kilonova_tests::waiting::{PATIENCE, until};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::Status;

use crate::fake::Fake;

pub const BASE: &str = "kilonova.base.v1.BaseService";
pub const COMPUTE: &str = "kilonova.compute.v1.ComputeService";
pub const CAPABILITY: &str = "kilonova.capability.v1.CapabilityService";

/// One etcd for all who need one at the same time; it ends with the last of them.
static ETCD: Mutex<Weak<EtcdProcess>> = Mutex::const_new(Weak::new());
static CELLS: AtomicU64 = AtomicU64::new(1);

/// One cell. Others on the same store are its neighbours.
pub struct World {
    pub store: SharedStore,
    pub cell: CellName,
    pub registry: Registry,
    pub etcd: Option<Arc<EtcdProcess>>,
}

impl World {
    /// A cell of its own. None where the store's program is missing, which is said.
    pub async fn on(backing: Backing) -> Option<Self> {
        // Counters are made once: before the first call, or they count nothing.
        Metrics::install();
        let etcd = match backing {
            Backing::Embedded => None,
            Backing::Etcd => Some(shared_etcd().await?),
        };
        let store: SharedStore = match &etcd {
            None => Arc::new(EmbeddedStore::open_temporary().unwrap()),
            Some(etcd) => Arc::new(connect(etcd).await),
        };
        Some(Self::over(store, etcd))
    }

    /// A cell on an etcd that may be killed.
    pub async fn on_its_own_etcd() -> Option<(Self, EtcdProcess)> {
        Metrics::install();
        let etcd = EtcdProcess::start().await.unwrap()?;
        let store = Arc::new(connect(&etcd).await);
        Some((Self::over(store, None), etcd))
    }

    fn over(store: SharedStore, etcd: Option<Arc<EtcdProcess>>) -> Self {
        let number = CELLS.fetch_add(1, Ordering::Relaxed);
        let cell = CellName::parse(&format!("cell-{number}")).unwrap();
        let registry = Registry::new(store.clone(), cell.clone());
        Self { store, cell, registry, etcd }
    }

    /// Another cell on the same store.
    pub fn neighbour(&self) -> Self {
        Self::over(self.store.clone(), self.etcd.clone())
    }

    pub async fn member(&self, service: ServiceKind, name: &str) -> Member {
        self.member_with(service, name, Spec::default()).await
    }

    pub async fn member_with(&self, service: ServiceKind, name: &str, spec: Spec) -> Member {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.member_on(listener, service, name, spec).await
    }

    /// A member that listens there.
    pub async fn member_on(
        &self,
        listener: TcpListener,
        service: ServiceKind,
        name: &str,
        spec: Spec,
    ) -> Member {
        let addr = listener.local_addr().unwrap().to_string();
        let registration = self.register(service, name, &addr, spec.minor).await;
        let identity = Identity {
            service,
            host: host(name),
            cell: self.cell.clone(),
            version: Version::v1(spec.minor),
            epoch: registration.epochs(),
        };
        let fake = Fake::new(name);
        let served = |service, only: Option<&[&str]>| match only {
            Some(methods) => Served::only(service, methods),
            None => Served::all(service),
        };
        let builder = ServerBuilder::new(identity)
            .limits(spec.limits)
            .add(BaseServiceServer::new(fake.clone()), Served::only(BASE, &["Ping"]))
            .add(ComputeServiceServer::new(fake.clone()), served(COMPUTE, spec.compute_only))
            .add(CapabilityServiceServer::new(fake.clone()), served(CAPABILITY, None));
        let server = builder.serve(listener).unwrap();
        server.health().set_serving(true);
        Member { host: host(name), addr, fake, load: server.load(), server, registration }
    }

    pub async fn register(&self, service: ServiceKind, name: &str, addr: &str, minor: u32) -> Registration {
        let zone = ZoneName::parse("az1").unwrap();
        let endpoint =
            Endpoint { service, host: host(name), addr: addr.to_owned(), zone, minor, authority: None };
        let registration = self.registry.register(endpoint, RegistryOptions::default()).await.unwrap();
        // Who follows the registry in this process knows it from here on.
        let mut sets = self.registry.members(service).subscribe();
        let is_known = |member: &Arc<Known>| member.epoch == registration.epoch();
        let seen = sets.wait_for(|set| set.get(&host(name)).is_some_and(is_known));
        drop(in_time("the registration is seen", seen).await.unwrap());
        registration
    }

    /// Peers with short delays.
    pub fn peers(&self) -> Peers {
        self.peers_with(|_| {})
    }

    pub fn peers_with(&self, adjust: impl FnOnce(&mut PeersOptions)) -> Peers {
        Peers::new(self.registry.clone(), caller(), options(adjust))
    }
}

/// Who calls in these tests.
pub fn caller() -> Caller {
    Caller::new(ServiceKind::Api, host("api-1"))
}

/// Short delays, and what is adjusted.
pub fn options(adjust: impl FnOnce(&mut PeersOptions)) -> PeersOptions {
    let (initial, max) = (Duration::from_millis(10), Duration::from_millis(100));
    let mut options = PeersOptions {
        connect_timeout: Duration::from_secs(2),
        backoff: BackoffPolicy::new(initial, max, 2.0, Jitter::Around(0.2)).unwrap(),
        ..PeersOptions::default()
    };
    adjust(&mut options);
    options
}

async fn shared_etcd() -> Option<Arc<EtcdProcess>> {
    let mut shared = ETCD.lock().await;
    if let Some(etcd) = shared.upgrade() {
        return Some(etcd);
    }
    let etcd = Arc::new(EtcdProcess::start().await.unwrap()?);
    *shared = Arc::downgrade(&etcd);
    Some(etcd)
}

pub async fn connect(etcd: &EtcdProcess) -> EtcdStore {
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..Default::default() };
    EtcdStore::connect(options).await.unwrap()
}

/// How a member differs from the usual one.
#[derive(Default)]
pub struct Spec {
    pub minor: u32,
    pub limits: Limits,
    /// What it serves of `ComputeService`, where that is not all.
    pub compute_only: Option<&'static [&'static str]>,
}

/// A member that runs. Dropped, it is dead, and its record stays until its lease ends.
pub struct Member {
    pub host: HostName,
    pub addr: String,
    pub fake: Fake,
    pub load: Load,
    pub registration: Registration,
    server: Server,
}

impl Member {
    /// Ends it as `kill -9` would.
    pub fn kill(self) {
        drop(self);
    }

    /// Stops it in good order.
    pub async fn stop(self, bound: Duration) -> Stopped {
        self.registration.deregister().await.unwrap();
        self.server.stop(bound).await
    }
}

pub fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

/// An address nobody listens on.
pub async fn dead_addr() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// What a future gives; a test that waits too long fails.
pub async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Waits until as many members as this are ready to be called.
pub async fn ready(peers: &Peers, service: ServiceKind, count: usize) {
    drop(peers.call(service));
    until(&format!("{count} of {service} are ready"), || async {
        let states = peers.states();
        let ready = states.iter().filter(|peer| peer.service == service && !peer.directed && peer.ready);
        (ready.count() == count).then_some(())
    })
    .await;
}

/// Waits until a member is, or is no longer, called as one of many.
pub async fn until_ready(peers: &Peers, name: &HostName, ready: bool) {
    until(&format!("{name} is ready: {ready}"), || async {
        let states = peers.states();
        let is_ready = states.iter().any(|peer| peer.host == *name && peer.ready);
        (is_ready == ready).then_some(())
    })
    .await;
}

/// Why a call failed and what that means: `not executed`, `perhaps executed`, `refused`.
pub fn verdict<T: std::fmt::Debug>(result: Result<T, Status>) -> (&'static str, Option<Reason>) {
    let status = result.unwrap_err();
    let reason = reason_of(&status);
    let meaning = match classify(status) {
        CallError::NotExecuted(_) => "not executed",
        CallError::MaybeExecuted(_) => "perhaps executed",
        CallError::Refused(_) => "refused",
    };
    (meaning, reason)
}

/// Calls one host of the compute service.
pub fn to(peers: &Peers, member: &Member) -> Channel {
    peers.call_host(ServiceKind::Compute, &member.host)
}
