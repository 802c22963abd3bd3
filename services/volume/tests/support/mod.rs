//! A cell for tests: the embedded store, a conductor that takes reports, one volume agent, a client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, VolumeId, ZoneName};
use kilonova_proto::conductor::v1::report_service_server::{ReportService, ReportServiceServer};
use kilonova_proto::conductor::v1::{
    FindRecordsRequest, FindRecordsResponse, ListHostSnapshotsRequest, ListHostSnapshotsResponse,
    ListHostVolumesRequest, ListHostVolumesResponse, RegisterHostRequest, RegisterHostResponse,
    ReportSnapshotsRequest, ReportSnapshotsResponse, ReportVolumesRequest, ReportVolumesResponse,
    SnapshotReport, VolumeReport, WantedRecord,
};
use kilonova_proto::types::v1::{Store, Volume, VolumeSpec};
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_proto::volume::v1::{CreateVolumeRequest, DeleteVolumeRequest, VolumeCommand};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Registry, RegistryOptions};
use kilonova_rpc::server::Served;
use kilonova_runtime::agent::simulated::{Entry, FailRule};
use kilonova_runtime::config::Period;
use kilonova_runtime::{Launch, LaunchOptions, Running};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_volume::Config;
use kilonova_volume::config::PoolConfig;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

pub const HOST: &str = "node1@fast";
const SOON: Duration = Duration::from_secs(120);

/// What the conductor knows and was told.
#[derive(Clone)]
pub struct Conductor {
    records: Arc<Mutex<Vec<Volume>>>,
    /// What records want elsewhere, by id, with where.
    elsewhere: Arc<Mutex<BTreeMap<String, String>>>,
    /// Which store it says the records are in.
    store: Arc<Mutex<Option<Store>>>,
    told: mpsc::UnboundedSender<VolumeReport>,
    told_of_snapshots: mpsc::UnboundedSender<SnapshotReport>,
}

#[tonic::async_trait]
impl ReportService for Conductor {
    async fn register_host(
        &self,
        _: Request<RegisterHostRequest>,
    ) -> Result<Response<RegisterHostResponse>, Status> {
        Ok(Response::new(RegisterHostResponse { enabled: true, ..Default::default() }))
    }

    async fn report_volumes(
        &self,
        request: Request<ReportVolumesRequest>,
    ) -> Result<Response<ReportVolumesResponse>, Status> {
        let request = request.into_inner();
        assert!(request.reports.len() <= 100 && request.host == HOST && request.epoch > 0);
        for report in request.reports {
            let _ = self.told.send(report);
        }
        Ok(Response::new(ReportVolumesResponse {}))
    }

    async fn report_snapshots(
        &self,
        request: Request<ReportSnapshotsRequest>,
    ) -> Result<Response<ReportSnapshotsResponse>, Status> {
        for report in request.into_inner().reports {
            let _ = self.told_of_snapshots.send(report);
        }
        Ok(Response::new(ReportSnapshotsResponse {}))
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
    async fn list_host_volumes(
        &self,
        request: Request<ListHostVolumesRequest>,
    ) -> Result<Response<ListHostVolumesResponse>, Status> {
        let from: usize = request.into_inner().page_token.parse().unwrap_or(0);
        let records = self.records.lock();
        let volumes: Vec<Volume> = records.iter().skip(from).take(2).cloned().collect();
        let more = from + 2 < records.len();
        let next_page_token = if more { (from + 2).to_string() } else { String::new() };
        Ok(Response::new(ListHostVolumesResponse { volumes, next_page_token, ..Default::default() }))
    }

    async fn list_host_snapshots(
        &self,
        _: Request<ListHostSnapshotsRequest>,
    ) -> Result<Response<ListHostSnapshotsResponse>, Status> {
        Ok(Response::new(ListHostSnapshotsResponse::default()))
    }
}

pub struct Cell {
    store: SharedStore,
    dir: tempfile::TempDir,
    pub records: Arc<Mutex<Vec<Volume>>>,
    _conductor: Running,
    config: Config,
    pub agent: Option<Running>,
    reports: mpsc::UnboundedReceiver<VolumeReport>,
    snapshot_reports: mpsc::UnboundedReceiver<SnapshotReport>,
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

/// A configuration in which nothing takes time, with a thick pool and a thin one.
pub fn quick() -> Config {
    let mut config = Config::default();
    config.driver.latency = Period::from_millis(0);
    config.driver.latency_jitter = Period::from_millis(0);
    config.remove_orphans = true;
    config.orphan_grace = Period::from_millis(0);
    config.orphan_share_per_hour = 1.0;
    let pool = PoolConfig { name: "fast".into(), total_gib: 100, ..PoolConfig::default() };
    let thin = PoolConfig {
        name: "wide".into(),
        thin_provisioning: true,
        max_over_subscription_ratio: 2.0,
        ..pool.clone()
    };
    config.driver.pools = vec![pool, thin];
    config
}

/// A configuration in which creating never ends by itself.
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
    pub async fn start(config: Config) -> Self {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let (told, reports) = mpsc::unbounded_channel();
        let (told_of_snapshots, snapshot_reports) = mpsc::unbounded_channel();
        let conductor = Conductor {
            records: Arc::default(),
            elsewhere: Arc::default(),
            store: Arc::default(),
            told,
            told_of_snapshots,
        };
        let records = conductor.records.clone();
        let context = launch(&store, ServiceKind::Conductor, "conductor1").await.register().await.unwrap();
        let served = Served::all("kilonova.conductor.v1.ReportService");
        let server = context.server().add(ReportServiceServer::new(conductor), served);
        let running = context.serve(server).await.unwrap();
        let registry = Registry::new(store.clone(), CellName::parse("test").unwrap());
        let caller = Caller::new(ServiceKind::Conductor, name("test"));
        let peers = Peers::new(registry, caller, PeersOptions::default());
        let config = Config { data_dir: dir.path().to_owned(), ..config };
        let mut cell = Self {
            store,
            dir,
            records,
            _conductor: running,
            config,
            agent: None,
            reports,
            snapshot_reports,
            peers,
        };
        cell.start_agent().await;
        cell
    }

