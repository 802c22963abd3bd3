//! One run: a cell of its own, one row, at most one fault, and the checker's verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::CellName;
use kilonova_runtime::config::Period;
use kilonova_store::SharedStore;
use kilonova_tests::checker::{self, Capacity, Expected, Violation, World};
use kilonova_tests::points::{Point, Points};
use kilonova_tests::user::User;
use kilonova_tests::{Backing, Cluster, Plan, journal};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::away::{Outages, take_host_of};
use crate::rows::Row;

/// How long what is asked may take, and then the cell to come to rest.
const SETTLE: Duration = Duration::from_secs(60);
/// How long a user asks for one thing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long what is there before may take.
const PREPARE: Duration = Duration::from_secs(30);
/// How long after a crash something that was decided during it may still be done.
const AFTERMATH: Duration = Duration::from_secs(5);

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
    plan.registry_ttl = Some(Duration::from_secs(2));
    plan.points = Some(points);
    let conductor = &mut plan.conductor;
    conductor.shard_ttl = Period::from_secs(2);
    conductor.resend_interval = Period::from_millis(500);
    conductor.scan_interval = Period::from_secs(2);
    conductor.build_timeout = Period::from_secs(15);
    // Long enough for a host that was killed to be back, with sixteen cells on one machine.
    conductor.operation_timeout = Period::from_secs(30);
    conductor.delete_timeout = Period::from_secs(15);
    plan.volume.driver.latency = Period::from_millis(5);
    plan.volume.driver.latency_jitter = Period::from_millis(5);
    (row.adjust)(&mut plan);
    plan
}

/// Runs one row with one fault, or without.
pub async fn run(
    row: Row,
    point: Option<Point>,
    backing: Backing,
    store: SharedStore,
    cell: CellName,
) -> Ended {
    let (points, mut crashes) = Points::new();
    let plan = plan(backing, &row, points.clone());
    let capacity = Capacity::of(&plan);
    let mut cluster = Cluster::over(plan, store.clone(), cell.clone()).await;
    let api = cluster.api();
    api.seed().await;
    let user = User::new(vec![api], PATIENCE);
    let prepared = timeout(PREPARE, (row.prepare)(user.clone())).await;
    let ids = prepared.unwrap_or_else(|_| panic!("{}: what is there before is not there", row.name));
    let outages = Outages::default();
    let (start_again, mut starts) = mpsc::unbounded_channel();
    let mut away = None;
    if row.host_leaves {
        away = Some((start_again.clone(), take_host_of(&ids[0], &mut cluster, &outages).await));
    }
    points.arm(point);
    let start = Instant::now();
    let judge = Judge {
        user: user.clone(),
        points: points.clone(),
        outages: outages.clone(),
        capacity,
        store,
        cell,
        dir: cluster.dir().to_owned(),
    };
    let mut work = JoinSet::new();
    work.spawn(async move {
        let acted = timeout(SETTLE, (row.act)(user, ids)).await;
        acted.expect("what is asked comes to an end");
        if let Some((back, host)) = away {
            back.send(host).expect("the run goes on");
        }
        judge.until_at_rest().await
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
    let took = start.elapsed();
    let (violations, records) = match ended {
        Ok(ended) => ended,
        Err(panic) => {
            let violation =
                Violation { rule: "acknowledged", subject: row.name.to_owned(), cause: panic.to_string() };
            (vec![violation], String::new())
        }
    };
    let story = format!("{}\n{records}", points.trace().join("\n"));
    Ended { violations, hit: points.hit(), counts: points.counts(), took, story }
}

/// Asks the checker.
struct Judge {
    user: User,
    points: Arc<Points>,
    outages: Outages,
    capacity: Capacity,
    store: SharedStore,
    cell: CellName,
    dir: PathBuf,
}

impl Judge {
    /// Waits until nothing is on its way, and gives what is wrong then, with the records that show it.
    async fn until_at_rest(&self) -> (Vec<Violation>, String) {
        let start = Instant::now();
        loop {
            let lines = journal::read_all(&self.dir);
            let world = match World::read(&self.store, self.cell.as_str(), lines).await {
                Ok(world) => world,
                Err(error) => {
                    assert!(start.elapsed() < SETTLE, "the store cannot be read: {error}");
                    continue;
                }
            };
            let outages = self.outages.all();
            let on_its_way = self.points.waits() || outages.iter().any(|outage| outage.until.is_none());
            let expected = Expected {
                wanted: self.user.wanted(),
                complete: true,
                capacity: self.capacity,
                outages,
                aftermath: AFTERMATH,
                ..Expected::default()
            };
            let settling = checker::settling(&world, &expected);
            if (settling.is_empty() && !on_its_way) || start.elapsed() > SETTLE {
                let violations = checker::check(&world, &expected);
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
