//! One run: a cell of its own, one row, at most one fault, and the checker's verdict.

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kilonova_model::CellName;
use kilonova_runtime::config::Period;
use kilonova_store::SharedStore;
use kilonova_tests::checker::{self, Capacity, Expected, Violation, World};
use kilonova_tests::points::{Point, Points};
use kilonova_tests::user::User;
use kilonova_tests::waiting::at_this_pace;
use kilonova_tests::{Backing, Cluster, Plan, journal};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::hand::{Hand, OwnStore, act};
use crate::outages::Outages;
use crate::rows::Row;

/// How long what is asked may take, and then the cell to come to rest.
const SETTLE: Duration = Duration::from_secs(120);
/// How long a user asks for one thing.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long what is there before may take.
const PREPARE: Duration = Duration::from_secs(90);
/// How long a host may be away before anybody can know, on a machine of the usual pace: less than its lease.
const UNNOTICED: Duration = Duration::from_secs(1);
/// How long a member's registration outlives it, on a machine of the usual pace.
const REGISTRY_TTL: Duration = Duration::from_secs(2);

/// Where a run has its cell.
pub struct Site {
    /// The store.
    pub store: SharedStore,
    /// The cell.
    pub cell: CellName,
    /// The store once more, if nobody else has it.
    pub own: Option<OwnStore>,
}

/// How a run ended.
pub struct Ended {
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// Whether the fault was met.
    pub hit: bool,
    /// How many of each place there were.
    pub counts: std::collections::BTreeMap<kilonova_tests::points::Place, usize>,
    /// How long it took from the first request until all was at rest.
    pub took: Duration,
    /// For a failure: what was counted, and the records.
    pub story: String,
}

fn plan(backing: Backing, row: &Row, points: Arc<Points>) -> Plan {
    let mut plan = Plan::new(backing);
    (plan.schedulers, plan.volumes) = (1, 2);
    plan.registry_ttl = Some(at_this_pace(REGISTRY_TTL));
    plan.points = Some(points);
    let conductor = &mut plan.conductor;
    conductor.resend_interval = Period::from_millis(500);
    conductor.scan_interval = Period::from_secs(2);
    conductor.build_timeout = Period::from(at_this_pace(Duration::from_secs(15)));
    // Long enough for a host that was killed to be back, with sixteen cells on one machine.
    conductor.operation_timeout = Period::from(at_this_pace(Duration::from_secs(30)));
    conductor.delete_timeout = Period::from(at_this_pace(Duration::from_secs(15)));
    conductor.leave_timeout = Period::from(at_this_pace(Duration::from_secs(15)));
    conductor.gone_after = Period::from(at_this_pace(Duration::from_secs(10)));
    plan.volume.driver.latency = Period::from_millis(5);
    plan.volume.driver.latency_jitter = Period::from_millis(5);
    (row.adjust)(&mut plan);
    plan
}

