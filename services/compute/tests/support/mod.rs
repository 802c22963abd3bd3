//! A cell for tests: the embedded store, a conductor that takes reports, one compute agent, a client.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kilonova_compute::Config;
use kilonova_model::{CellName, HostName, InstanceId, ServiceKind, ZoneName};
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::{BuildInstanceRequest, InstanceCommand, TerminateInstanceRequest};
use kilonova_proto::conductor::v1::report_service_server::{ReportService, ReportServiceServer};
use kilonova_proto::conductor::v1::{
    FindRecordsRequest, FindRecordsResponse, InstanceReport, ListHostInstancesRequest,
    ListHostInstancesResponse, RegisterHostRequest, RegisterHostResponse, ReportInstancesRequest,
    ReportInstancesResponse, WantedRecord,
};
use kilonova_proto::types::v1::{Flavor, Image, Instance, InstanceSpec, Store};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Registry, RegistryOptions};
use kilonova_rpc::server::Served;
use kilonova_runtime::agent::simulated::{Entry, FailRule};
use kilonova_runtime::config::Period;
use kilonova_runtime::{Launch, LaunchOptions, Running, StartError};
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::keys::Keys;
use kilonova_store::{SharedStore, Txn};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

pub const HOST: &str = "node1";
const SOON: Duration = Duration::from_secs(120);

/// What the conductor knows and was told.
#[derive(Clone)]
pub struct Conductor {
    pub word: Arc<Mutex<(bool, String)>>,
    pub records: Arc<Mutex<Vec<Instance>>>,
    pub registrations: Arc<Mutex<Vec<RegisterHostRequest>>>,
    /// How often it was asked what belongs on the host.
    pub listed: watch::Sender<u64>,
    /// What records want elsewhere, by id, with where.
    pub elsewhere: Arc<Mutex<BTreeMap<String, String>>>,
    /// Which store it says the records are in.
    pub store: Arc<Mutex<Option<Store>>>,
    /// Whether it does not answer that.
    pub mute: watch::Sender<bool>,
    told: mpsc::UnboundedSender<InstanceReport>,
}

#[tonic::async_trait]
impl ReportService for Conductor {
    async fn register_host(
        &self,
        request: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        self.registrations.lock().push(request.into_inner());
        let (enabled, disabled_reason) = self.word.lock().clone();
        let store = self.store.lock().clone();
        Ok(Response::new(RegisterHostResponse { enabled, disabled_reason, store, ..Default::default() }))
    }

    async fn report_instances(
        &self,
        request: Request<ReportInstancesRequest>,
    ) -> Result<Response<ReportInstancesResponse>, Status> {
        let request = request.into_inner();
        assert!(request.reports.len() <= 100 && request.host == HOST && request.epoch > 0);
        for report in request.reports {
            let _ = self.told.send(report);
        }
        Ok(Response::new(ReportInstancesResponse {}))
    }

    async fn find_records(
        &self,
        request: Request<FindRecordsRequest>,
    ) -> Result<Response<FindRecordsResponse>, Status> {
        let request = request.into_inner();
        let ids = [request.instance_ids, request.volume_ids, request.snapshot_ids].concat();
        let elsewhere = self.elsewhere.lock();
        let wanted = ids.into_iter().filter_map(|id| {
            let host = elsewhere.get(&id)?.clone();
            Some(WantedRecord { id, host })
        });
        Ok(Response::new(FindRecordsResponse { wanted: wanted.collect(), store: self.store.lock().clone() }))
    }

    /// Two to a page, so that paging is gone through.
    async fn list_host_instances(
        &self,
        request: Request<ListHostInstancesRequest>,
    ) -> Result<Response<ListHostInstancesResponse>, Status> {
        self.listed.send_modify(|listed| *listed += 1);
        let _ = self.mute.subscribe().wait_for(|mute| !*mute).await;
        let from: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let records = self.records.lock();
        let instances: Vec<Instance> = records.iter().skip(from).take(2).cloned().collect();
        let more = from + 2 < records.len();
        let next_page_token = if more { (from + 2).to_string() } else { String::new() };
        let store = self.store.lock().clone();
        Ok(Response::new(ListHostInstancesResponse { instances, next_page_token, store }))
    }
}