    /// Starts the agent, and waits until it is ready.
    pub async fn start_agent(&mut self) {
        let launch = launch(&self.store, ServiceKind::Volume, HOST).await;
        let running = kilonova_volume::start(self.config.clone(), launch).await.unwrap();
        timeout(SOON, running.readiness.wait_ready()).await.expect("ready");
        self.channel().wait_ready(Instant::now() + SOON).await.unwrap();
        self.agent = Some(running);
    }

    /// Ends the agent without a word.
    pub fn crash_agent(&mut self) {
        drop(self.agent.take());
    }

    pub fn channel(&self) -> Channel {
        self.peers.call_host(ServiceKind::Volume, &name(HOST))
    }

    pub fn client(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(self.channel())
    }

    pub fn command(&self, id: VolumeId, generation: u64, attempt: u32) -> VolumeCommand {
        VolumeCommand {
            volume_id: id.to_string(),
            generation,
            attempt,
            target_host: HOST.to_owned(),
            target_epoch: self.agent.as_ref().unwrap().epoch().0,
            request_id: "request-1".to_owned(),
            store_revision: 0,
            store_mark: String::new(),
        }
    }

    pub fn order(
        &self,
        id: VolumeId,
        attempt: u32,
        name: &str,
        size_gib: u32,
        pool: &str,
    ) -> CreateVolumeRequest {
        CreateVolumeRequest {
            command: Some(self.command(id, 1, attempt)),
            project_id: "demo".to_owned(),
            spec: Some(VolumeSpec { name: name.to_owned(), size_gib, ..VolumeSpec::default() }),
            pool: pool.to_owned(),
        }
    }

    pub async fn create(
        &self,
        id: VolumeId,
        attempt: u32,
        name: &str,
        size_gib: u32,
        pool: &str,
    ) -> Result<(), Status> {
        self.client().create_volume(self.order(id, attempt, name, size_gib, pool)).await.map(drop)
    }

    pub async fn delete(&self, id: VolumeId, generation: u64) -> Result<(), Status> {
        let command = Some(self.command(id, generation, 1));
        self.client().delete_volume(DeleteVolumeRequest { command }).await.map(drop)
    }

    pub async fn report(&mut self) -> VolumeReport {
        timeout(SOON, self.reports.recv()).await.expect("a report in time").unwrap()
    }

    pub async fn snapshot_report(&mut self) -> SnapshotReport {
        timeout(SOON, self.snapshot_reports.recv()).await.expect("a report in time").unwrap()
    }

    /// Waits until the agent's account of itself is as wished.
    pub async fn until(&self, wished: impl Fn(&serde_json::Value) -> bool) {
        let wait = async {
            while !wished(&self.agent()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, wait).await.expect("as wished in time");
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal.jsonl")
    }

    /// What the driver did with volumes, in order: `create data`.
    pub fn done(&self) -> Vec<String> {
        let entries = entries(&self.journal());
        let volumes = entries.into_iter().filter(|entry| entry.op != "start");
        volumes.map(|entry| format!("{} {}", entry.op, entry.name)).collect()
    }

    /// Goes through the journal: never two of one volume, never one deleted that is not there. Gives how many are
    /// there at the end.
    pub fn replay(&self) -> usize {
        let mut there = std::collections::BTreeSet::new();
        for entry in entries(&self.journal()) {
            match entry.op.as_str() {
                "create" => assert!(there.insert(entry.id), "created twice"),
                "delete" => assert!(there.remove(&entry.id), "deleted what is not there"),
                _ => {}
            }
        }
        there.len()
    }

    /// The agent's own account of itself.
    pub fn agent(&self) -> serde_json::Value {
        self.agent.as_ref().unwrap().diagnostics.collect()["agent"].clone()
    }
}

fn entries(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
