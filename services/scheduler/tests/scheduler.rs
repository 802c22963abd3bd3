//! A scheduler fed by publishers over real connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::base::v1::GetDiagnosticsRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::scheduler::v1::{
    HostState, ListBackendStatesRequest, ListHostStatesRequest, SelectBackendsRequest, SelectHostsRequest,
    SelectHostsResponse,
};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::host::State;
use kilonova_proto::types::v1::{Capabilities, Flavor, StoragePool, VolumeResources, VolumeSpec};
use kilonova_rpc::status::from_status;
use kilonova_runtime::config::Period;
use kilonova_scheduler::Config;
use support::{HEARTBEAT, Publisher, SOON, Scheduler, compute, ram_used, store};
use tokio::time::Instant;

fn instance(request_id: &str, ram_mib: u32) -> SelectHostsRequest {
    let flavor = Flavor { id: "small".into(), vcpus: 1, ram_mib, ..Flavor::default() };
    SelectHostsRequest {
        request_id: request_id.into(),
        flavor: Some(flavor),
        ..SelectHostsRequest::default()
    }
}

async fn select(scheduler: &mut Scheduler, request: SelectHostsRequest) -> SelectHostsResponse {
    scheduler.client.select_hosts(request).await.unwrap().into_inner()
}

async fn ready(scheduler: &Scheduler) {
    let channel = scheduler.running.peers().call(ServiceKind::Scheduler);
    channel.wait_ready(Instant::now() + SOON).await.unwrap();
}

fn is_up(host: &HostState) -> bool {
    host.state() == State::Up
}

fn generation(host: &HostState) -> u64 {
    host.capabilities.as_ref().map_or(0, |capabilities| capabilities.generation)
}

#[tokio::test]
async fn a_new_scheduler_gets_the_snapshots_at_once() {
    let store = store();
    let mut publishers = Vec::new();
    for n in 1..=3 {
        publishers
            .push(Publisher::start(&store, ServiceKind::Compute, compute(&format!("c{n}"), n * 1024)).await);
    }
    let begun = Instant::now();
    let mut scheduler = Scheduler::start(&store).await;
    ready(&scheduler).await;
    println!("started and ready with 3 snapshots after {:?}", begun.elapsed());
    let hosts = scheduler.hosts().await;
    assert_eq!(hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>(), ["c1", "c2", "c3"]);
    assert!(hosts.iter().all(is_up), "{hosts:#?}");

    let answer = select(&mut scheduler, SelectHostsRequest { alternates: 2, ..instance("r1", 1024) }).await;
    let selection = &answer.selections[0];
    let chosen = selection.host.as_ref().unwrap();
    assert_eq!((chosen.host.as_str(), chosen.availability_zone.as_str()), ("c1", "az1"));
    assert_eq!(chosen.epoch, publishers[0].current().epoch);
    let alternates: Vec<&str> = selection.alternates.iter().map(|host| host.host.as_str()).collect();
    assert_eq!(alternates, ["c2", "c3"]);
    let explanation = answer.explanation.unwrap();
    assert_eq!((explanation.considered, explanation.remaining), (3, 3));
    assert_eq!(explanation.scheduler, "s1");
    assert_eq!(scheduler.hosts().await[0].holds, 1);
}

