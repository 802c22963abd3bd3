//! A cell filled to the last host by more than it holds, through several conductors and schedulers at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use kilonova_model::ServiceKind;
use kilonova_proto::api::v1 as api;
use kilonova_proto::capability::v1::WatchCapabilitiesRequest;
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_tests::checker::{self, Capacity, Expected, World};
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use tokio::task::JoinSet;

over_both_stores!(
    a_burst_fills_the_cell_to_the_last_host_and_no_further,
    a_burst_of_what_there_is_is_all_placed,
);

/// What each host may promise: seven of the smallest flavor by memory.
const HOST_RAM_MIB: u32 = 3584;
const HOSTS: usize = 12;
const CLIENTS: usize = 6;

fn plan(backing: Backing) -> Plan {
    let mut plan = Plan::new(backing);
    (plan.conductors, plan.schedulers, plan.computes, plan.volumes) = (2, 4, HOSTS, 1);
    plan.compute.driver.ram_mib = HOST_RAM_MIB + plan.compute.allocation.ram_reserved_mib;
    plan
}

/// One request of a burst.
#[derive(Clone, Copy)]
struct Order {
    flavor: &'static str,
    count: u32,
    /// Of a group of which no two may share a host.
    apart: bool,
}

const fn order(flavor: &'static str, count: u32, apart: bool) -> Order {
    Order { flavor, count, apart }
}

/// So many of each, those of different kinds in turn, so that they meet on the hosts.
fn burst(kinds: &[(Order, usize)]) -> Vec<Order> {
    let mut orders: Vec<(f64, Order)> = kinds
        .iter()
        .flat_map(|&(order, requests)| (0..requests).map(move |n| (n as f64 / requests as f64, order)))
        .collect();
    orders.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    orders.into_iter().map(|(_, order)| order).collect()
}

async fn create(api: &Api, order: Order, group: &str) -> Vec<String> {
    let server_group_id = if order.apart { group.to_owned() } else { String::new() };
    let hints = pb::SchedulerHints { server_group_id, ..Default::default() };
    let spec = pb::InstanceSpec {
        name: "burst".into(),
        flavor_id: order.flavor.into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    };
    let request =
        api::CreateInstanceRequest { instance: Some(spec), count: order.count, ..Default::default() };
    let created = api.instances().create_instance(request).await.unwrap().into_inner();
    created.instances.into_iter().map(|instance| instance.id).collect()
}

