//! The accept path, the shards and the engine over the embedded store, with agents that the tests play.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_conductor::Config;
use kilonova_conductor::accept::{Acceptor, Lanes, Request};
use kilonova_conductor::agents::{Agents, Selected};
use kilonova_conductor::db::Db;
use kilonova_conductor::engine::Engine;
use kilonova_conductor::expiry::forget;
use kilonova_conductor::placed::Placed;
use kilonova_conductor::records::{Records, Written};
use kilonova_conductor::reports::{self, Report};
use kilonova_conductor::requests::{self, Acceptance, Named};
use kilonova_conductor::shards::Shards;
use kilonova_model::{CellName, Epoch, Error, HostName, InstanceId, Reason, ServiceKind, ZoneName};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Receipt, ReportStatus};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::registry::{Endpoint, Registration, Registry, RegistryOptions};
use kilonova_rpc::status::to_status;
use kilonova_runtime::config::Period;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::keys::Keys;
use kilonova_store::{SharedStore, Txn};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// The scheduler and the hosts: what they were asked, and how they answer.
#[derive(Clone, Default)]
struct Hosts {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    names: Vec<String>,
    /// Every build taken, by instance and host.
    builds: Vec<(InstanceId, String, u32)>,
    terminated: Vec<(InstanceId, String)>,
    /// Hosts that refuse a build.
    refusing: BTreeSet<String>,
    /// Hosts that never report.
    silent: BTreeSet<String>,
    /// Hosts that do not take a removal.
    deaf: BTreeSet<String>,
    /// Conductors' memories to report to.
    records: Option<Records<InstanceRecord>>,
}

impl Hosts {
    fn report(&self, id: InstanceId, host: &str, generation: u64, attempt: u32, status: ReportStatus) {
        let world = self.world.lock();
        let (Some(records), false) = (world.records.clone(), world.silent.contains(host)) else { return };
        let (host, fault, steps) = (host.to_owned(), None, Vec::new());
        let report = Report { id, host, generation, attempt, status, fault, steps };
        TASKS.with(|tasks| {
            tasks.spawn("report", async move {
                reports::enter(&records, report, |_| false).await.unwrap();
            })
        });
    }
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
    ) -> Result<Selected, CallError> {
        let names = self.world.lock().names.clone();
        let free = names.into_iter().filter(|name| !record.tried().contains(name));
        let place = |host| Alternate { host, ..Default::default() };
        let places: Vec<Alternate> = free.take(alternates as usize + 1).map(place).collect();
        let summary = if places.is_empty() { "no valid host: none left".to_owned() } else { String::new() };
        Ok(Selected { places, explanation: pb::PlacementExplanation { summary, ..Default::default() } })
    }

    async fn build(&self, id: InstanceId, record: &InstanceRecord, _: Epoch) -> Result<(), CallError> {
        let status = record.status();
        {
            let mut world = self.world.lock();
            if world.refusing.contains(&status.host) {
                let refusal = Error::new(Reason::ClaimRefused, "no room");
                return Err(classify(to_status(&refusal)));
            }
            world.builds.push((id, status.host.clone(), status.attempt));
        }
        self.report(id, &status.host, status.generation, status.attempt, ReportStatus::Ready);
        Ok(())
    }

    async fn terminate(
        &self,
        id: InstanceId,
        record: &InstanceRecord,
        receipt: &Receipt,
        _: Epoch,
    ) -> Result<(), CallError> {
        if self.world.lock().deaf.contains(&receipt.host) {
            return Err(classify(to_status(&Error::new(Reason::ConnectFailed, "not reached"))));
        }
        self.world.lock().terminated.push((id, receipt.host.clone()));
        let generation = record.status().generation;
        self.report(id, &receipt.host, generation, receipt.attempt, ReportStatus::Gone);
        Ok(())
    }
}

/// One conductor without its gRPC face.
struct Conductor {
    name: HostName,
    tasks: Tasks,
    records: Records<InstanceRecord>,
    acceptor: Acceptor,
    shards: Shards,
    config: Arc<Config>,
}

struct Cell {
    store: SharedStore,
    registry: Registry,
    hosts: Hosts,
    registrations: Vec<Registration>,
}

const CELL: &str = "test";

