//! Many instances: what a conductor needs to remember them, and how long a page of a listing takes.
//!
//! The records are as a build leaves them, and in etcd, so that the store's own memory is in another process. The conductor
//! is alone in a process of its own; what it needs is the difference to one over an empty cell.

use std::process::Stdio;
use std::time::Duration;

use kilonova_model::{CellName, InstanceId};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1::instance::State;
use kilonova_store::keys::Keys;
use kilonova_store::{SharedStore, Txn};
use kilonova_tests::cluster::connected;
use kilonova_tests::measure::{line, millis, quantile, resident, rounded};
use kilonova_tests::{Backing, Cluster, Plan};
use prost::Message;
use serde_json::json;
use tokio::process::Command;
use tokio::time::Instant;

use super::{Size, builds};

/// Records written in one transaction.
const BATCH: usize = 100;
/// How long the allocator takes to give back what is not in use.
const SETTLE: Duration = Duration::from_secs(12);
/// The size of a page.
const PAGE: i32 = 1_000;

fn cell() -> CellName {
    CellName::parse("bench").expect("a cell name")
}

/// Fills a store and measures both.
pub async fn measure(size: Size) {
    let sample = built().await;
    let Some((store, Some(etcd))) = Backing::Etcd.open().await else { return };
    let empty = of_conductor(&etcd.endpoint()).await;
    let (bytes, last) = fill(&store, &sample, size.records).await;
    let full = of_conductor(&etcd.endpoint()).await;
    let per_10k = full.saturating_sub(empty) as f64 / size.records as f64 * 10_000.0;
    line(
        "resident memory of a conductor for 10,000 instances",
        json!({
            "instances": size.records,
            "record_bytes": bytes,
            "mib_per_10k": rounded(per_10k / f64::from(1 << 20)),
            "bytes_per_instance": (per_10k / 10_000.0).round(),
            "without_any_mib": rounded(empty as f64 / f64::from(1 << 20)),
            "baseline": "the encoded records",
            "ratio": rounded(per_10k / 10_000.0 / bytes as f64),
        }),
    );
    list(store, size, &last).await;
}

/// The record of an instance that was built.
async fn built() -> InstanceRecord {
    let cluster =
        Cluster::start(Plan { computes: 3, ..builds::plan(Backing::Embedded) }).await.expect("a cell");
    let api = cluster.api();
    api.seed().await;
    let id = api.create("bench-instance", "small", 1).await.expect("accepted").remove(0);
    api.until(&id, State::Active).await;
    let keys = Keys::new(&CellName::parse("test").expect("a cell name"));
    let key = keys.instance(id.parse().expect("an id"));
    let (item, _) = cluster.shared_store().get(&key).await.expect("an answer");
    let record = InstanceRecord::decode(item.expect("the record").value).expect("a record");
    cluster.shutdown().await;
    record
}

/// Writes so many; gives the size of one and the id of the last.
async fn fill(store: &SharedStore, sample: &InstanceRecord, count: usize) -> (usize, String) {
    let keys = Keys::new(&cell());
    let mut record = sample.clone();
    for start in (0..count).step_by(BATCH) {
        let mut txn = Txn::new();
        for _ in start..count.min(start + BATCH) {
            let id = InstanceId::generate();
            record.instance.get_or_insert_default().id = id.to_string();
            txn = txn.put(keys.instance(id), record.encode_to_vec());
        }
        store.txn(txn).await.expect("committed");
    }
    (record.encoded_len(), record.instance.unwrap_or_default().id)
}

async fn list(store: SharedStore, size: Size, last: &str) {
    let plan = Plan { conductors: 1, schedulers: 0, computes: 0, volumes: 0, ..Plan::new(Backing::Etcd) };
    let cluster = Cluster::over(plan, store, cell()).await;
    let api = cluster.api();
    let channel = cluster.channel(kilonova_model::ServiceKind::Api, "api-1");
    let mut client =
        api::instance_service_client::InstanceServiceClient::new(channel).max_decoding_message_size(16 << 20);
    api.get(last).await.expect("all are there");
    let (mut times, mut listed, mut pages) = (Vec::new(), 0, 0);
    for _ in 0..size.rounds {
        let mut page_token = String::new();
        loop {
            let request = api::ListInstancesRequest { page_size: PAGE, page_token, ..Default::default() };
            let start = Instant::now();
            let answer = client.list_instances(request).await.expect("a page").into_inner();
            times.push(start.elapsed());
            (listed, pages) = (listed + answer.instances.len(), pages + 1);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    line(
        "a page of 1,000 instances through the api",
        json!({
            "instances": size.records,
            "pages": pages,
            "instances_per_page": rounded(f64::from(listed as u32) / f64::from(pages)),
            "p50_ms": millis(quantile(&mut times, 0.5)),
            "p99_ms": millis(quantile(&mut times, 0.99)),
        }),
    );
    cluster.shutdown().await;
}

/// The resident memory of a conductor over this store, in a process of its own.
async fn of_conductor(endpoint: &str) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program);
    child.arg(format!("--conductor={endpoint}")).stdout(Stdio::piped()).kill_on_drop(true);
    let output = child.output().await.expect("the child runs");
    let text = String::from_utf8(output.stdout).expect("text");
    text.trim().parse().expect("a number of bytes")
}

/// The child: a conductor and nothing else.
pub async fn child(endpoint: &str) {
    let plan =
        Plan { apis: 0, conductors: 1, schedulers: 0, computes: 0, volumes: 0, ..Plan::new(Backing::Etcd) };
    let cluster = Cluster::over(plan, connected(endpoint.to_owned()).await, cell()).await;
    tokio::time::sleep(SETTLE).await;
    println!("{}", resident());
    cluster.shutdown().await;
}
