//! What a call and a build cost. One JSON line a figure; ratios are against a baseline run in turn in this process.
//!
//! `make bench`, or `make bench ARGS=quick` for a short look.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::{CellName, HostName, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::base::v1::PingRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::Registry;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::{SharedStore, Store, Txn};
use kilonova_tests::{Backing, Cluster, Plan};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    calls: usize,
    builds: u32,
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let size = if quick {
        Size { rounds: 3, calls: 200, builds: 100 }
    } else {
        Size { rounds: 10, calls: 2_000, builds: 1_000 }
    };
    let mut plan = Plan::new(Backing::Embedded);
    plan.compute.driver.latency = Duration::ZERO.into();
    plan.compute.driver.latency_jitter = Duration::ZERO.into();
    plan.compute.driver.vcpus = 100_000;
    plan.compute.driver.ram_mib = 1_000_000_000;
    plan.compute.driver.disk_gib = 1_000_000_000;
    plan.compute.max_concurrent_builds = 1_000;
    let Some(cluster) = Cluster::start(plan).await else { return };
    calls(&cluster, size).await;
    builds(&cluster, size).await;
    cluster.shutdown().await;
}

fn line(figure: &str, values: Value) {
    println!("{}", json!({ "figure": figure, "values": values }));
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

/// A unary call, one in flight: through discovery, pool and deadlines, and over a plain tonic channel to the same server.
async fn calls(cluster: &Cluster, size: Size) {
    let store: SharedStore = cluster.shared_store();
    let registry = Registry::new(store, CellName::parse("test").expect("a cell name"));
    let caller = Caller::new(ServiceKind::Api, HostName::parse("bench").expect("a host name"));
    let peers = Peers::new(registry, caller, PeersOptions::default());
    let scheduler = HostName::parse("scheduler-1").expect("a host name");
    let mut ours = BaseServiceClient::new(peers.call_host(ServiceKind::Scheduler, &scheduler));
    let mut raw = BaseServiceClient::new(cluster.channel(ServiceKind::Scheduler, "scheduler-1"));
    let ping = || PingRequest { payload: "x".repeat(100) };
    let (mut our_times, mut raw_times) = (Vec::new(), Vec::new());
    for round in 0..=size.rounds {
        for _ in 0..size.calls {
            let start = Instant::now();
            ours.ping(ping()).await.expect("an answer");
            if round > 0 {
                our_times.push(start.elapsed());
            }
        }
        for _ in 0..size.calls {
            let start = Instant::now();
            raw.ping(ping()).await.expect("an answer");
            if round > 0 {
                raw_times.push(start.elapsed());
            }
        }
    }
    our_times.sort();
    raw_times.sort();
    let ratio = quantile(&our_times, 0.5).as_secs_f64() / quantile(&raw_times, 0.5).as_secs_f64();
    line(
        "call, one in flight",
        json!({
            "p50_us": micros(quantile(&our_times, 0.5)),
            "p99_us": micros(quantile(&our_times, 0.99)),
            "baseline": "plain tonic channel to the same server, rounds in turn",
            "baseline_p50_us": micros(quantile(&raw_times, 0.5)),
            "baseline_p99_us": micros(quantile(&raw_times, 0.99)),
            "p50_ratio": (ratio * 1000.0).round() / 1000.0,
        }),
    );
}

/// Instances to ACTIVE, against the store's own commits one after the other.
async fn builds(cluster: &Cluster, size: Size) {
    let api = cluster.api();
    api.seed().await;
    let commits = commits_per_second(size).await;

    let start = Instant::now();
    let id = api.create("one", "small", 1).await.expect("accepted").remove(0);
    let accepted = start.elapsed();
    api.until(&id, State::Active).await;
    line("one build", json!({ "accept_us": micros(accepted), "to_active_us": micros(start.elapsed()) }));

    let watch = api::WatchInstancesRequest::default();
    let mut events = api.instances().watch_instances(watch).await.expect("a watch").into_inner();
    let start = Instant::now();
    let batches = (0..size.builds / 50).map(|batch| {
        let api = api.clone();
        async move { api.create(&format!("b{batch}"), "small", 50).await.expect("accepted") }
    });
    let counting = async {
        let mut active = std::collections::BTreeSet::new();
        while active.len() < size.builds as usize {
            let message = events.message().await.expect("an event").expect("no end");
            if let Some(api::watch_instances_response::Event::Update(instance)) = message.event
                && instance.state() == State::Active
            {
                active.insert(instance.id);
            }
        }
    };
    let (accepted, ()) = tokio::join!(
        async {
            join_all(batches).await;
            start.elapsed()
        },
        counting
    );
    let per_second = f64::from(size.builds) / start.elapsed().as_secs_f64();
    line(
        "builds to ACTIVE, in batches of 50 at once, embedded store",
        json!({
            "builds": size.builds,
            "builds_per_s": per_second.round(),
            "all_accepted_ms": (accepted.as_secs_f64() * 1e3).round(),
            "baseline": "commits of the same store, one after the other",
            "baseline_commits_per_s": commits.round(),
            "ratio": (per_second / commits * 1000.0).round() / 1000.0,
        }),
    );
}

async fn commits_per_second(size: Size) -> f64 {
    let store = Arc::new(EmbeddedStore::open_temporary().expect("a store"));
    let start = Instant::now();
    for number in 0..size.calls {
        store.txn(Txn::new().put(format!("bench/{number:08}"), vec![0; 1000])).await.expect("committed");
    }
    size.calls as f64 / start.elapsed().as_secs_f64()
}