#[tokio::test]
async fn an_update_is_known_within_100_ms() {
    let store = store();
    let publisher = Publisher::start(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let mut scheduler = Scheduler::start(&store).await;
    ready(&scheduler).await;
    let mut took = Vec::new();
    for wanted in 2..22 {
        publisher.publish(|capabilities| *ram_used(capabilities) += 256);
        let (_, after) = scheduler.wait_hosts(|hosts| generation(&hosts[0]) == wanted).await;
        took.push(after);
    }
    took.sort();
    println!("an update is listed after {:?} (median), {:?} (worst of {})", took[10], took[19], took.len());
    assert!(took[10] < Duration::from_millis(100), "{took:?}");
}

#[tokio::test]
async fn a_silent_publisher_goes_down_and_comes_back() {
    let store = store();
    let publisher = Publisher::start(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let mut scheduler = Scheduler::start(&store).await;
    scheduler.wait_hosts(|hosts| hosts.first().is_some_and(is_up)).await;
    publisher.set_silent(true);
    let (hosts, after) = scheduler.wait_hosts(|hosts| !is_up(&hosts[0])).await;
    println!("down {after:?} after it fell silent: {}", hosts[0].state_detail);
    assert!(after < HEARTBEAT * 3 + Duration::from_secs(1), "{after:?}");
    assert_eq!(hosts[0].state_detail, "nothing heard for 1.5s");
    for dry_run in [true, false] {
        let request = SelectHostsRequest { dry_run, ..instance("r1", 1024) };
        let unknown = from_status(&scheduler.client.select_hosts(request).await.unwrap_err()).unwrap();
        assert_eq!(unknown.reason, Reason::NotReady, "{unknown:?}");
        assert!(unknown.retry_after.is_some());
    }
    publisher.set_silent(false);
    scheduler.wait_hosts(|hosts| is_up(&hosts[0])).await;
    ready(&scheduler).await;
    assert_eq!(select(&mut scheduler, instance("r1", 1024)).await.selections.len(), 1);
}

#[tokio::test]
async fn a_restarted_publisher_starts_over_with_its_generations() {
    let store = store();
    let first =
        Publisher::start(&store, ServiceKind::Compute, Capabilities { generation: 900, ..compute("c1", 0) })
            .await;
    let before = first.current();
    let mut scheduler = Scheduler::start(&store).await;
    scheduler.wait_hosts(|hosts| hosts.first().is_some_and(|host| generation(host) == 900)).await;
    first.stop().await;
    let (hosts, _) = scheduler.wait_hosts(|hosts| !is_up(&hosts[0])).await;
    assert!(!hosts[0].state_detail.is_empty());
    let second = Publisher::start(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let epoch = second.current().epoch;
    assert!(epoch > before.epoch);
    let (hosts, after) = scheduler.wait_hosts(|hosts| is_up(&hosts[0]) && generation(&hosts[0]) == 1).await;
    println!("up again {after:?} after it registered anew");
    assert_eq!(hosts[0].capabilities.as_ref().unwrap().epoch, epoch);

    // What the old incarnation still says, and what this one said before, changes nothing.
    second.publish(|capabilities| *ram_used(capabilities) = 1024);
    let current = second.current();
    second.say(Capabilities { generation: 901, ..before });
    second.say(Capabilities { generation: 1, ..current.clone() });
    second.say(Capabilities { host: "c9".into(), generation: 77, ..current.clone() });
    second.publish(|capabilities| capabilities.disabled_reason = "the last word".into());
    let (hosts, _) = scheduler
        .wait_hosts(|hosts| {
            let known = hosts[0].capabilities.as_ref().unwrap();
            assert!(known.epoch == epoch && known.generation <= 3, "an old message was taken: {known:?}");
            known.disabled_reason == "the last word"
        })
        .await;
    assert_eq!(hosts.len(), 1);
}

#[tokio::test]
async fn serves_once_the_first_answers_are_in() {
    let store = store();
    let publisher = Publisher::start_silent(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let first_answers = Period::from_secs(60);
    let config = Config { heartbeat: Period::from(HEARTBEAT), first_answers, ..Config::default() };
    let mut scheduler = Scheduler::start_with(&store, config).await;
    let waits = async {
        loop {
            let refused = scheduler.client.select_hosts(instance("r1", 1)).await.unwrap_err();
            let refused = from_status(&refused).unwrap();
            assert_eq!(refused.reason, Reason::NotReady);
            if refused.message.contains("no answer yet from compute c1") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, waits).await.expect("it says whom it waits for");
    publisher.set_silent(false);
    ready(&scheduler).await;
    assert_eq!(select(&mut scheduler, instance("r1", 1)).await.selections.len(), 1);
}

#[tokio::test]
async fn serves_without_those_who_do_not_answer_and_names_them() {
    let store = store();
    let _silent = Publisher::start_silent(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let _answering = Publisher::start(&store, ServiceKind::Compute, compute("c2", 0)).await;
    let first_answers = Period::from_millis(300);
    let config = Config { heartbeat: Period::from(HEARTBEAT), first_answers, ..Config::default() };
    let mut scheduler = Scheduler::start_with(&store, config).await;
    ready(&scheduler).await;
    let answer = select(&mut scheduler, instance("r1", 1)).await;
    assert_eq!(answer.selections[0].host.as_ref().unwrap().host, "c2");
    let unknown = scheduler.client.select_hosts(instance("r2", 1_000_000)).await.unwrap_err();
    let unknown = from_status(&unknown).unwrap();
    assert_eq!(unknown.reason, Reason::NotReady);
    assert!(unknown.message.contains("no answer yet from compute c1"), "{}", unknown.message);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", scheduler.running.grpc_addr));
    let mut base = BaseServiceClient::new(endpoint.unwrap().timeout(SOON).connect_lazy());
    let report = base.get_diagnostics(GetDiagnosticsRequest { sections: vec!["publishers".into()] }).await;
    let json = report.unwrap().into_inner().sections.remove(0).json;
    assert!(json.contains("\"host\":\"c1\""), "{json}");
}

#[tokio::test]
async fn places_volumes_in_pools() {
    let store = store();
    let pool = |name: &str, free_gib| StoragePool {
        name: name.into(),
        total_gib: 1000,
        free_gib,
        ..StoragePool::default()
    };
    let resources =
        VolumeResources { pools: vec![pool("tin", 10), pool("gold", 900)], ..VolumeResources::default() };
    let capabilities =
        Capabilities { resources: Some(Resources::Volume(resources)), ..compute("node1@file", 0) };
    let _publisher = Publisher::start(&store, ServiceKind::Volume, capabilities).await;
    let mut scheduler = Scheduler::start(&store).await;
    ready(&scheduler).await;
    let volume = VolumeSpec { size_gib: 100, ..VolumeSpec::default() };
    let request = SelectBackendsRequest {
        request_id: "r1".into(),
        volume: Some(volume),
        count: 2,
        ..SelectBackendsRequest::default()
    };
    let answer = scheduler.client.select_backends(request).await.unwrap().into_inner();
    let pools: Vec<&str> =
        answer.selections.iter().map(|one| one.backend.as_ref().unwrap().pool.as_str()).collect();
    assert_eq!(pools, ["gold", "gold"]);
    let listed = scheduler.client.list_backend_states(ListBackendStatesRequest::default()).await.unwrap();
    let backend = listed.into_inner().backends.remove(0);
    assert_eq!((backend.host.as_str(), backend.holds), ("node1@file", 2));
    assert!(scheduler.hosts().await.is_empty());
}

#[tokio::test]
async fn lists_in_pages_and_refuses_what_is_wrong() {
    let store = store();
    let mut publishers = Vec::new();
    for name in ["c1", "c2", "c3"] {
        publishers.push(Publisher::start(&store, ServiceKind::Compute, compute(name, 0)).await);
    }
    let mut scheduler = Scheduler::start(&store).await;
    ready(&scheduler).await;
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListHostStatesRequest { page_size: 2, page_token, ..ListHostStatesRequest::default() };
        let page = scheduler.client.list_host_states(request).await.unwrap().into_inner();
        seen.push(page.hosts.into_iter().map(|host| host.host).collect::<Vec<_>>());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [vec!["c1", "c2"], vec!["c3"]]);
    let only = ListHostStatesRequest { hosts: vec!["c2".into()], ..ListHostStatesRequest::default() };
    assert_eq!(scheduler.client.list_host_states(only).await.unwrap().into_inner().hosts.len(), 1);
    let bad = ListHostStatesRequest { page_token: "bad".into(), ..ListHostStatesRequest::default() };
    let error = from_status(&scheduler.client.list_host_states(bad).await.unwrap_err()).unwrap();
    assert_eq!(error.reason, Reason::PageTokenInvalid);
    let error = scheduler.client.select_hosts(SelectHostsRequest::default()).await.unwrap_err();
    let error = from_status(&error).unwrap();
    assert_eq!(error.reason, Reason::ValidationFailed);
    assert_eq!(error.violations.len(), 2);
}

#[tokio::test]
async fn one_that_vanished_from_the_registry_stays_up_while_it_is_heard() {
    let store = store();
    let publisher = Publisher::start(&store, ServiceKind::Compute, compute("c1", 0)).await;
    let _other = Publisher::start(&store, ServiceKind::Compute, compute("c2", 0)).await;
    let mut scheduler = Scheduler::start(&store).await;
    ready(&scheduler).await;
    let host = kilonova_model::HostName::parse("c1").unwrap();
    let key = kilonova_store::keys::Keys::new(&kilonova_model::CellName::parse("test").unwrap())
        .endpoint(ServiceKind::Compute, &host);
    store.txn(kilonova_store::Txn::new().delete(key)).await.unwrap();
    // Who comes later in the registry shows that this was seen.
    let _later = Publisher::start(&store, ServiceKind::Compute, compute("c3", 0)).await;
    publisher.publish(|capabilities| *ram_used(capabilities) = 256);
    let (hosts, _) = scheduler
        .wait_hosts(|hosts| {
            assert!(is_up(&hosts[0]), "{hosts:#?}");
            generation(&hosts[0]) == 2 && hosts.len() == 3
        })
        .await;
    assert!(is_up(&hosts[0]));
}
