//! The registry while etcd, or the way to it, fails.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, ServiceKind};
use kilonova_rpc::registry::RegistryOptions;
use kilonova_store::testing::{EtcdCluster, Proxy};
use kilonova_store::{EtcdOptions, EtcdStore};
use tokio::time::{Instant, timeout};

use crate::support::{Cell, PATIENCE, Server, endpoint, etcd_options, host, members_until, ping, ping_until};

const SERVICE: ServiceKind = ServiceKind::Scheduler;
const OUTAGE: Duration = Duration::from_secs(4);

fn brief(seconds: u64) -> RegistryOptions {
    RegistryOptions { ttl: Duration::from_secs(seconds) }
}

#[tokio::test]
async fn an_outage_keeps_the_members_and_a_restart_under_it_registers_later() {
    let Some((mut etcd, cell)) = Cell::etcd().await else { return };
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let crashing = cell.registry.register(endpoint(SERVICE, "a", &a.addr), brief(2)).await.unwrap();
    let staying = cell.registry.register(endpoint(SERVICE, "b", &b.addr), brief(2)).await.unwrap();
    let members = cell.registry.members(SERVICE);
    let channel = cell.peers().call(SERVICE);
    ping_until(&channel, |answers| answers.len() == 2).await;
    assert!(members.stale_for().is_zero());

    etcd.kill().unwrap();
    let began = Instant::now();
    drop(crashing);
    a.kill();
    let again = Server::echo("a again").await;
    let restarted = endpoint(SERVICE, "a", &again.addr);
    let restarted = cell.registry.register_eventually(restarted, brief(2)).await.unwrap();
    let mut oldest = Duration::ZERO;
    while began.elapsed() < OUTAGE {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let age = members.stale_for();
        assert!(age.is_zero() && oldest.is_zero() || age > oldest, "{age:?} after {oldest:?}");
        oldest = age;
        assert_eq!(members.current().members.len(), 2);
        assert_eq!(ping(&channel).await.unwrap(), "b");
    }
    assert!(oldest > OUTAGE / 2, "{oldest:?}");

    etcd.restart().await.unwrap();
    let back = Instant::now();
    let set = members_until(&cell.registry, SERVICE, |set| {
        set.get(&host("a")).is_some_and(|member| member.addr == again.addr)
    })
    .await;
    println!("registered {:?} after etcd came back", back.elapsed());
    let mut epochs = restarted.epochs();
    let registered = *timeout(PATIENCE, epochs.wait_for(|epoch| *epoch > Epoch(0))).await.unwrap().unwrap();
    assert_eq!(set.get(&host("a")).unwrap().epoch, registered);
    assert!(set.get(&host("b")).is_some() && set.held.is_empty());
    ping_until(&channel, |answers| answers.contains_key("a again")).await;
    let fresh = async {
        while !members.stale_for().is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, fresh).await.unwrap();
    staying.deregister().await.unwrap();
}

#[tokio::test]
async fn a_compaction_under_a_follower_that_is_cut_off_makes_it_list_again() {
    let Some((etcd, direct)) = Cell::etcd().await else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let store = EtcdStore::connect(etcd_options(proxy.endpoint())).await.unwrap();
    let cut_off = Cell::over(Arc::new(store));
    let staying = direct.register(SERVICE, "staying", "10.0.0.1:1").await;
    let leaving = direct.register(SERVICE, "leaving", "10.0.0.2:1").await;
    let members = cut_off.registry.members(SERVICE);
    members_until(&cut_off.registry, SERVICE, |set| set.members.len() == 2).await;

    proxy.lead_to(None);
    let lost = async {
        while members.stale_for().is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, lost).await.unwrap();
    leaving.set_draining().await.unwrap();
    leaving.deregister().await.unwrap();
    let coming = direct.register(SERVICE, "coming", "10.0.0.3:1").await;
    let (_, revision) = direct.store.get("kilonova").await.unwrap();
    etcd.compact(revision).await.unwrap();
    assert_eq!(members.current().members.len(), 2, "still as it was");

    proxy.lead_to(Some(etcd.address()));
    let set = members_until(&cut_off.registry, SERVICE, |set| set.get(&host("coming")).is_some()).await;
    let names: Vec<_> = set.members.keys().map(|host| host.as_str()).collect();
    assert_eq!((names, set.held.len()), (vec!["coming", "staying"], 0));
    assert_eq!(set.get(&host("coming")).unwrap().epoch, coming.epoch());
    assert_eq!(set.get(&host("staying")).unwrap().epoch, staying.epoch());
    // And it follows on.
    coming.set_draining().await.unwrap();
    members_until(&cut_off.registry, SERVICE, |set| set.get(&host("coming")).unwrap().draining).await;
}

#[tokio::test]
async fn a_registration_and_a_follower_survive_the_death_of_the_leader() {
    let Some(mut cluster) = EtcdCluster::start().await.unwrap() else { return };
    let options = EtcdOptions { endpoints: cluster.endpoints(), ..etcd_options(String::new()) };
    let store = EtcdStore::connect(options).await.unwrap();
    let cell = Cell::over(Arc::new(store));
    let ttl = brief(5);
    let first = cell.registry.register(endpoint(SERVICE, "first", "10.0.0.1:1"), ttl.clone()).await.unwrap();
    members_until(&cell.registry, SERVICE, |set| set.members.len() == 1).await;
    let epoch = first.epoch();

    let killed = cluster.kill_leader().await.unwrap();
    let began = Instant::now();
    let second = endpoint(SERVICE, "second", "10.0.0.2:1");
    let second =
        timeout(PATIENCE, cell.registry.register(second, RegistryOptions::default())).await.unwrap().unwrap();
    let set = members_until(&cell.registry, SERVICE, |set| set.get(&host("second")).is_some()).await;
    println!("a member registered and was seen {:?} after the leader's death", began.elapsed());
    assert_eq!(set.get(&host("second")).unwrap().epoch, second.epoch());
    // Longer than a lease that is not renewed would live.
    tokio::time::sleep(ttl.ttl * 3 / 2).await;
    let set = cell.registry.members(SERVICE).current();
    assert_eq!(set.get(&host("first")).map(|member| member.epoch), Some(epoch));
    assert_eq!(first.epoch(), epoch);
    cluster.restart(killed).await.unwrap();
    first.deregister().await.unwrap();
    members_until(&cell.registry, SERVICE, |set| set.get(&host("first")).is_none()).await;
}

#[tokio::test]
async fn members_whose_leases_end_during_a_cut_are_held_if_they_are_most() {
    let Some((etcd, direct)) = Cell::etcd().await else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let store = EtcdStore::connect(etcd_options(proxy.endpoint())).await.unwrap();
    let follower = Cell::over(Arc::new(store));
    let server = Server::echo("all").await;
    let mut leases = Vec::new();
    for name in ["a", "b", "c", "d"] {
        leases.push(direct.put_leased(SERVICE, name, &server.addr).await);
    }
    members_until(&follower.registry, SERVICE, |set| set.members.len() == 4).await;
    proxy.lead_to(None);
    for lease in &leases[..3] {
        direct.store.revoke_lease(*lease).await.unwrap();
    }
    let (_, revision) = direct.store.get("kilonova").await.unwrap();
    etcd.compact(revision).await.unwrap();
    proxy.lead_to(Some(etcd.address()));
    let set = members_until(&follower.registry, SERVICE, |set| set.members.len() == 1).await;
    assert_eq!(set.held.len(), 3);
    let peers = follower.peers();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(ping(&peers.call_host(SERVICE, &host(name))).await.unwrap(), "all");
    }
}
