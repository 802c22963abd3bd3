//! One cell in this process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_runtime::config::Period;
use kilonova_runtime::service::{Launch, LaunchOptions, Running, StartError};
use kilonova_runtime::tasks::Tasks;
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::api::Api;
use crate::journal::{self, Line};
use crate::points::Points;
use crate::points::proxy::PointProxy;
use crate::points::store::PointStore;
use crate::waiting::{at_this_pace, until};

/// How long the shards of a conductor that died stay with it, on a machine of the usual pace.
const SHARD_TTL: Duration = Duration::from_secs(2);
/// How long the tasks of a killed member may take to end.
const LAST: Duration = Duration::from_secs(5);

/// Which store carries the cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// SQLite in this process.
    Embedded,
    /// A real etcd as a child process.
    Etcd,
}

impl Backing {
    /// Opens an empty one, with its process where it has one. `None` when the store's program is missing, which is said.
    pub async fn open(self) -> Option<(SharedStore, Option<EtcdProcess>)> {
        if self == Self::Embedded {
            return Some((Arc::new(EmbeddedStore::open_temporary().expect("a store")), None));
        }
        let etcd = EtcdProcess::start().await.expect("etcd starts")?;
        Some((connected(etcd.endpoint()).await, Some(etcd)))
    }
}

/// The store in an etcd that runs.
pub async fn connected(endpoint: String) -> SharedStore {
    let options = EtcdOptions { endpoints: vec![endpoint], ..Default::default() };
    Arc::new(EtcdStore::connect(options).await.expect("etcd answers"))
}

/// How many of each, and how they are set.
#[derive(Clone)]
pub struct Plan {
    /// The store.
    pub backing: Backing,
    /// Public apis.
    pub apis: usize,
    /// Conductors.
    pub conductors: usize,
    /// Schedulers.
    pub schedulers: usize,
    /// Compute hosts.
    pub computes: usize,
    /// Storage backends.
    pub volumes: usize,
    /// What conductors are set to.
    pub conductor: kilonova_conductor::Config,
    /// What schedulers are set to.
    pub scheduler: kilonova_scheduler::Config,
    /// What compute hosts are set to; each gets a data directory of its own.
    pub compute: kilonova_compute::Config,
    /// What storage backends are set to; each gets a data directory of its own.
    pub volume: kilonova_volume::Config,
    /// How long the registry keeps a member that died; as usual if not given.
    pub registry_ttl: Option<Duration>,
    /// Whether each member has a connection to etcd of its own, as processes have, and not all of them one.
    pub own_connections: bool,
    /// Where it is made to fail: in the way of conductors to the store, and of all to conductors and agents.
    pub points: Option<Arc<Points>>,
}

impl Plan {
    /// One api, two conductors, two schedulers, three hosts, two backends, quick and without quota.
    #[must_use]
    pub fn new(backing: Backing) -> Self {
        let shard_ttl = Period::from(at_this_pace(SHARD_TTL));
        let mut conductor = kilonova_conductor::Config { shard_ttl, ..Default::default() };
        conductor.quota.instances = -1;
        conductor.quota.cores = -1;
        conductor.quota.ram_mib = -1;
        conductor.quota.volumes = -1;
        conductor.quota.gigabytes = -1;
        conductor.quota.snapshots = -1;
        let scheduler =
            kilonova_scheduler::Config { heartbeat: Period::from_millis(500), ..Default::default() };
        let mut compute = kilonova_compute::Config::default();
        compute.driver.latency = Period::from_millis(5);
        compute.driver.latency_jitter = Period::from_millis(5);
        Self {
            backing,
            apis: 1,
            conductors: 2,
            schedulers: 2,
            computes: 3,
            volumes: 2,
            conductor,
            scheduler,
            compute,
            volume: kilonova_volume::Config::default(),
            registry_ttl: None,
            own_connections: false,
            points: None,
        }
    }
}

/// Names one member.
pub type MemberId = (ServiceKind, String);

/// A running cell.
pub struct Cluster {
    plan: Plan,
    members: BTreeMap<MemberId, Running>,
    /// The tasks of those that were killed, as long as they have not started again.
    killed: BTreeMap<MemberId, Tasks>,
    proxies: BTreeMap<MemberId, PointProxy>,
    store: SharedStore,
    cell: CellName,
    dir: TempDir,
    /// The store's process, where there is one; it ends with the cell.
    etcd: Option<EtcdProcess>,
}

impl Cluster {
    /// Starts it and waits until all of it is ready. `None` when the store's program is missing, which is said.
    pub async fn start(plan: Plan) -> Option<Self> {
        let (store, etcd) = plan.backing.open().await?;
        let cell = CellName::parse("test").expect("a cell name");
        Some(Box::pin(Self::on(plan, store, cell, etcd)).await)
    }

