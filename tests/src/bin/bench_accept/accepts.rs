//! Creates through the public api, as many at once as said, in as many projects as said.

use std::time::Duration;

use futures::future::join_all;
use kilonova_model::CellName;
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_store::keys::Keys;
use kilonova_store::{SharedStore, Store, Txn};
use kilonova_tests::measure::{Counting, cpu, line, millis, quantile, rounded};
use kilonova_tests::{Api, Backing, Cluster, Plan};
use prost::Message;
use serde_json::json;
use tokio::time::Instant;

use super::Size;
use super::baseline::Baseline;

/// The shards there are.
const SHARDS: u16 = 256;

/// Measures one setting on a new store.
pub async fn measure(backing: Backing, size: Size, projects: usize, in_flight: usize, baseline: &Baseline) {
    let Some((store, _process)) = backing.open().await else { return };
    let cell = CellName::parse("bench").expect("a cell name");
    take_all_shards(&store, &Keys::new(&cell)).await;
    let counting = Counting::new(store);
    let plan = Plan { conductors: 1, schedulers: 0, computes: 0, volumes: 0, ..Plan::new(backing) };
    let cluster = Cluster::over(plan, counting.clone(), cell).await;
    let api = cluster.api();
    api.seed().await;
    warm_up(&api, projects).await;

    let (used, asked, start) = (cpu(), counting.asked(), Instant::now());
    let loops = (0..in_flight).map(|caller| {
        let (api, project) = (api.clone(), project(caller % projects));
        async move {
            let mut times = Vec::new();
            while start.elapsed() < size.window {
                times.push(accept(&api, &project).await);
            }
            times
        }
    });
    let mut times: Vec<Duration> = join_all(loops).await.into_iter().flatten().collect();
    let (wall, used, asked) = (start.elapsed(), cpu() - used, counting.asked().since(asked));

    let count = times.len() as f64;
    let (per_second, per) = (count / wall.as_secs_f64(), |n: u64| rounded(n as f64 / count));
    let alone = baseline[&in_flight];
    line(
        "durable accepts per second: CreateInstance through the api",
        json!({
            "store": counting.name(),
            "projects": projects,
            "in_flight": in_flight,
            "accepts_per_s": per_second.round(),
            "p50_ms": millis(quantile(&mut times, 0.5)),
            "p99_ms": millis(quantile(&mut times, 0.99)),
            "cpu_ms_per_accept": rounded(used.as_secs_f64() * 1e3 / count),
            "store_commits_per_accept": per(asked.commits),
            "store_conflicts_per_accept": per(asked.conflicts),
            "store_reads_per_accept": per(asked.gets),
            "baseline": "transactions of the store alone, of such records, as many in flight, same run",
            "baseline_transactions_per_s": alone.round(),
            "ratio": rounded(per_second / alone),
            "must": if backing == Backing::Embedded { "accepts_per_s >= 5000" } else { "accepts_per_s >= 1000" },
            "aim": if backing == Backing::Embedded { "accepts_per_s >= 30000" } else { "accepts_per_s >= 5000" },
        }),
    );
    cluster.shutdown().await;
}

fn project(number: usize) -> String {
    format!("project-{number}")
}

/// Gives every shard to nobody, so that no conductor drives what it accepts.
async fn take_all_shards(store: &SharedStore, keys: &Keys) {
    let owner = ShardRecord { conductor: "nobody".into(), ..Default::default() }.encode_to_vec();
    let all: Vec<u16> = (0..SHARDS).collect();
    for batch in all.chunks(64) {
        let txn = batch.iter().fold(Txn::new(), |txn, shard| txn.put(keys.shard(*shard), owner.clone()));
        store.txn(txn).await.expect("the shards are taken");
    }
}

async fn warm_up(api: &Api, projects: usize) {
    let calls = (0..projects.max(32)).map(|caller| async move {
        accept(api, &project(caller % projects)).await;
    });
    join_all(calls).await;
}

async fn accept(api: &Api, project: &str) -> Duration {
    let spec = pb::InstanceSpec {
        name: "bench".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest {
        instance: Some(spec),
        project_id: project.to_owned(),
        count: 1,
        ..Default::default()
    };
    let start = Instant::now();
    api.instances().create_instance(request).await.expect("accepted");
    start.elapsed()
}
