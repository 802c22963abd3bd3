//! Every member of a cell restarted in turn under load: nobody notices.

use kilonova_model::{CellName, HostName, ServiceKind};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::Registry;
use kilonova_store::SharedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::cluster::name;
use kilonova_tests::process::Process;
use kilonova_tests::{Backing, Cluster, Plan};
use tokio::time::Instant;

use crate::support::start;
use crate::traffic::Traffic;

/// Who is restarted, in this order.
const FLEET: [(ServiceKind, usize); 5] = [
    (ServiceKind::Api, 2),
    (ServiceKind::Conductor, 2),
    (ServiceKind::Scheduler, 2),
    (ServiceKind::Compute, 2),
    (ServiceKind::Volume, 2),
];

fn user(store: SharedStore) -> Peers {
    let registry = Registry::new(store, CellName::parse("test").unwrap());
    let caller = Caller::new(ServiceKind::Api, HostName::parse("user").unwrap());
    Peers::new(registry, caller, PeersOptions::default())
}

async fn a_rolling_restart_fails_no_call(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.apis = 2;
    plan.computes = 2;
    plan.compute.driver.vcpus = 100_000;
    plan.compute.driver.ram_mib = 100_000_000;
    plan.compute.driver.disk_gib = 1_000_000;
    plan.conductor.resend_interval = kilonova_runtime::config::Period::from_millis(500);
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    cluster.api().seed().await;
    let traffic = Traffic::start(user(cluster.shared_store()));
    traffic.flows().await;
    for (kind, count) in FLEET {
        for number in 1..=count {
            let (host, began) = (name(kind, number), Instant::now());
            cluster.stop(kind, &host).await;
            let stopped = began.elapsed();
            traffic.flows().await;
            cluster.launch(kind, &host).await;
            cluster.ready().await;
            println!("{host} stopped within {stopped:?}, ready again after {:?}", began.elapsed());
            traffic.flows().await;
        }
    }
    traffic.end().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call_over_the_embedded_store() {
    a_rolling_restart_fails_no_call(Backing::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_call_over_etcd() {
    a_rolling_restart_fails_no_call(Backing::Etcd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_processes_fails_no_call() {
    let Some(etcd) = EtcdProcess::start().await.unwrap() else { return };
    let dir = tempfile::Builder::new().prefix("kilonova-drain-").tempdir().unwrap();
    let launch = async |kind: ServiceKind, host: &str| -> Process {
        let (endpoint, data) = (etcd.endpoint(), dir.path().join(host));
        let place = ["--service", kind.as_str(), "--host", host, "--etcd", &endpoint];
        start(&[&place[..], &["--data-dir", data.to_str().unwrap()]].concat()).await
    };
    let mut fleet = Vec::new();
    for (kind, count) in FLEET {
        for number in 1..=count {
            let host = name(kind, number);
            let process = launch(kind, &host).await;
            fleet.push((kind, host, Some(process)));
        }
    }
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..Default::default() };
    let peers = user(std::sync::Arc::new(EtcdStore::connect(options).await.unwrap()));
    let traffic = Traffic::start_seeding(peers).await;
    traffic.flows().await;
    for (kind, host, process) in &mut fleet {
        let began = Instant::now();
        let ended = process.take().unwrap().stop().await.unwrap();
        assert!(ended.success(), "{host}: {ended}");
        traffic.flows().await;
        *process = Some(launch(*kind, host).await);
        traffic.answers(*kind, host).await;
        println!("{host} restarted within {:?}", began.elapsed());
        traffic.flows().await;
    }
    traffic.end().await;
}
