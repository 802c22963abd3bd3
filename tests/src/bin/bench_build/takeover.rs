//! A conductor dies: until all its shards are owned by others, with the default time to live.

use std::time::Duration;

use kilonova_model::{CellName, ServiceKind};
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_store::SharedStore;
use kilonova_store::keys::Keys;
use kilonova_tests::cluster::connected;
use kilonova_tests::measure::{line, quantile, rounded};
use kilonova_tests::{Backing, Cluster, Plan};
use prost::Message;
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

use super::Size;

/// The shards there are.
const SHARDS: usize = 256;
/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The conductor that is killed.
const VICTIM: &str = "conductor-9";

fn cell() -> CellName {
    CellName::parse("bench").expect("a cell name")
}

fn plan(conductors: usize) -> Plan {
    let mut plan =
        Plan { apis: 0, conductors, schedulers: 0, computes: 0, volumes: 0, ..Plan::new(Backing::Etcd) };
    plan.conductor.shard_ttl = kilonova_conductor::Config::default().shard_ttl;
    plan
}

/// Kills one conductor of three with SIGKILL, again and again. Over etcd: with the embedded store all die together.
pub async fn measure(size: Size) {
    let Some((store, Some(etcd))) = Backing::Etcd.open().await else { return };
    let keys = Keys::new(&cell());
    let cluster = Cluster::over(plan(2), store.clone(), cell()).await;
    let mut times = Vec::new();
    for _ in 0..size.kills {
        let program = std::env::current_exe().expect("this program");
        let victim =
            Command::new(program).arg(format!("--victim={}", etcd.endpoint())).kill_on_drop(true).spawn();
        let mut victim = victim.expect("the child runs");
        let is_victim = |owner: &String| owner == VICTIM;
        until(&store, &keys, |owners| owners.len() == SHARDS && owners.iter().any(is_victim)).await;
        // Somewhere between two renewals of its lease.
        tokio::time::sleep(Duration::from_millis(rand::random_range(2_000..4_000))).await;
        let start = Instant::now();
        victim.kill().await.expect("it is killed");
        until(&store, &keys, |owners| owners.len() == SHARDS && !owners.iter().any(is_victim)).await;
        times.push(start.elapsed());
    }
    let seconds = |time: Duration| rounded(time.as_secs_f64());
    line(
        "a conductor of three is killed: until others own all its shards",
        json!({
            "store": store.name(),
            "kills": times.len(),
            "shard_ttl_s": plan(1).conductor.shard_ttl.get().as_secs_f64(),
            "p50_s": seconds(quantile(&mut times, 0.5)),
            "worst_s": seconds(quantile(&mut times, 1.0)),
            "must": "worst_s <= 10",
            "aim": "worst_s <= 3",
        }),
    );
    cluster.shutdown().await;
}

/// The child: a conductor and nothing else, until it is killed.
pub async fn child(endpoint: &str) {
    let mut cluster = Cluster::over(plan(0), connected(endpoint.to_owned()).await, cell()).await;
    cluster.launch(ServiceKind::Conductor, VICTIM).await;
    std::future::pending().await
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
