//! A conductor dies: until all its shards are owned by others, with the default time to live.

use std::time::Duration;

use kilonova_model::{CellName, ServiceKind};
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_store::SharedStore;
use kilonova_store::keys::Keys;
use kilonova_tests::measure::{line, quantile, rounded};
use kilonova_tests::{Backing, Cluster, Plan};
use prost::Message;
use serde_json::json;
use tokio::time::Instant;

use super::Size;

/// The shards there are.
const SHARDS: usize = 256;
/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Kills one conductor of three, again and again.
pub async fn measure(backing: Backing, size: Size) {
    let Some((store, _process)) = backing.open().await else { return };
    let cell = CellName::parse("bench").expect("a cell name");
    let keys = Keys::new(&cell);
    let mut plan =
        Plan { conductors: 3, schedulers: 0, computes: 0, volumes: 0, apis: 0, ..Plan::new(backing) };
    plan.conductor.shard_ttl = kilonova_conductor::Config::default().shard_ttl;
    let shard_ttl_s = plan.conductor.shard_ttl.get().as_secs_f64();
    let mut cluster = Cluster::over(plan, store.clone(), cell).await;
    let mut times = Vec::new();
    for kill in 0..size.kills {
        let victim = format!("conductor-{}", kill % 3 + 1);
        until(&store, &keys, |owners| owners.len() == SHARDS && owners.contains(&victim)).await;
        // Somewhere between two renewals of the lease.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..2_000))).await;
        let start = Instant::now();
        cluster.kill(ServiceKind::Conductor, &victim);
        until(&store, &keys, |owners| owners.len() == SHARDS && !owners.contains(&victim)).await;
        times.push(start.elapsed());
        cluster.launch(ServiceKind::Conductor, &victim).await;
        cluster.ready().await;
    }
    let seconds = |time: Duration| rounded(time.as_secs_f64());
    line(
        "a conductor of three dies: until others own all its shards",
        json!({
            "store": store.name(),
            "kills": times.len(),
            "shard_ttl_s": shard_ttl_s,
            "p50_s": seconds(quantile(&mut times, 0.5)),
            "worst_s": seconds(quantile(&mut times, 1.0)),
            "must": "worst_s <= 10",
            "aim": "worst_s <= 3",
        }),
    );
    cluster.shutdown().await;
}

/// Waits until the owners of the shards that are owned are as wished.
async fn until(store: &SharedStore, keys: &Keys, wished: impl Fn(&[String]) -> bool) {
    let looking = async {
        loop {
            let page = store.list(&keys.shards(), None, 1_000).await.expect("the shards");
            let owner = |value: &[u8]| ShardRecord::decode(value).expect("a shard's record").conductor;
            let owners: Vec<String> = page.items.iter().map(|item| owner(&item.value)).collect();
            if wished(&owners) {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.expect("taken over in time");
}
