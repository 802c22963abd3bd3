//! What a build costs. One JSON line a figure; ratios are against a baseline run in turn in this process.
//!
//! `make bench`, or `make bench ARGS=quick` for a short look.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1::instance::State;
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::{Store, Txn};
use kilonova_tests::{Backing, Cluster, Plan};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    commits: usize,
    builds: u32,
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let size =
        if quick { Size { commits: 200, builds: 100 } } else { Size { commits: 2_000, builds: 1_000 } };
    let mut plan = Plan::new(Backing::Embedded);
    plan.compute.driver.latency = Duration::ZERO.into();
    plan.compute.driver.latency_jitter = Duration::ZERO.into();
    plan.compute.driver.vcpus = 100_000;
    plan.compute.driver.ram_mib = 1_000_000_000;
    plan.compute.driver.disk_gib = 1_000_000_000;
    plan.compute.max_concurrent_builds = 1_000;
    let Some(cluster) = Cluster::start(plan).await else { return };
    builds(&cluster, size).await;
    cluster.shutdown().await;
}

fn line(figure: &str, values: Value) {
    println!("{}", json!({ "figure": figure, "values": values }));
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
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
    for number in 0..size.commits {
        store.txn(Txn::new().put(format!("bench/{number:08}"), vec![0; 1000])).await.expect("committed");
    }
    size.commits as f64 / start.elapsed().as_secs_f64()
}