/// Runs one row with one fault, or without.
pub async fn run(row: Row, point: Option<Point>, backing: Backing, ground: Site) -> Ended {
    let Site { store, cell, mut own } = ground;
    let (points, mut crashes) = Points::new();
    let plan = plan(backing, &row, points.clone());
    let capacity = Capacity::of(&plan);
    let mut cluster = Cluster::over(plan, store, cell.clone()).await;
    let api = cluster.api();
    api.seed().await;
    let user = User::new(vec![api], PATIENCE);
    let outages = Outages::default();
    let (hand, mut deeds) = Hand::new(outages.clone());
    let (start_again, mut starts) = mpsc::unbounded_channel();
    let judge = Judge {
        user: user.clone(),
        points: points.clone(),
        outages: outages.clone(),
        capacity,
        rests: row.rests,
        cell,
        dir: cluster.dir().to_owned(),
    };
    let stores = watch::Sender::new(cluster.shared_store());
    let (mut work, begun, store) = (JoinSet::new(), Arc::new(OnceLock::new()), stores.subscribe());
    let (armed, begins) = (points.clone(), begun.clone());
    work.spawn(async move {
        let prepared = timeout(PREPARE, (row.prepare)(user.clone(), hand.clone())).await;
        let ids = prepared.expect("what is there before comes to be");
        armed.arm(point);
        let _ = begins.set(Instant::now());
        let acted = timeout(at_this_pace(SETTLE), (row.act)(user, ids, hand)).await;
        acted.expect("what is asked comes to an end");
        judge.until_at_rest(store).await
    });
    let mut starting = false;
    let ended = loop {
        tokio::select! {
            ended = work.join_next() => break ended.expect("it was spawned"),
            Some((kind, host)) = crashes.recv() => {
                outages.begin(&host);
                cluster.kill(kind, &host);
                start_again.send((kind, host)).expect("the run goes on");
            }
            Some(deed) = deeds.recv() => {
                if let Some(agent) = act(deed, &mut cluster, &mut own, &outages).await {
                    start_again.send(agent).expect("the run goes on");
                }
                stores.send_replace(cluster.shared_store());
            }
            Some((kind, host)) = starts.recv() => {
                outages.start(&host);
                cluster.launch(kind, &host).await;
                starting = true;
            }
            () = cluster.ready(), if starting => {
                outages.end();
                starting = false;
            }
        }
    };
    let took = begun.get().map(Instant::elapsed).unwrap_or_default();
    let (violations, records) = match ended {
        Ok(ended) => ended,
        Err(panic) => {
            let cause = panic.try_into_panic().map_or_else(|error| error.to_string(), said);
            (vec![Violation { rule: "acknowledged", subject: row.name.to_owned(), cause }], String::new())
        }
    };
    let story = format!("{}\n{records}", points.trace().join("\n"));
    Ended { violations, hit: points.hit(), counts: points.counts(), took, story }
}

/// What a panic says.
fn said(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// Asks the checker.
struct Judge {
    user: User,
    points: Arc<Points>,
    outages: Outages,
    capacity: Capacity,
    /// Whether the cell comes to rest; otherwise only what must hold at every moment is judged.
    rests: bool,
    cell: CellName,
    dir: PathBuf,
}

impl Judge {
    /// Waits until nothing is on its way, and gives what is wrong then, with the records that show it.
    async fn until_at_rest(&self, store: watch::Receiver<SharedStore>) -> (Vec<Violation>, String) {
        let start = Instant::now();
        loop {
            let (lines, store) = (journal::read_all(&self.dir), store.borrow().clone());
            let world = match World::read(&store, self.cell.as_str(), lines).await {
                Ok(world) => world,
                Err(error) => {
                    assert!(start.elapsed() < at_this_pace(SETTLE), "the store cannot be read: {error}");
                    continue;
                }
            };
            let on_its_way = self.points.waits() || self.outages.go_on();
            let expected = Expected {
                wanted: self.user.wanted(),
                complete: true,
                capacity: self.capacity,
                outages: self.outages.all(),
                // A member that was killed does nothing more of what it was doing.
                aftermath: Duration::ZERO,
                unnoticed: UNNOTICED,
                kept_since: self.outages.kept_since(),
                is_set_back: self.outages.is_set_back(),
            };
            let settles = !self.rests || checker::settling(&world, &expected).is_empty();
            if (settles && !on_its_way) || start.elapsed() > at_this_pace(SETTLE) {
                let violations = match self.rests {
                    true => checker::check(&world, &expected),
                    false => checker::lasting(&world, &expected),
                };
                let story = if violations.is_empty() { String::new() } else { story(&world) };
                return (violations, story);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// All there is, for whoever looks for the cause.
fn story(world: &World) -> String {
    let mut lines = Vec::new();
    for (id, record) in &world.instances {
        lines.push(format!("instance {id} ({} bytes): {record:#?}", record.encoded_len()));
    }
    for (id, record) in &world.volumes {
        lines.push(format!("volume {id}: {record:#?}"));
    }
    for event in &world.events {
        let line = &event.line;
        lines.push(format!(
            "{} {} {} {} {}.{} {}",
            line.time, line.host, line.op, line.id, line.generation, line.attempt, line.detail
        ));
    }
    lines.join("\n")
}
