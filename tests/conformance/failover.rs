//! What dies or falls silent, and who goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::ServiceKind;
use kilonova_rpc::peers::Peers;
use kilonova_tests::waiting::{PATIENCE, until};
use kilonova_tests::{Backing, Plan};

use crate::fake::ping;
use crate::links::Links;
use crate::real::{cluster_on, instances, send};
use crate::world::{World, ready, to, until_ready};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    calls_survive_the_death_of_one_conductor_after_the_other,
    calls_go_on_while_the_registry_is_away,
    a_crash_a_stop_and_a_silence_each_lead_to_another_member,
    a_silent_idle_connection_is_found_and_made_again,
);

/// 51: every call completes, and each is done once.
async fn calls_survive_the_death_of_one_conductor_after_the_other(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let mut cluster = cluster_on(&world, Plan::new(backing), [3, 0, 0]).await;
    cluster.api().seed().await;
    let peers = world.peers();
    ready(&peers, ServiceKind::Conductor, 3).await;
    let conductor = peers.cast(ServiceKind::Conductor).wait_for_ready();
    let done = parking_lot::Mutex::new(BTreeMap::new());
    let enough = AtomicBool::new(false);
    let caller = async |caller: usize| {
        for number in 0.. {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            let request_id = format!("request-{caller}-{number}");
            let id = send(conductor.clone(), &request_id).await.unwrap().remove(0);
            done.lock().insert(request_id, id);
        }
    };
    let ten_more = async || {
        let before = done.lock().len();
        until("calls are done", || async { (done.lock().len() >= before + 10).then_some(()) }).await;
    };
    let killer = async {
        ten_more().await;
        for victim in ["conductor-1", "conductor-2"] {
            cluster.kill(ServiceKind::Conductor, victim);
            ten_more().await;
        }
        enough.store(true, Ordering::Relaxed);
    };
    tokio::join!(join_all((0..4).map(caller)), killer);
    let accepted: BTreeSet<_> = done.lock().values().cloned().collect();
    assert_eq!(accepted.len(), done.lock().len());
    assert_eq!(instances(&cluster).await, accepted);
    cluster.shutdown().await;
}

/// 51, of etcd: who is known is called as before. The embedded store cannot be away: it is part of the process.
async fn calls_go_on_while_the_registry_is_away(backing: Backing) {
    if backing == Backing::Embedded {
        return;
    }
    let Some((world, mut etcd)) = World::on_its_own_etcd().await else { return };
    let (a, b) = (world.member(SERVICE, "a").await, world.member(SERVICE, "b").await);
    let peers = world.peers();
    ready(&peers, SERVICE, 2).await;
    etcd.kill().unwrap();
    for _ in 0..20 {
        ping(&peers.call(SERVICE), "x").await.unwrap();
    }
    // A name that was not called before is found too: the members are known.
    ping(&to(&peers, &a), "x").await.unwrap();
    b.kill();
    for _ in 0..20 {
        assert_eq!(ping(&peers.call(SERVICE).wait_for_ready(), "x").await.unwrap().host, "a");
    }
    etcd.restart().await.unwrap();
    let c = world.member(SERVICE, "c").await;
    until_ready(&peers, &c.host, true).await;
}

/// Peers that find a silent member soon.
fn watchful(world: &World, links: &Links) -> Peers {
    world.peers_with(|options| {
        options.transport = Arc::new(links.clone());
        options.keep_alive_interval = Duration::from_millis(100);
        options.keep_alive_timeout = Duration::from_millis(100);
        options.connect_timeout = Duration::from_millis(500);
    })
}

/// 52.
async fn a_crash_a_stop_and_a_silence_each_lead_to_another_member(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let (a, b) = (world.member(SERVICE, "a").await, world.member(SERVICE, "b").await);
    let (c, d) = (world.member(SERVICE, "c").await, world.member(SERVICE, "d").await);
    let links = Links::default();
    let peers = watchful(&world, &links);
    ready(&peers, SERVICE, 4).await;
    let group = peers.call(SERVICE);
    let ten = async || {
        let mut hosts = BTreeSet::new();
        for _ in 0..10 {
            hosts.insert(ping(&group, "x").await.unwrap().host);
        }
        hosts
    };
    let (a_host, b_host, c_host) = (a.host.clone(), b.host.clone(), c.host.clone());
    a.kill();
    ten().await;
    until_ready(&peers, &a_host, false).await;
    b.stop(PATIENCE).await;
    ten().await;
    until_ready(&peers, &b_host, false).await;
    links.silence(&c.addr);
    ten().await;
    until_ready(&peers, &c_host, false).await;
    assert_eq!(ten().await, BTreeSet::from(["d".to_owned()]));
    assert_eq!(ping(&to(&peers, &d), "x").await.unwrap().host, "d");
}

/// 53: with no call on it, its pings tell; it is called again when it can be heard again.
async fn a_silent_idle_connection_is_found_and_made_again(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let links = Links::default();
    let peers = watchful(&world, &links);
    ready(&peers, SERVICE, 1).await;
    links.silence(&member.addr);
    until_ready(&peers, &member.host, false).await;
    assert!(member.fake.began().is_empty(), "nobody called it");
    links.end_silence();
    until_ready(&peers, &member.host, true).await;
    ping(&peers.call(SERVICE), "x").await.unwrap();
}
