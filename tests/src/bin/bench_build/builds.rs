//! Builds to ACTIVE, as many at once as said: each who asks waits until a watch shows his instance ACTIVE, and asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::CellName;
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::watch_instances_response::Event;
use kilonova_proto::types::v1::instance::State;
use kilonova_store::Store;
use kilonova_tests::measure::{Counting, cpu, line, millis, quantile, rounded};
use kilonova_tests::{Api, Backing, Cluster, Plan};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Size;

/// Hosts.
const HOSTS: usize = 100;

/// One cell of many hosts without a driver's delay.
pub fn plan(backing: Backing) -> Plan {
    let mut plan = Plan { conductors: 1, schedulers: 1, computes: HOSTS, volumes: 0, ..Plan::new(backing) };
    plan.compute.driver.latency = Duration::ZERO.into();
    plan.compute.driver.latency_jitter = Duration::ZERO.into();
    plan.compute.driver.vcpus = 100_000;
    plan.compute.driver.ram_mib = 1_000_000_000;
    plan.compute.driver.disk_gib = 1_000_000_000;
    plan.compute.max_concurrent_builds = 1_000;
    plan.scheduler.heartbeat = kilonova_scheduler::Config::default().heartbeat;
    plan
}

/// Measures all settings on one cell.
pub async fn measure(backing: Backing, size: Size) {
    let Some((store, _process)) = backing.open().await else { return };
    let counting = Counting::new(store);
    let cell = CellName::parse("bench").expect("a cell name");
    let cluster = Cluster::over(plan(backing), counting.clone(), cell).await;
    let api = cluster.api();
    api.seed().await;
    let seen = Arc::new(Seen::default());
    let watching = watch(api.clone(), seen.clone());
    let measuring = async {
        // Connections are made and memories filled.
        window(&api, &seen, 32, Duration::from_secs(1)).await;
        for in_flight in [1, 100, 1_000] {
            run(&api, &seen, &counting, size, in_flight).await;
        }
    };
    tokio::select! {
        () = watching => panic!("the watch ended"),
        () = measuring => {}
    }
    cluster.shutdown().await;
}

async fn run(api: &Api, seen: &Seen, counting: &Counting, size: Size, in_flight: usize) {
    let (used, asked, start) = (cpu(), counting.asked(), Instant::now());
    let (mut accepted, mut active): (Vec<Duration>, Vec<Duration>) =
        window(api, seen, in_flight, size.window).await.into_iter().unzip();
    let (wall, used, asked) = (start.elapsed(), cpu() - used, counting.asked().since(asked));
    let count = active.len() as f64;
    let per = |n: u64| rounded(n as f64 / count);
    let p99 = quantile(&mut active, 0.99);
    line(
        "builds to ACTIVE, from the request to the watch that shows it",
        json!({
            "store": counting.name(),
            "hosts": HOSTS,
            "in_flight": in_flight,
            "builds": active.len(),
            "builds_per_s": (count / wall.as_secs_f64()).round(),
            "accepted_p50_ms": millis(quantile(&mut accepted, 0.5)),
            "active_p50_ms": millis(quantile(&mut active, 0.5)),
            "active_p99_ms": millis(p99),
            "cpu_ms_per_build": rounded(used.as_secs_f64() * 1e3 / count),
            "store_commits_per_build": per(asked.commits),
            "store_conflicts_per_build": per(asked.conflicts),
            "store_reads_per_build": per(asked.gets),
            "must": "embedded, 100 in flight: builds_per_s >= 500, active_p99_ms <= 500",
            "aim": "embedded, 100 in flight: builds_per_s >= 4000, active_p99_ms <= 100",
        }),
    );
}

/// For each build of a window: until it was accepted, and until it was ACTIVE.
async fn window(api: &Api, seen: &Seen, in_flight: usize, window: Duration) -> Vec<(Duration, Duration)> {
    let start = Instant::now();
    let loops = (0..in_flight).map(|_| async {
        let mut times = Vec::new();
        while start.elapsed() < window {
            let asked = Instant::now();
            let id = api.create("bench", "small", 1).await.expect("accepted").remove(0);
            let accepted = asked.elapsed();
            let active = seen.wait(id).await;
            times.push((accepted, active.saturating_duration_since(asked)));
        }
        times
    });
    join_all(loops).await.into_iter().flatten().collect()
}

/// Which instances were seen ACTIVE, and who waits for that.
#[derive(Default)]
struct Seen(Mutex<HashMap<String, Waits>>);

enum Waits {
    /// Seen before anybody asked.
    Seen(Instant),
    For(oneshot::Sender<Instant>),
    Over,
}

impl Seen {
    fn active(&self, id: String) {
        let now = Instant::now();
        let mut all = self.0.lock();
        match all.insert(id.clone(), Waits::Over) {
            None => drop(all.insert(id, Waits::Seen(now))),
            Some(Waits::For(waiting)) => drop(waiting.send(now)),
            Some(before) => drop(all.insert(id, before)),
        }
    }

    async fn wait(&self, id: String) -> Instant {
        let (sender, receiver) = oneshot::channel();
        {
            let mut all = self.0.lock();
            if let Some(Waits::Seen(when)) = all.insert(id.clone(), Waits::For(sender)) {
                all.insert(id, Waits::Over);
                return when;
            }
        }
        let seen = tokio::time::timeout(Duration::from_secs(60), receiver).await;
        seen.expect("ACTIVE in time").expect("the watch goes on")
    }
}

async fn watch(api: Api, seen: Arc<Seen>) {
    let request = api::WatchInstancesRequest { states: vec![State::Active.into()], ..Default::default() };
    let mut events = api.instances().watch_instances(request).await.expect("a watch").into_inner();
    while let Some(message) = events.message().await.expect("an event") {
        if let Some(Event::Update(instance) | Event::Snapshot(instance)) = message.event {
            seen.active(instance.id);
        }
    }
}