impl Cell {
    async fn new(hosts: &[&str]) -> Self {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
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

    async fn register(&mut self, host: &str) {
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

    async fn conductor(&self, name: &str) -> Conductor {
        let config = Config {
            shard_ttl: Period::from_secs(1),
            resend_interval: Period::from_millis(200),
            ..Default::default()
        };
        self.conductor_with(name, config).await
    }

    async fn conductor_with(&self, name: &str, config: Config) -> Conductor {
        let tasks = Tasks::new(name.to_owned());
        let name = HostName::parse(name).unwrap();
        let config = Arc::new(config);
        let db = Db { store: self.store.clone(), keys: Keys::new(&CellName::parse(CELL).unwrap()) };
        let records = Records::<InstanceRecord>::follow("instances", &db, &tasks);
        self.hosts.world.lock().records = Some(records.clone());
        let (gained, mut gained_rx) = mpsc::channel(1);
        let (_, epochs) = watch::channel(Epoch(1));
        let ttl = config.shard_ttl.get();
        let shards = Shards::join(db.clone(), name.clone(), epochs, ttl, gained, &tasks);
        let lanes = Arc::new(Lanes::default());
        let engine = Engine::new(
            records.clone(),
            self.hosts.clone(),
            self.registry.members(ServiceKind::Compute),
            shards.clone(),
            config.clone(),
            name.clone(),
            lanes.clone(),
        );
        let queue = engine.run(&tasks);
        tasks.spawn("gained", async move {
            while gained_rx.recv().await.is_some() {
                engine.nudge_all(&queue, |_| true);
            }
        });
        records.cache.filled().await;
        shards.settled().await;
        let acceptor = Acceptor::new(db, config.clone(), lanes);
        Conductor { name, tasks, records, acceptor, shards, config }
    }
}

impl Conductor {
    async fn create(&self, request_id: &str, count: u32) -> Result<Vec<InstanceId>, Error> {
        let spec = pb::InstanceSpec { name: "vm".into(), ..Default::default() };
        let request = Request::new("BuildInstances", "demo", request_id, &spec)?;
        let flavor = pb::Flavor { vcpus: 1, ram_mib: 512, ..Default::default() };
        let acceptance = Acceptance { conductor: self.name.as_str(), arrived: SystemTime::now(), request_id };
        let new = requests::new_instances(&spec, count, "demo", &flavor, &pb::Image::default(), acceptance);
        let entries = self.acceptor.create(&request, &self.records, new, false).await?;
        Ok(entries.iter().map(|entry| entry.record.resource().id.parse().unwrap()).collect())
    }

    async fn delete(&self, id: InstanceId) -> Result<(), Error> {
        let named = Named { id, project: "demo", etag: "" };
        let acceptance =
            Acceptance { conductor: self.name.as_str(), arrived: SystemTime::now(), request_id: "" };
        let timeout = self.config.delete_timeout.get();
        requests::delete(&self.records, named, false, timeout, acceptance, |_| Ok(())).await.map(drop)
    }

    /// Waits until the record, as this conductor has it, is as wished.
    async fn until(&self, id: InstanceId, wished: impl Fn(&pb::Instance) -> bool) -> Arc<InstanceRecord> {
        for _ in 0..2_000 {
            if let Some(entry) = self.records.cache.get(&id)
                && wished(entry.record.resource())
            {
                return entry.record;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{id} never became as wished: {:?}", self.records.cache.get(&id));
    }

    async fn used(&self) -> pb::QuotaUsage {
        let project = "demo".parse().unwrap();
        self.acceptor.usage(&project).await.unwrap().record.usage.unwrap_or_default()
    }
}

/// Looks until there is a value.
async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    for _ in 0..2_000 {
        if let Some(value) = look() {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_built_once_and_deleted_without_a_trace() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("r1", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    assert_eq!(cell.hosts.world.lock().builds.len(), 1);
    let steps: Vec<&str> = record.actions[0].steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["accept", "schedule", "build"]);
    assert_eq!(conductor.used().await.instances, 1);

    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert!(record.receipts.is_empty() && !record.counted);
    assert_eq!(conductor.used().await, pb::QuotaUsage::default());
    assert_eq!(conductor.delete(id).await.unwrap_err().reason, Reason::InstanceNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_accepted_once_however_often_and_wherever_it_arrives() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let (a, b, c) = tokio::join!(one.create("same", 2), two.create("same", 2), one.create("same", 2));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!((a.len(), &a, &a), (2, &b, &c));
    assert_eq!(one.used().await.instances, 2);
    let other = Request::new("BuildInstances", "demo", "same", &pb::InstanceSpec::default()).unwrap();
    assert_eq!(one.acceptor.replay(&other).await.unwrap_err().reason, Reason::RequestIdReused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_against_concurrent_requests_on_two_conductors() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let requests = (0..30).map(|n| {
        let conductor = if n % 2 == 0 { &one } else { &two };
        async move { conductor.create("", 1).await }
    });
    let answers = futures::future::join_all(requests).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 10, "the default quota is 10 instances");
    assert!(answers.iter().filter_map(|a| a.as_ref().err()).all(|e| e.reason == Reason::QuotaExceeded));
    assert_eq!(one.used().await.instances, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_build_lands_elsewhere_and_ends_in_error_when_no_host_takes_it() {
    let cell = Cell::new(&["h1", "h2", "h3", "h4"]).await;
    let conductor = cell.conductor("c1").await;
    cell.hosts.world.lock().refusing = ["h1"].map(str::to_owned).into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Active).await;
    let instance = record.resource();
    assert_eq!((instance.host.as_str(), instance.attempt), ("h2", 2));
    assert_eq!(instance.failed_attempts[0].host, "h1");

    cell.hosts.world.lock().refusing = ["h1", "h2", "h3", "h4"].map(str::to_owned).into();
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Error).await;
    let instance = record.resource();
    let tried: Vec<&str> = instance.failed_attempts.iter().map(|fault| fault.host.as_str()).collect();
    assert_eq!(tried, ["h1", "h2", "h3"]);
    assert_eq!(instance.fault.as_ref().unwrap().reason, "MAX_ATTEMPTS_EXCEEDED");
    assert!(record.receipts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_ends_in_error_with_the_explanation() {
    let cell = Cell::new(&[]).await;
    let conductor = cell.conductor("c1").await;
    let id = conductor.create("", 1).await.unwrap()[0];
    let record = conductor.until(id, |i| i.state() == State::Error).await;
    let fault = record.resource().fault.clone().unwrap();
    assert_eq!(
        (fault.reason.as_str(), fault.message.as_str()),
        ("NO_VALID_HOST", "no valid host: none left")
    );
    assert!(fault.explanation.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_never_reported_is_tried_elsewhere_and_cleaned_up() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let config = Config {
        build_timeout: Period::from_millis(300),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active && i.host == "h2").await;
    cell.hosts.world.lock().silent.clear();
    let one_receipt = || (conductor.records.cache.get(&id)?.record.receipts.len() == 1).then_some(());
    eventually("the first host holds nothing more", one_receipt).await;
    assert!(cell.hosts.world.lock().terminated.contains(&(id, "h1".to_owned())));
    assert_eq!(conductor.records.cache.get(&id).unwrap().record.receipts[0].host, "h2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_conductors_work_is_finished_by_the_other() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let one = cell.conductor("c1").await;
    cell.hosts.world.lock().silent = ["h1", "h2"].map(str::to_owned).into();
    let ids = one.create("", 8).await.unwrap();
    for id in &ids {
        one.until(*id, |i| !i.host.is_empty()).await;
    }
    // Cut at once, as by a crash: nothing is released, the lease runs out.
    let _ = tokio::time::timeout(Duration::ZERO, one.tasks.shutdown(Duration::ZERO)).await;
    cell.hosts.world.lock().silent.clear();
    let two = cell.conductor("c2").await;
    for id in &ids {
        two.until(*id, |i| i.state() == State::Active).await;
    }
    let mut hosts_of: BTreeMap<InstanceId, BTreeSet<String>> = BTreeMap::new();
    for (id, host, _) in &cell.hosts.world.lock().builds {
        hosts_of.entry(*id).or_default().insert(host.clone());
    }
    assert!(hosts_of.values().all(|hosts| hosts.len() == 1), "{hosts_of:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shared_and_an_old_owners_write_is_refused() {
    let cell = Cell::new(&["h1"]).await;
    let one = cell.conductor("c1").await;
    let id = one.create("", 1).await.unwrap()[0];
    let record = one.until(id, |i| i.state() == State::Active).await;
    let fence = one.shards.fence(&id).expect("a lone conductor owns every shard");
    // The key is taken away and taken again, as after an expired lease.
    cell.store.txn(Txn::new().delete(fence.key.clone())).await.unwrap();
    cell.store.txn(Txn::new().put(fence.key.clone(), "")).await.unwrap();
    let entry = one.records.read(id).await.unwrap().unwrap();
    let written = one
        .records
        .write(id, &entry, InstanceRecord::clone(&record), Some(&fence), Txn::new())
        .await
        .unwrap();
    assert!(matches!(written, Written::Fenced));
    // Once the foreign key is gone the shard is taken again, and the record is driven under a new right.
    cell.store.txn(Txn::new().delete(fence.key.clone())).await.unwrap();
    let again = eventually("the shard is taken again", || one.shards.fence(&id)).await;
    assert!(again.revision > fence.revision);
    one.delete(id).await.unwrap();
    one.until(id, |i| i.state() == State::Deleted).await;

    let two = cell.conductor("c2").await;
    eventually("all shards are shared", || {
        let (one, two) = (one.shards.owned(), two.shards.owned());
        (one + two == 256 && one > 64 && two > 64).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_overtakes_a_build() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| !i.host.is_empty()).await;
    cell.hosts.world.lock().silent.clear();
    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(record.actions[0].outcome(), pb::Outcome::Superseded);
    assert_eq!(record.actions[1].outcome(), pb::Outcome::Succeeded);
    assert_eq!(cell.hosts.world.lock().terminated, [(id, "h1".to_owned())]);
    assert_eq!(cell.registrations.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_on_a_conductor_whose_memory_is_behind() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = one.create("", 1).await.unwrap()[0];
    two.until(id, |_| true).await;
    // From here on the second conductor hears of no change; it remembers the record as it was.
    two.tasks.shutdown(Duration::from_secs(1)).await;
    let placed = one.until(id, |i| i.host == "h1").await;
    let (host, fault, steps) = ("h1".to_owned(), None, Vec::new());
    let ready = Report { id, host, generation: 1, attempt: 1, status: ReportStatus::Ready, fault, steps };
    reports::enter(&two.records, ready.clone(), |_| false).await.unwrap();
    one.until(id, |i| i.state() == State::Active).await;

    one.delete(id).await.unwrap();
    one.until(id, |i| i.generation == 2).await;
    let gone = Report { generation: 2, status: ReportStatus::Gone, ..ready };
    reports::enter(&two.records, gone, |_| false).await.unwrap();
    one.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(placed.receipts.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_record_is_lost_among_two_conductors() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = one.create("", 1).await.unwrap()[0];
    one.until(id, |i| !i.host.is_empty()).await;
    let note = |conductor: &Conductor, key: String| {
        let records = conductor.records.clone();
        async move {
            let noted = records.modify(id, |entry| {
                let mut record = InstanceRecord::clone(&entry.record);
                let spec = record.instance.get_or_insert_default().spec.get_or_insert_default();
                spec.metadata.insert(key.clone(), String::new());
                Ok(Some(record))
            });
            // So many at once may be told to try again, and then nothing of it was done.
            noted.await.is_ok()
        }
    };
    let notes = (0..40).map(|n| note(if n % 2 == 0 { &one } else { &two }, format!("{n}")));
    let noted = futures::future::join_all(notes).await;
    let record = one.records.read(id).await.unwrap().unwrap().record;
    let kept = record.resource().spec.as_ref().unwrap().metadata.len();
    assert_eq!(kept, noted.iter().filter(|ok| **ok).count());
    assert!(kept > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_forgotten_when_its_time_is_over() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let first = conductor.create("again", 1).await.unwrap();
    assert_eq!(forget(&conductor.records.db, SystemTime::now()).await.unwrap(), 0);
    assert_eq!(conductor.create("again", 1).await.unwrap(), first);
    let tomorrow = SystemTime::now() + Duration::from_secs(25 * 3600);
    assert_eq!(forget(&conductor.records.db, tomorrow).await.unwrap(), 1);
    assert_ne!(conductor.create("again", 1).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_removal_does_not_keep_another_from_being_asked() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let config = Config {
        build_timeout: Period::from_millis(200),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    {
        let mut world = cell.hosts.world.lock();
        world.silent = ["h1".to_owned()].into();
        world.deaf = ["h1".to_owned()].into();
    }
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active && i.host == "h2").await;
    conductor.delete(id).await.unwrap();
    let asked = || cell.hosts.world.lock().terminated.contains(&(id, "h2".to_owned())).then_some(());
    eventually("the healthy host is asked", asked).await;
    {
        let mut world = cell.hosts.world.lock();
        world.silent.clear();
        world.deaf.clear();
    }
    conductor.until(id, |i| i.state() == State::Deleted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_away_for_a_delete_removes_its_copy_when_it_is_back() {
    let mut cell = Cell::new(&["h1"]).await;
    let config = Config {
        delete_timeout: Period::from_millis(200),
        resend_interval: Period::from_millis(200),
        ..Default::default()
    };
    let conductor = cell.conductor_with("c1", config).await;
    let id = conductor.create("", 1).await.unwrap()[0];
    conductor.until(id, |i| i.state() == State::Active).await;
    cell.registrations.remove(0).deregister().await.unwrap();
    conductor.delete(id).await.unwrap();
    let record = conductor.until(id, |i| i.state() == State::Deleted).await;
    assert_eq!(record.receipts.len(), 1, "the copy is not forgotten");
    assert_eq!(conductor.used().await, pb::QuotaUsage::default());
    assert!(cell.hosts.world.lock().terminated.is_empty());

    cell.register("h1").await;
    let cleaned = || conductor.records.cache.get(&id)?.record.receipts.is_empty().then_some(());
    eventually("the host that is back removes its copy", cleaned).await;
    assert_eq!(cell.hosts.world.lock().terminated, [(id, "h1".to_owned())]);
}
