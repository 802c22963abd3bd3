//! One conductor without its face, over the embedded store, and the agents it calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_conductor::Config;
use kilonova_conductor::accept::{Acceptor, Lanes, Request};
use kilonova_conductor::agents::{Agents, GroupWish, Selected};
use kilonova_conductor::cache::{Cache, Entry};
use kilonova_conductor::db::Db;
use kilonova_conductor::engine::Engine;
use kilonova_conductor::groups::Groups;
use kilonova_conductor::hosts::Fences;
use kilonova_conductor::identity::StoreIdentity;
use kilonova_conductor::once::change_once;
use kilonova_conductor::operations::hosts_part;
use kilonova_conductor::placed::{Placed, Site};
use kilonova_conductor::power::Power;
use kilonova_conductor::reach::Reach;
use kilonova_conductor::records::Records;
use kilonova_conductor::reports::{self, Report};
use kilonova_conductor::requests::{self, Acceptance, Named, Unguarded};
use kilonova_conductor::shards::Shards;
use kilonova_model::{
    CellName, Epoch, Error, HostName, InstanceId, Reason, ServerGroupId, ServiceKind, ZoneName,
};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation, Receipt, ReportStatus};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::registry::{Endpoint, Registration, Registry, RegistryOptions};
use kilonova_rpc::status::to_status;
use kilonova_runtime::config::Period;
use kilonova_runtime::readiness::Readiness;
use kilonova_runtime::reconcile::Priority;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::keys::{Key, Keys};
use kilonova_store::{SharedStore, Txn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// The scheduler and the hosts: what they were asked, and how they answer.
#[derive(Clone, Default)]
pub struct Hosts {
    pub world: Arc<Mutex<World>>,
}

#[derive(Default)]
pub struct World {
    pub names: Vec<String>,
    /// Whether the scheduler begins with another host each time, and how often it was asked.
    pub turning: bool,
    pub asked: usize,
    /// Every build taken, by instance and host.
    pub builds: Vec<(InstanceId, String, u32)>,
    pub terminated: Vec<(InstanceId, String)>,
    /// Hosts that refuse a build.
    pub refusing: BTreeSet<String>,
    /// Why they do; there is no room if not given.
    pub refusal: Option<Error>,
    /// Every operation taken, by instance, host and generation.
    pub operations: Vec<(InstanceId, String, u64)>,
    /// Why hosts do not do what they take.
    pub failing: Option<pb::Fault>,
    /// Hosts that never report.
    pub silent: BTreeSet<String>,
    /// Hosts that never report a build.
    pub stuck: BTreeSet<String>,
    /// Builds and removals in the order they were taken, with their hosts.
    pub log: Vec<(&'static str, String)>,
    /// The newest generation that hosts took of each, of a record that the store no longer has.
    pub taken: BTreeMap<InstanceId, u64>,
    /// Hosts that have lost what they had.
    pub empty: BTreeSet<String>,
    /// How often hosts were asked whether they have it.
    pub has_asked: usize,
    /// Hosts that do not take a removal.
    pub deaf: BTreeSet<String>,
    /// Conductors' memories to report to.
    pub records: Option<Records<InstanceRecord>>,
}

impl Hosts {
    /// Refuses a command that is older than one that was taken.
    fn refuses_as_stale(&self, id: InstanceId, generation: u64) -> Result<(), CallError> {
        let taken = self.world.lock().taken.get(&id).copied().filter(|taken| generation <= *taken);
        taken.map_or(Ok(()), |taken| {
            let error = Error::new(Reason::StaleGeneration, "a newer command was seen");
            Err(classify(to_status(&error.with("id", id).with("generation", taken))))
        })
    }

    fn report(&self, report: Report<InstanceId>) {
        let world = self.world.lock();
        let (Some(records), false) = (world.records.clone(), world.silent.contains(&report.host)) else {
            return;
        };
        TASKS.with(|tasks| {
            tasks.spawn("report", async move {
                reports::enter(&records, report, AGAIN, |_| false).await.unwrap();
            })
        });
    }
}

/// What a host reports of a command it did.
pub fn report(
    id: InstanceId,
    host: &str,
    generation: u64,
    attempt: u32,
    status: ReportStatus,
) -> Report<InstanceId> {
    let (host, fault, steps, operation) = (host.to_owned(), None, Vec::new(), None);
    Report { id, host, generation, attempt, status, fault, steps, operation }
}

thread_local! {
    static TASKS: Tasks = Tasks::new("test agents");
}

#[async_trait]
impl Agents<InstanceRecord> for Hosts {
    async fn select(
        &self,
        _: InstanceId,
        record: &InstanceRecord,
        alternates: u32,
        group: &GroupWish,
    ) -> Result<Selected, CallError> {
        let names = {
            let mut world = self.world.lock();
            world.asked += 1;
            let mut names = world.names.clone();
            if world.turning {
                let first = world.asked % names.len();
                names.rotate_left(first);
            }
            names
        };
        let out = |name: &String| record.tried().contains(name) || group.broken.contains(name);
        let free = names.into_iter().filter(|name| !out(name));
        let place = |host| Alternate { host, ..Default::default() };
        let places: Vec<Alternate> = free.take(alternates as usize + 1).map(place).collect();
        let summary = if places.is_empty() { "no valid host: none left".to_owned() } else { String::new() };
        Ok(Selected { places, explanation: pb::PlacementExplanation { summary, ..Default::default() } })
    }

    async fn build(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        at: &Site,
        _: Epoch,
    ) -> Result<(), CallError> {
        self.refuses_as_stale(id, entry.record.status().generation)?;
        {
            let mut world = self.world.lock();
            if world.refusing.contains(&at.host) {
                let refusal = world.refusal.clone();
                let refusal = refusal.unwrap_or_else(|| Error::new(Reason::ClaimRefused, "not taken"));
                return Err(classify(to_status(&refusal)));
            }
            world.builds.push((id, at.host.clone(), at.attempt));
            world.log.push(("build", at.host.clone()));
            if world.stuck.contains(&at.host) {
                return Ok(());
            }
        }
        let generation = entry.record.status().generation;
        self.report(report(id, &at.host, generation, at.attempt, ReportStatus::Ready));
        Ok(())
    }

    async fn operate(
        &self,
        id: InstanceId,
        _: &Entry<InstanceRecord>,
        operation: &Operation,
        at: &Site,
        _: Epoch,
    ) -> Result<(), CallError> {
        self.refuses_as_stale(id, operation.generation)?;
        let fault = {
            let mut world = self.world.lock();
            if world.deaf.contains(&at.host) {
                return Err(classify(to_status(&Error::new(Reason::ConnectFailed, "not reached"))));
            }
            world.operations.push((id, at.host.clone(), operation.generation));
            world.failing.clone()
        };
        let done = report(id, &at.host, operation.generation, at.attempt, ReportStatus::Ready);
        self.report(Report { fault, operation: Some(hosts_part(operation)), ..done });
        Ok(())
    }

    async fn conclude(
        &self,
        _: InstanceId,
        _: &Entry<InstanceRecord>,
        _: &Operation,
    ) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn let_go(&self, _: InstanceId, _: &Entry<InstanceRecord>, _: bool) -> Result<Txn, CallError> {
        Ok(Txn::new())
    }

    async fn has(
        &self,
        _: InstanceId,
        _: &Entry<InstanceRecord>,
        host: &str,
        _: Epoch,
    ) -> Result<Option<bool>, CallError> {
        let mut world = self.world.lock();
        world.has_asked += 1;
        Ok(Some(!world.empty.contains(host)))
    }

    async fn terminate(
        &self,
        id: InstanceId,
        entry: &Entry<InstanceRecord>,
        receipt: &Receipt,
        _: Epoch,
    ) -> Result<(), CallError> {
        self.refuses_as_stale(id, entry.record.status().generation)?;
        if self.world.lock().deaf.contains(&receipt.host) {
            return Err(classify(to_status(&Error::new(Reason::ConnectFailed, "not reached"))));
        }
        {
            let mut world = self.world.lock();
            world.terminated.push((id, receipt.host.clone()));
            world.log.push(("terminate", receipt.host.clone()));
        }
        let generation = entry.record.status().generation;
        self.report(report(id, &receipt.host, generation, receipt.attempt, ReportStatus::Gone));
        Ok(())
    }
}

/// One conductor without its gRPC face.
pub struct Conductor {
    pub name: HostName,
    pub tasks: Tasks,
    pub records: Records<InstanceRecord>,
    pub groups: Groups,
    pub acceptor: Acceptor,
    pub shards: Shards,
    pub config: Arc<Config>,
    pub reach: Reach,
}

pub struct Cell {
    pub store: SharedStore,
    pub registry: Registry,
    pub hosts: Hosts,
    pub registrations: Vec<Registration>,
}

pub const CELL: &str = "test";

/// How long what follows a failed operation may take.
/// How long a value may take to become right.
const PATIENCE: Duration = Duration::from_secs(120);

pub const AGAIN: Duration = Duration::from_secs(10);

impl Cell {
    pub async fn new(hosts: &[&str]) -> Self {
        Self::over(Arc::new(EmbeddedStore::open_temporary().unwrap()), hosts).await
    }

    pub async fn over(store: SharedStore, hosts: &[&str]) -> Self {
        let registry = Registry::new(store.clone(), CellName::parse(CELL).unwrap());
        let played = Hosts::default();
        played.world.lock().names = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut cell = Self { store, registry, hosts: played, registrations: Vec::new() };
        for host in hosts {
            cell.register(host).await;
        }
        cell.registry.members(ServiceKind::Compute).known().await;
        cell
    }

    pub async fn register(&mut self, host: &str) {
        let endpoint = Endpoint {
            service: ServiceKind::Compute,
            host: HostName::parse(host).unwrap(),
            addr: "127.0.0.1:1".into(),
            zone: ZoneName::parse("z").unwrap(),
            minor: 0,
            authority: None,
        };
        let registered = self.registry.register(endpoint, RegistryOptions::default()).await;
        self.registrations.push(registered.unwrap());
    }

    pub async fn conductor(&self, name: &str) -> Conductor {
        let config = Config {
            shard_ttl: Period::from_secs(1),
            resend_interval: Period::from_millis(200),
            registration_grace: Period::from_millis(0),
            ..Default::default()
        };
        self.conductor_with(name, config).await
    }

    pub async fn conductor_with(&self, name: &str, config: Config) -> Conductor {
        let tasks = Tasks::new(name.to_owned());
        let name = HostName::parse(name).unwrap();
        let config = Arc::new(config);
        let db = Db { store: self.store.clone(), keys: Keys::new(&CellName::parse(CELL).unwrap()) };
        let records = Records::<InstanceRecord>::follow("instances", &db, &tasks);
        self.hosts.world.lock().records = Some(records.clone());
        let (gained, mut gained_rx) = mpsc::channel(1);
        let (_, epochs) = watch::channel(Epoch(1));
        let ttl = config.shard_ttl.get();
        let identity = StoreIdentity::new(db.clone());
        tasks.spawn("store identity", identity.clone().follow(Readiness::new()));
        let shards = Shards::join(db.clone(), identity.clone(), name.clone(), epochs, ttl, gained, &tasks);
        let lanes = Arc::new(Lanes::default());
        let groups = Groups::follow(&db, &tasks);
        let members = self.registry.members(ServiceKind::Compute);
        let id_of = |key| if let Key::Host(service, host) = key { Some((service, host)) } else { None };
        let hosts = Cache::follow("hosts", &db.store, &db.keys, db.keys.all_hosts(), id_of, &tasks);
        let fences = Fences::follow(&db, identity, &tasks);
        let reach = Reach { db: db.clone(), service: ServiceKind::Compute, members, hosts, fences };
        let engine = Engine::new(
            records.clone(),
            self.hosts.clone(),
            reach.clone(),
            shards.clone(),
            config.clone(),
            name.clone(),
            lanes.clone(),
            groups.clone(),
        );
        let queue = engine.run(&tasks);
        tasks.spawn("gained", async move {
            while gained_rx.recv().await.is_some() {
                engine.nudge_all(&queue, Priority::Repair, |_| true);
            }
        });
        records.cache.filled().await;
        shards.settled().await;
        let acceptor = Acceptor::new(db, config.clone(), lanes, &tasks);
        Conductor { name, tasks, records, groups, acceptor, shards, reach, config }
    }
}

impl Conductor {
    pub async fn create(&self, request_id: &str, count: u32) -> Result<Vec<InstanceId>, Error> {
        self.create_in(request_id, count, None).await
    }

    pub async fn create_in(
        &self,
        request_id: &str,
        count: u32,
        group: Option<ServerGroupId>,
    ) -> Result<Vec<InstanceId>, Error> {
        let server_group_id = group.map(|id| id.to_string()).unwrap_or_default();
        let hints = Some(pb::SchedulerHints { server_group_id, ..Default::default() });
        let spec = pb::InstanceSpec { name: "vm".into(), hints, ..Default::default() };
        let request = Request::new("BuildInstances", "demo", request_id, &spec)?;
        let flavor = pb::Flavor { vcpus: 1, ram_mib: 512, ..Default::default() };
        let acceptance = Acceptance { conductor: self.name.as_str(), arrived: SystemTime::now(), request_id };
        let new = requests::new_instances(&spec, count, "demo", &flavor, &pb::Image::default(), acceptance);
        let group = group.map(|id| (&self.groups, id));
        let entries = self.acceptor.create_in(&request, &self.records, new, group, false).await?;
        Ok(entries.iter().map(|entry| entry.record.resource().id.parse().unwrap()).collect())
    }

    pub async fn delete(&self, id: InstanceId) -> Result<(), Error> {
        let named = Named { id, project: "demo", etag: "" };
        let acceptance =
            Acceptance { conductor: self.name.as_str(), arrived: SystemTime::now(), request_id: "" };
        let timeout = self.config.delete_timeout.get();
        requests::delete(&self.records, named, false, timeout, acceptance, &Unguarded).await.map(drop)
    }

    pub async fn operate(&self, id: InstanceId, kind: Kind, request_id: &str) -> Result<pb::Instance, Error> {
        let request = Request::new("Operate", "demo", request_id, &pb::Instance::default())?;
        let named = Named { id, project: "demo", etag: "" };
        let acceptance = Acceptance { conductor: self.name.as_str(), arrived: SystemTime::now(), request_id };
        let operation = Operation { kind: kind.into(), ..Default::default() };
        let timeout = self.config.operation_timeout.get();
        let asked = Power { operation, vouched_hosts: &[], reach: &self.reach, timeout, acceptance };
        let entry = change_once(&self.acceptor, &request, &self.records, named, &asked).await?;
        Ok(entry.record.resource().clone())
    }

    /// Cut at once, as by a crash: nothing is released, the lease runs out.
    pub async fn die(&self) {
        let _ = tokio::time::timeout(Duration::ZERO, self.tasks.shutdown(Duration::ZERO)).await;
    }

    /// Waits until the record, as this conductor has it, is as wished.
    pub async fn until(&self, id: InstanceId, wished: impl Fn(&pb::Instance) -> bool) -> Arc<InstanceRecord> {
        let start = tokio::time::Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(entry) = self.records.cache.get(&id)
                && wished(entry.record.resource())
            {
                return entry.record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{id} never became as wished: {:?}", self.records.cache.get(&id));
    }

    pub async fn used(&self) -> pb::QuotaUsage {
        let project = "demo".parse().unwrap();
        self.acceptor.usage(&project).await.unwrap().record.usage.unwrap_or_default()
    }
}

/// Looks until there is a value.
pub async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(value) = look() {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