    /// Starts it as one cell on a store that is there, and waits until all of it is ready.
    pub async fn over(plan: Plan, store: SharedStore, cell: CellName) -> Self {
        Box::pin(Self::on(plan, store, cell, None)).await
    }

    async fn on(plan: Plan, store: SharedStore, cell: CellName, etcd: Option<EtcdProcess>) -> Self {
        let dir = tempfile::Builder::new().prefix("kilonova-cluster-").tempdir().expect("a directory");
        let (members, killed, proxies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut cluster = Self { members, killed, proxies, store, cell, dir, etcd, plan };
        let counts = [
            (ServiceKind::Conductor, cluster.plan.conductors),
            (ServiceKind::Scheduler, cluster.plan.schedulers),
            (ServiceKind::Compute, cluster.plan.computes),
            (ServiceKind::Volume, cluster.plan.volumes),
            (ServiceKind::Api, cluster.plan.apis),
        ];
        for (kind, count) in counts {
            for number in 1..=count {
                cluster.launch(kind, &name(kind, number)).await;
            }
        }
        cluster.ready().await;
        cluster
    }

    /// Starts one more member, or one again. Not before a killed one has done its last: a process that is
    /// killed writes nothing any more, but tasks that are cut go on to their next `.await`.
    pub async fn launch(&mut self, kind: ServiceKind, host: &str) {
        if let Some(tasks) = self.killed.remove(&(kind, host.to_owned())) {
            tasks.shutdown(LAST).await;
        }
        match self.start_member(kind, host, self.data_dir(host)).await {
            Ok(running) => drop(self.members.insert((kind, host.to_owned()), running)),
            Err(error) => panic!("{kind} {host} does not start: {error}"),
        }
    }

    /// Starts an agent under a name over the data of another, which does not run.
    pub async fn launch_over(
        &mut self,
        kind: ServiceKind,
        host: &str,
        data_of: &str,
    ) -> Result<(), StartError> {
        let running = self.start_member(kind, host, self.data_dir(data_of)).await?;
        self.members.insert((kind, host.to_owned()), running);
        Ok(())
    }

    /// Kills every member, and gives them in the order in which they are started again.
    pub async fn kill_all(&mut self) -> Vec<MemberId> {
        let kinds =
            [ServiceKind::Conductor, ServiceKind::Scheduler, ServiceKind::Compute, ServiceKind::Volume];
        let mut all = Vec::new();
        for kind in kinds.into_iter().chain([ServiceKind::Api]) {
            all.extend(self.names(kind).into_iter().map(|host| (kind, host)));
        }
        for (kind, host) in &all {
            self.kill(*kind, host);
        }
        for tasks in std::mem::take(&mut self.killed).into_values() {
            tasks.shutdown(LAST).await;
        }
        all
    }

    /// Has what is started from now on use another store.
    pub fn use_store(&mut self, store: SharedStore) {
        self.store = store;
    }

    async fn start_member(
        &mut self,
        kind: ServiceKind,
        host: &str,
        data_dir: PathBuf,
    ) -> Result<Running, StartError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (store, advertise) = self.through_points(kind, host, &listener).await;
        let mut options = LaunchOptions { settle: Duration::from_millis(20), ..Default::default() };
        if let Some(ttl) = self.plan.registry_ttl {
            options.registry.ttl = ttl;
        }
        let launch = Launch {
            service: kind,
            host: HostName::parse(host).expect("a host name"),
            cell: self.cell.clone(),
            zone: ZoneName::parse("zone-1").expect("a zone name"),
            store,
            listener,
            http: None,
            advertise,
            options,
        };
        match kind {
            ServiceKind::Api => Box::pin(kilonova_api::start(Default::default(), launch)).await,
            ServiceKind::Conductor => {
                Box::pin(kilonova_conductor::start(self.plan.conductor.clone(), launch)).await
            }
            ServiceKind::Scheduler => {
                Box::pin(kilonova_scheduler::start(self.plan.scheduler.clone(), launch)).await
            }
            ServiceKind::Compute => {
                let config = kilonova_compute::Config { data_dir, ..self.plan.compute.clone() };
                Box::pin(kilonova_compute::start(config, launch)).await
            }
            ServiceKind::Volume => {
                let config = kilonova_volume::Config { data_dir, ..self.plan.volume.clone() };
                Box::pin(kilonova_volume::start(config, launch)).await
            }
        }
    }