pub struct Cell {
    pub store: SharedStore,
    pub dir: tempfile::TempDir,
    pub conductor: Conductor,
    pub running_conductor: Option<Running>,
    pub config: Config,
    pub agent: Option<Running>,
    pub reports: mpsc::UnboundedReceiver<InstanceReport>,
    peers: Peers,
}

fn name(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

async fn launch(store: &SharedStore, service: ServiceKind, host: &str) -> Launch {
    let registry = RegistryOptions { ttl: Duration::from_secs(1) };
    Launch {
        service,
        host: name(host),
        cell: CellName::parse("test").unwrap(),
        zone: ZoneName::parse("zone-a").unwrap(),
        store: store.clone(),
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        http: None,
        advertise: None,
        options: LaunchOptions { registry, settle: Duration::ZERO, ..LaunchOptions::default() },
    }
}

/// A configuration in which nothing takes time.
pub fn quick() -> Config {
    let mut config = Config::default();
    config.driver.latency = Period::from_millis(0);
    config.driver.latency_jitter = Period::from_millis(0);
    config.register_interval = Period::from_millis(200);
    config.remove_orphans = true;
    config.orphan_grace = Period::from_millis(0);
    config.orphan_share_per_hour = 1.0;
    config
}

/// A configuration in which spawning never ends by itself.
pub fn endless() -> Config {
    let mut config = quick();
    config.driver.latency = Period::from_secs(3600);
    config
}

pub fn failing(name: &str, attempts: u32) -> Config {
    let mut config = quick();
    config.driver.fail = vec![FailRule { name: name.into(), attempts }];
    config
}

impl Cell {
    /// A cell with a conductor, before its agent starts.
    pub async fn without_agent(config: Config) -> Self {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (told, reports) = mpsc::unbounded_channel();
        let conductor = Conductor {
            word: Arc::new(Mutex::new((true, String::new()))),
            records: Arc::default(),
            registrations: Arc::default(),
            listed: watch::Sender::new(0),
            elsewhere: Arc::default(),
            store: Arc::default(),
            mute: watch::Sender::new(false),
            told,
        };
        let registry = Registry::new(store.clone(), CellName::parse("test").unwrap());
        let caller = Caller::new(ServiceKind::Conductor, name("test"));
        let peers = Peers::new(registry, caller, PeersOptions::default());
        let config = Config { data_dir: dir.path().to_owned(), ..config };
        let mut cell =
            Self { store, dir, conductor, running_conductor: None, config, agent: None, reports, peers };
        cell.start_conductor().await;
        cell
    }

    pub async fn start(config: Config) -> Self {
        let mut cell = Self::without_agent(config).await;
        cell.start_agent().await;
        cell
    }

    pub async fn start_conductor(&mut self) {
        let context =
            launch(&self.store, ServiceKind::Conductor, "conductor1").await.register().await.unwrap();
        let service = ReportServiceServer::new(self.conductor.clone());
        let server = context.server().add(service, Served::all("kilonova.conductor.v1.ReportService"));
        self.running_conductor = Some(context.serve(server).await.unwrap());
    }

    pub async fn stop_conductor(&mut self) {
        self.running_conductor.take().unwrap().stop().await;
    }

    /// Starts an agent of that name over the cell's data.
    pub async fn launch_agent(&self, host: &str) -> Result<Running, StartError> {
        let launch = launch(&self.store, ServiceKind::Compute, host).await;
        kilonova_compute::start(self.config.clone(), launch).await
    }

    /// Starts the agent, and waits until it is ready.
    pub async fn start_agent(&mut self) {
        let running = self.launch_agent(HOST).await.unwrap();
        timeout(SOON, running.readiness.wait_ready()).await.expect("ready");
        self.channel().wait_ready(Instant::now() + SOON).await.unwrap();
        self.agent = Some(running);
    }

    pub async fn stop_agent(&mut self) {
        self.agent.take().unwrap().stop().await;
    }

    /// Ends the agent without a word.
    pub fn crash_agent(&mut self) {
        drop(self.agent.take());
    }

    pub fn channel(&self) -> Channel {
        self.peers.call_host(ServiceKind::Compute, &name(HOST))
    }

    pub async fn reachable(&self) {
        self.channel().wait_ready(Instant::now() + SOON).await.unwrap();
    }

    pub fn client(&self) -> ComputeServiceClient<Channel> {
        ComputeServiceClient::new(self.channel())
    }

    pub fn command(&self, id: InstanceId, generation: u64, attempt: u32) -> InstanceCommand {
        InstanceCommand {
            instance_id: id.to_string(),
            generation,
            attempt,
            target_host: HOST.to_owned(),
            target_epoch: self.agent.as_ref().unwrap().epoch().0,
            request_id: "request-1".to_owned(),
            store_revision: 0,
            store_mark: String::new(),
        }
    }

    pub fn order(&self, id: InstanceId, attempt: u32, name: &str) -> BuildInstanceRequest {
        BuildInstanceRequest {
            command: Some(self.command(id, 1, attempt)),
            project_id: "demo".to_owned(),
            spec: Some(InstanceSpec { name: name.to_owned(), ..InstanceSpec::default() }),
            flavor: Some(Flavor { vcpus: 1, ram_mib: 512, disk_gib: 1, ..Flavor::default() }),
            image: Some(Image::default()),
            ..BuildInstanceRequest::default()
        }
    }

    pub async fn build(&self, id: InstanceId, attempt: u32, name: &str) -> Result<(), Status> {
        self.client().build_instance(self.order(id, attempt, name)).await.map(drop)
    }

    pub async fn terminate(&self, id: InstanceId, generation: u64) -> Result<(), Status> {
        let command = Some(self.command(id, generation, 1));
        self.client().terminate_instance(TerminateInstanceRequest { command }).await.map(drop)
    }

    pub async fn report(&mut self) -> InstanceReport {
        timeout(SOON, self.reports.recv()).await.expect("a report in time").unwrap()
    }

    /// Takes the agent's registration from the registry, as the end of its lease would.
    pub async fn lose_registration(&self) {
        let keys = Keys::new(&CellName::parse("test").unwrap());
        let txn = Txn::new().delete(keys.endpoint(ServiceKind::Compute, &name(HOST)));
        self.store.txn(txn).await.unwrap();
    }

    /// Waits until the agent is as wished.
    pub async fn until(&self, wished: impl Fn(&Running) -> bool) {
        let agent = self.agent.as_ref().unwrap();
        let wait = async {
            while !wished(agent) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.expect("as wished in time");
    }

    /// Waits until the agent has asked more often what belongs to it.
    pub async fn until_listed(&self, before: u64) {
        let mut listed = self.conductor.listed.subscribe();
        timeout(SOON, listed.wait_for(|listed| *listed > before)).await.expect("asked").unwrap();
    }

    /// Waits until the agent has compared what it has with the records that there are now.
    pub async fn compared(&self) {
        let mut listed = self.conductor.listed.subscribe();
        // One comparison may have been under way.
        let enough = *listed.borrow() + 2;
        timeout(SOON, listed.wait_for(|listed| *listed >= enough)).await.expect("compared").unwrap();
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal.jsonl")
    }

    /// What the driver did with guests, in order: `spawn web`.
    pub fn done(&self) -> Vec<String> {
        let entries = entries(&self.journal());
        let guests = entries.into_iter().filter(|entry| entry.op != "start");
        guests.map(|entry| format!("{} {}", entry.op, entry.name)).collect()
    }

    /// Goes through the journal: never two guests of one instance, never one destroyed that is not there. Gives the
    /// most that ran at once, and how many run at the end.
    pub fn replay(&self) -> (usize, usize) {
        let mut live = std::collections::BTreeSet::new();
        let mut most = 0;
        for entry in entries(&self.journal()) {
            match entry.op.as_str() {
                "spawn" => assert!(live.insert(entry.id), "spawned twice"),
                "destroy" => assert!(live.remove(&entry.id), "destroyed what is not there"),
                _ => {}
            }
            most = most.max(live.len());
        }
        (most, live.len())
    }

    /// The agent's own account of itself.
    pub fn agent(&self) -> serde_json::Value {
        self.agent.as_ref().unwrap().diagnostics.collect()["agent"].clone()
    }

    /// Waits until what the agent says of itself satisfies `wanted`.
    pub async fn agent_shows(&self, wanted: impl Fn(&serde_json::Value) -> bool) {
        let wait = async {
            while !wanted(&self.agent()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            panic!("the agent shows {}", self.agent());
        }
    }
}

fn entries(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