/// Reads everything a host publishes until it is stopped; the largest claim seen.
async fn follow(cluster: &Cluster, host: String, seen: Arc<AtomicUsize>) -> impl Future<Output = ()> + use<> {
    let mut client = CapabilityServiceClient::new(cluster.channel(ServiceKind::Compute, &host));
    let request = WatchCapabilitiesRequest::default();
    let mut stream = client.watch_capabilities(request).await.unwrap().into_inner();
    async move {
        while let Ok(Some(message)) = stream.message().await {
            let Some(Event::Snapshot(said) | Event::Update(said)) = message.event else { continue };
            let Some(Resources::Compute(figures)) = said.resources else { continue };
            assert!(
                figures.ram_used_mib <= HOST_RAM_MIB,
                "{host} published {} MiB claimed of {HOST_RAM_MIB}",
                figures.ram_used_mib
            );
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A cell and what became of all that was asked.
struct Filled {
    cluster: Cluster,
    ended: Vec<pb::Instance>,
}

/// Asks for all of it at once and waits until each is built or has failed. `None` when the store's program is missing.
async fn filled(backing: Backing, orders: &[Order]) -> Option<Filled> {
    let cluster = Cluster::start(plan(backing)).await?;
    let api = cluster.api();
    api.seed().await;
    let quad = pb::Flavor { id: "quad".into(), vcpus: 4, ram_mib: 2048, disk_gib: 4, ..Default::default() };
    let request = api::CreateFlavorRequest { flavor: Some(quad), ..Default::default() };
    api.flavors().create_flavor(request).await.unwrap();
    let group =
        pb::ServerGroup { name: "apart".into(), policy: Policy::AntiAffinity.into(), ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let group = api.server_groups().create_server_group(request).await.unwrap().into_inner();
    let group = group.server_group.unwrap().id;

    let seen = Arc::new(AtomicUsize::new(0));
    let mut followers = JoinSet::new();
    for host in cluster.names(ServiceKind::Compute) {
        followers.spawn(follow(&cluster, host, seen.clone()).await);
    }
    let clients = (0..CLIENTS).map(|client| {
        let (api, group) = (cluster.api(), &group);
        let own: Vec<Order> = orders.iter().copied().skip(client).step_by(CLIENTS).collect();
        async move { join_all(own.into_iter().map(|order| create(&api, order, group))).await.concat() }
    });
    let ids = join_all(clients).await.concat();
    let ended = join_all(ids.iter().map(|id| ended(&api, id))).await;
    while let Some(follower) = followers.try_join_next() {
        follower.unwrap();
    }
    assert!(seen.load(Ordering::Relaxed) > 3 * HOSTS, "the hosts told as they filled");
    followers.shutdown().await;
    Some(Filled { cluster, ended })
}

impl Filled {
    /// What is used of each host's memory, by what users see.
    fn used(&self) -> BTreeMap<&str, u32> {
        let mut used = BTreeMap::new();
        for instance in self.ended.iter().filter(|one| one.state() == State::Active) {
            *used.entry(instance.host.as_str()).or_default() += ram(instance);
        }
        used
    }

    /// Nothing that exists or ever existed breaks a rule.
    async fn judged(self) {
        let (store, cell) = (self.cluster.shared_store(), self.cluster.cell().as_str());
        let expected = Expected { capacity: Capacity::of(&plan(Backing::Embedded)), ..Expected::default() };
        until("the checker finds nothing", || async {
            let world = World::read(&store, cell, self.cluster.journals()).await.unwrap();
            assert_eq!(checker::lasting(&world, &expected), []);
            checker::settling(&world, &expected).is_empty().then_some(())
        })
        .await;
        self.cluster.shutdown().await;
    }
}

async fn a_burst_fills_the_cell_to_the_last_host_and_no_further(backing: Backing) {
    // More than twice what there is, and small ones enough to fill what large ones leave.
    let orders = burst(&[
        (order("small", 2, true), 8),
        (order("small", 1, false), 70),
        (order("small", 3, false), 10),
        (order("double", 2, false), 10),
        (order("quad", 1, false), 10),
    ]);
    let Some(filled) = filled(backing, &orders).await else { return };
    let used = filled.used();
    assert_eq!((used.len(), used.values().all(|ram| *ram == HOST_RAM_MIB)), (HOSTS, true), "{used:?}");
    for refused in filled.ended.iter().filter(|one| one.state() == State::Error) {
        let fault = refused.fault.as_ref().unwrap();
        assert_eq!(fault.reason, "NO_VALID_HOST", "{refused:#?}");
        assert!(fault.explanation.is_some(), "{refused:#?}");
    }
    filled.judged().await;
}

async fn a_burst_of_what_there_is_is_all_placed(backing: Backing) {
    let orders = burst(&[(order("small", 1, false), 60), (order("small", 3, false), 8)]);
    let Some(filled) = filled(backing, &orders).await else { return };
    let failed: Vec<_> = filled.ended.iter().filter_map(|one| one.fault.as_ref()).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(filled.used().values().sum::<u32>(), HOST_RAM_MIB * HOSTS as u32);
    filled.judged().await;
}

/// Waits until an instance is built or has failed.
async fn ended(api: &Api, id: &str) -> pb::Instance {
    until(&format!("the build of {id} ended"), || async {
        api.get(id).await.ok().filter(|one| matches!(one.state(), State::Active | State::Error))
    })
    .await
}

fn ram(instance: &pb::Instance) -> u32 {
    instance.flavor.as_ref().unwrap().ram_mib
}
