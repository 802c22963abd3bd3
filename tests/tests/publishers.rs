//! Many hosts that publish, and schedulers that come and go. `make bench-publishers` does the same with 10,000.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_rpc::registry::{Endpoint, Registry, RegistryOptions};
use kilonova_runtime::config::Period;
use kilonova_store::SharedStore;
use kilonova_tests::publishers::{self, Known, Publisher};
use kilonova_tests::waiting::until;
use kilonova_tests::{Backing, Cluster, Plan, over_both_stores};
use tokio::net::TcpListener;
use tonic::transport::Channel;

over_both_stores!(
    schedulers_keep_up_with_many_publishers_and_one_that_died_knows_all_again,
    a_scheduler_names_those_that_do_not_answer_and_goes_on_without_them,
);

const PUBLISHERS: usize = 300;

fn cell() -> CellName {
    CellName::parse("many").unwrap()
}

fn plan(backing: Backing) -> Plan {
    Plan { apis: 0, conductors: 0, computes: 0, volumes: 0, ..Plan::new(backing) }
}

async fn knows(scheduler: &Channel, publishers: &[Publisher]) {
    let changes = publishers.iter().map(Publisher::generation).sum();
    let all = Known { up: publishers.len(), changes };
    until(&format!("the scheduler knows {all:?}"), || async {
        let known = publishers::known(scheduler).await.ok()?;
        (known == all && publishers::not_ready(scheduler).await.ok()?.is_none()).then_some(())
    })
    .await;
}

async fn schedulers_keep_up_with_many_publishers_and_one_that_died_knows_all_again(backing: Backing) {
    let Some((store, _process)) = backing.open().await else { return };
    let publishers = publishers::start(&store, &cell(), 0..PUBLISHERS).await.unwrap();
    let mut cluster = Cluster::over(plan(backing), store, cell()).await;
    let channel = |cluster: &Cluster, host| cluster.channel(ServiceKind::Scheduler, host);
    let (one, two) = (channel(&cluster, "scheduler-1"), channel(&cluster, "scheduler-2"));
    knows(&one, &publishers).await;
    knows(&two, &publishers).await;

    let before = publishers::known(&one).await.unwrap().changes;
    tokio::select! {
        () = publishers::publish(&publishers, 1_000) => {}
        () = until("a thousand changes are known while they are made", || async {
            (publishers::known(&one).await.ok()?.changes >= before + 1_000).then_some(())
        }) => {}
    }
    cluster.kill(ServiceKind::Scheduler, "scheduler-2");
    publishers.iter().for_each(Publisher::claim);
    cluster.launch(ServiceKind::Scheduler, "scheduler-2").await;
    knows(&channel(&cluster, "scheduler-2"), &publishers).await;
    knows(&one, &publishers).await;
    cluster.shutdown().await;
}

/// Registers one that takes connections and never says anything.
async fn silent(store: &SharedStore) -> (TcpListener, kilonova_rpc::registry::Registration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint {
        service: ServiceKind::Compute,
        host: HostName::parse("silent").unwrap(),
        addr: listener.local_addr().unwrap().to_string(),
        zone: ZoneName::parse("zone-1").unwrap(),
        minor: 0,
        authority: None,
    };
    let registry = Registry::new(store.clone(), cell());
    (listener, registry.register(endpoint, RegistryOptions::default()).await.unwrap())
}

async fn a_scheduler_names_those_that_do_not_answer_and_goes_on_without_them(backing: Backing) {
    let Some((store, _process)) = backing.open().await else { return };
    let publishers = publishers::start(&store, &cell(), 0..10).await.unwrap();
    let _silent = silent(&store).await;
    let mut plan = plan(backing);
    plan.schedulers = 0;
    plan.scheduler.first_answers = Period::from_secs(2);
    let mut cluster = Cluster::over(plan, store, cell()).await;
    cluster.launch(ServiceKind::Scheduler, "scheduler-1").await;
    let scheduler = cluster.channel(ServiceKind::Scheduler, "scheduler-1");
    until("only the silent one is missing", || async {
        let reason = publishers::not_ready(&scheduler).await.ok()??;
        reason.ends_with("no answer yet from compute silent").then_some(())
    })
    .await;
    until("it goes on without it", || async {
        publishers::not_ready(&scheduler).await.ok()?.is_none().then_some(())
    })
    .await;
    assert_eq!(publishers::known(&scheduler).await.unwrap().up, publishers.len());
    let silent = publishers::states(&scheduler, &["silent".into()]).await.unwrap().remove(0);
    assert!(!silent.state_detail.is_empty(), "{silent:?}");
    cluster.shutdown().await;
}