    /// The store as a member has it, and where others reach the member, if that is not where it listens.
    async fn through_points(
        &mut self,
        kind: ServiceKind,
        host: &str,
        listener: &TcpListener,
    ) -> (SharedStore, Option<String>) {
        let own = match &self.etcd {
            Some(etcd) if self.plan.own_connections => connected(etcd.endpoint()).await,
            _ => self.store.clone(),
        };
        let Some(points) = self.plan.points.clone() else { return (own, None) };
        let member = (kind, host.to_owned());
        points.risen(&member);
        let store = match kind {
            ServiceKind::Conductor => PointStore::before(own, points.clone(), host),
            _ => own,
        };
        if !self.proxies.contains_key(&member) {
            let proxy = PointProxy::start(member.clone(), points).await.expect("a port");
            self.proxies.insert(member.clone(), proxy);
        }
        let proxy = &self.proxies[&member];
        proxy.lead_to(Some(listener.local_addr().expect("an address")));
        (store, Some(proxy.endpoint()))
    }

    /// Cuts a member as `kill -9` would: nothing is said, leases run out.
    pub fn kill(&mut self, kind: ServiceKind, host: &str) {
        let member = (kind, host.to_owned());
        let running = self.members.remove(&member).expect("the member runs");
        if let Some(proxy) = self.proxies.get(&member) {
            proxy.lead_to(None);
        }
        self.killed.insert(member, running.tasks.clone());
        drop(running);
    }

    /// Stops a member in good order.
    pub async fn stop(&mut self, kind: ServiceKind, host: &str) {
        let member = self.members.remove(&(kind, host.to_owned()));
        member.expect("the member runs").stop().await;
    }

    /// Waits until every member is ready.
    pub async fn ready(&self) {
        for ((kind, host), running) in &self.members {
            until(&format!("{kind} {host} is ready"), || async {
                running.readiness.current().ready().then_some(())
            })
            .await;
        }
    }

    /// The members of one kind that run.
    #[must_use]
    pub fn names(&self, kind: ServiceKind) -> Vec<String> {
        let of_kind = self.members.keys().filter(|(of, _)| *of == kind);
        of_kind.map(|(_, host)| host.clone()).collect()
    }

    /// Where one member is reached, also once it was started again if there are points.
    #[must_use]
    pub fn address(&self, kind: ServiceKind, host: &str) -> String {
        let member = (kind, host.to_owned());
        match self.proxies.get(&member) {
            Some(proxy) => format!("http://{}", proxy.endpoint()),
            None => format!("http://{}", self.members[&member].grpc_addr),
        }
    }

    /// A plain channel to a member, as any client would have.
    #[must_use]
    pub fn channel(&self, kind: ServiceKind, host: &str) -> Channel {
        Endpoint::from_shared(self.address(kind, host)).expect("an address").connect_lazy()
    }

    /// The public api, as users reach it.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::over(self.channel(ServiceKind::Api, "api-1"))
    }

    /// The store, for checks and for clients of the registry.
    #[must_use]
    pub fn shared_store(&self) -> SharedStore {
        self.store.clone()
    }

    /// Below which every agent has its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The store's process, where there is one.
    pub fn etcd(&mut self) -> Option<&mut EtcdProcess> {
        self.etcd.as_mut()
    }

    /// The conditions of a member's readiness that do not hold, in one line.
    #[must_use]
    pub fn waits_for(&self, kind: ServiceKind, host: &str) -> String {
        self.members[&(kind, host.to_owned())].readiness.current().summary()
    }

    /// The cell's name.
    #[must_use]
    pub fn cell(&self) -> &CellName {
        &self.cell
    }

    /// Whether a member is ready.
    #[must_use]
    pub fn is_ready(&self, kind: ServiceKind, host: &str) -> bool {
        let member = self.members.get(&(kind, host.to_owned()));
        member.is_some_and(|running| running.readiness.current().ready())
    }

    /// Where an agent keeps its journal.
    #[must_use]
    pub fn data_dir(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    /// All lines of all journals.
    #[must_use]
    pub fn journals(&self) -> Vec<Line> {
        journal::read_all(self.dir.path())
    }

    /// Stops everything in good order.
    pub async fn shutdown(self) {
        let mut members: Vec<(MemberId, Running)> = self.members.into_iter().collect();
        members.sort_by_key(|((kind, _), _)| match kind {
            ServiceKind::Api => 0,
            ServiceKind::Conductor => 2,
            _ => 1,
        });
        for (_, member) in members {
            member.stop().await;
        }
    }
}

/// The name of a member.
#[must_use]
pub fn name(kind: ServiceKind, number: usize) -> String {
    match kind {
        ServiceKind::Volume => format!("storage-{number}@sim"),
        kind => format!("{kind}-{number}"),
    }
}
