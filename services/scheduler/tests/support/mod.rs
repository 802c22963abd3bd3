//! A publisher that does what a test tells it, and a scheduler that follows it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use kilonova_model::{CellName, HostName, ServiceKind, ZoneName, time};
use kilonova_proto::capability::v1::capability_service_server::{CapabilityService, CapabilityServiceServer};
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::{
    Heartbeat, SnapshotEnd, WatchCapabilitiesRequest, WatchCapabilitiesResponse,
};
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::scheduler::v1::{HostState, ListHostStatesRequest};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ComputeResources};
use kilonova_rpc::registry::RegistryOptions;
use kilonova_rpc::server::Served;
use kilonova_runtime::config::Period;
use kilonova_runtime::{Launch, LaunchOptions, Running};
use kilonova_scheduler::Config;
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub const SOON: Duration = Duration::from_secs(120);
pub const HEARTBEAT: Duration = Duration::from_millis(500);

pub fn store() -> SharedStore {
    Arc::new(EmbeddedStore::open_temporary().unwrap())
}

pub async fn launch(store: &SharedStore, service: ServiceKind, host: &str) -> Launch {
    Launch {
        service,
        host: HostName::parse(host).unwrap(),
        cell: CellName::parse("test").unwrap(),
        zone: ZoneName::parse("az1").unwrap(),
        store: store.clone(),
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        http: None,
        advertise: None,
        options: LaunchOptions {
            settle: Duration::ZERO,
            registry: RegistryOptions { ttl: Duration::from_secs(2) },
            ..LaunchOptions::default()
        },
    }
}

type Item = Result<WatchCapabilitiesResponse, Status>;

#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    snapshot: Mutex<Capabilities>,
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Event>>>,
    silent: watch::Sender<bool>,
}

#[tonic::async_trait]
impl CapabilityService for Service {
    async fn watch_capabilities(
        &self,
        request: Request<WatchCapabilitiesRequest>,
    ) -> Result<Response<tonic::codegen::BoxStream<WatchCapabilitiesResponse>>, Status> {
        let interval = request.into_inner().heartbeat_interval.as_ref().map(time::to_duration).unwrap();
        let (sender, receiver) = mpsc::unbounded_channel();
        let snapshot = self.shared.snapshot.lock().clone();
        sender.send(Event::Snapshot(snapshot)).unwrap();
        sender.send(Event::SnapshotEnd(SnapshotEnd {})).unwrap();
        self.shared.subscribers.lock().push(sender);
        let silent = self.shared.silent.subscribe();
        let stream =
            futures::stream::unfold((receiver, silent), move |(mut receiver, mut silent)| async move {
                silent.wait_for(|silent| !silent).await.ok()?;
                let event = tokio::select! {
                    event = receiver.recv() => event?,
                    () = tokio::time::sleep(interval) => Event::Heartbeat(Heartbeat {}),
                };
                silent.wait_for(|silent| !silent).await.ok()?;
                let message = WatchCapabilitiesResponse { event: Some(event), resume_token: String::new() };
                Some((Ok(message), (receiver, silent)))
            });
        let stream: Pin<Box<dyn Stream<Item = Item> + Send>> = Box::pin(stream);
        Ok(Response::new(stream))
    }
}

/// A compute host or storage backend.
pub struct Publisher {
    shared: Arc<Shared>,
    running: Running,
}

impl Publisher {
    /// The epoch is the registry's unless the capabilities name one.
    pub async fn start(store: &SharedStore, service: ServiceKind, first: Capabilities) -> Self {
        Self::start_as(store, service, first, false).await
    }

    pub async fn start_silent(store: &SharedStore, service: ServiceKind, first: Capabilities) -> Self {
        Self::start_as(store, service, first, true).await
    }

    async fn start_as(
        store: &SharedStore,
        service: ServiceKind,
        mut first: Capabilities,
        silent: bool,
    ) -> Self {
        let context = launch(store, service, &first.host).await.register().await.unwrap();
        if first.epoch == 0 {
            first.epoch = context.epoch().0;
        }
        let shared = Arc::new(Shared {
            snapshot: Mutex::new(first),
            subscribers: Mutex::default(),
            silent: watch::Sender::new(silent),
        });
        let served = Served::only("kilonova.capability.v1.CapabilityService", &["WatchCapabilities"]);
        let service = CapabilityServiceServer::new(Service { shared: shared.clone() });
        let server = context.server().add(service, served);
        Self { shared, running: context.serve(server).await.unwrap() }
    }

    pub fn current(&self) -> Capabilities {
        self.shared.snapshot.lock().clone()
    }

    /// Changes the capabilities and says so, as a new generation.
    pub fn publish(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut next = self.current();
        next.generation += 1;
        change(&mut next);
        *self.shared.snapshot.lock() = next.clone();
        self.say(next);
    }

    /// Sends an update whatever it is.
    pub fn say(&self, capabilities: Capabilities) {
        let update = Event::Update(capabilities);
        self.shared.subscribers.lock().retain(|subscriber| subscriber.send(update.clone()).is_ok());
    }

    pub fn set_silent(&self, silent: bool) {
        self.shared.silent.send_replace(silent);
    }

    pub async fn stop(self) {
        self.running.stop().await;
    }
}

pub fn compute(host: &str, ram_used_mib: u32) -> Capabilities {
    let figures = ComputeResources {
        vcpus: 16,
        ram_mib: 16_384,
        ram_used_mib,
        disk_gib: 100,
        cpu_architecture: "x86_64".into(),
        ..ComputeResources::default()
    };
    Capabilities {
        host: host.into(),
        service: kilonova_proto::types::v1::ServiceKind::Compute.into(),
        availability_zone: "az1".into(),
        enabled: true,
        generation: 1,
        resources: Some(Resources::Compute(figures)),
        ..Capabilities::default()
    }
}

pub fn ram_used(capabilities: &mut Capabilities) -> &mut u32 {
    match capabilities.resources.as_mut().unwrap() {
        Resources::Compute(figures) => &mut figures.ram_used_mib,
        Resources::Volume(_) => panic!("not a compute host"),
    }
}

/// A scheduler and a client of it.
pub struct Scheduler {
    pub running: Running,
    pub client: SchedulerServiceClient<Channel>,
}

impl Scheduler {
    pub async fn start(store: &SharedStore) -> Self {
        Self::start_with(store, Config { heartbeat: Period::from(HEARTBEAT), ..Config::default() }).await
    }

    pub async fn start_with(store: &SharedStore, config: Config) -> Self {
        let launch = launch(store, ServiceKind::Scheduler, "s1").await;
        let running = kilonova_scheduler::start(config, launch).await.unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc_addr)).unwrap();
        let client = SchedulerServiceClient::new(endpoint.timeout(SOON).connect_lazy());
        Self { running, client }
    }

    pub async fn hosts(&mut self) -> Vec<HostState> {
        self.client.list_host_states(ListHostStatesRequest::default()).await.unwrap().into_inner().hosts
    }

    /// Asks for the hosts until they are as wanted; them, and how long it took.
    pub async fn wait_hosts(&mut self, wanted: impl Fn(&[HostState]) -> bool) -> (Vec<HostState>, Duration) {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        loop {
            let hosts = self.hosts().await;
            if wanted(&hosts) {
                return (hosts, begun.elapsed());
            }
            assert!(begun.elapsed() < SOON, "the hosts stayed {hosts:#?}");
            ticks.tick().await;
        }
    }
}
