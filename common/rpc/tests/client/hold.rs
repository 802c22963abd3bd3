//! Members that vanish all at once are called as long as they serve.

use std::time::Duration;

use kilonova_model::{Reason, ServiceKind};
use kilonova_rpc::registry::MemberSet;
use kilonova_rpc::status::reason_of;
use kilonova_store::testing::Proxy;
use tokio::time::timeout;

use crate::support::{Cell, PATIENCE, Server, host, members_until, peer_until, ping, ping_until, ping_with};

const SERVICE: ServiceKind = ServiceKind::Compute;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn names(set: &MemberSet) -> (Vec<&str>, Vec<&str>) {
    (
        set.members.keys().map(|host| host.as_str()).collect(),
        set.held.keys().map(|host| host.as_str()).collect(),
    )
}

async fn three_of_four_leases_end(cell: Cell) {
    let mut servers = Vec::new();
    let mut leases = Vec::new();
    for name in NAMES {
        let server = Server::echo(name).await;
        leases.push(cell.put_leased(SERVICE, name, &server.addr).await);
        servers.push(server);
    }
    let before = cell.peers();
    ping_until(&before.call(SERVICE), |answers| answers.len() == 4).await;
    let dead = servers.remove(0);
    dead.kill();
    for lease in &leases[..3] {
        cell.store.revoke_lease(*lease).await.unwrap();
    }

    let set = members_until(&cell.registry, SERVICE, |set| set.members.len() == 1).await;
    assert_eq!(set.members.keys().next(), Some(&host("d")));
    // Who could not be connected to leaves; the others stay, for those who come now as well.
    let set = members_until(&cell.registry, SERVICE, |set| set.held.len() == 2).await;
    assert_eq!(names(&set), (vec!["d"], vec!["b", "c"]));
    let after = cell.peers();
    for peers in [&before, &after] {
        let channel = peers.call(SERVICE);
        ping_until(&channel, |answers| ["b", "c", "d"].iter().all(|name| answers.contains_key(*name))).await;
        assert_eq!(ping(&peers.call_host(SERVICE, &host("b"))).await.unwrap(), "b");
    }
    let gone = ping(&after.call_host(SERVICE, &host("a"))).await.unwrap_err();
    assert_eq!(reason_of(&gone), Some(Reason::NoSuchHost), "{gone}");

    // One comes back, and the other does not answer a call by name any longer.
    cell.put_leased(SERVICE, "b", &servers[0].addr).await;
    members_until(&cell.registry, SERVICE, |set| names(set) == (vec!["b", "d"], vec!["c"])).await;
    servers.remove(1).kill();
    members_until(&cell.registry, SERVICE, |set| set.held.is_empty()).await;
    let left = async {
        while after.states().iter().any(|peer| peer.host == host("c") && !peer.directed) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, left).await.unwrap();
}

#[tokio::test]
async fn three_of_four_leases_end_in_the_embedded_store() {
    three_of_four_leases_end(Cell::new()).await;
}

#[tokio::test]
async fn three_of_four_leases_end_in_etcd() {
    let Some((_etcd, cell)) = Cell::etcd().await else { return };
    three_of_four_leases_end(cell).await;
}

#[tokio::test]
async fn a_call_by_name_that_fails_ends_the_hold() {
    let cell = Cell::new();
    let server = Server::echo("a").await;
    let mut leases = Vec::new();
    for name in ["a", "b"] {
        leases.push(cell.put_leased(SERVICE, name, &server.addr).await);
    }
    members_until(&cell.registry, SERVICE, |set| set.members.len() == 2).await;
    for lease in leases {
        cell.store.revoke_lease(lease).await.unwrap();
    }
    members_until(&cell.registry, SERVICE, |set| set.held.len() == 2).await;
    let peers = cell.peers();
    assert_eq!(ping(&peers.call_host(SERVICE, &host("a"))).await.unwrap(), "a");
    server.kill();
    let status = ping(&peers.call_host(SERVICE, &host("b"))).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::ConnectFailed), "{status}");
    members_until(&cell.registry, SERVICE, |set| names(set) == (vec![], vec!["a"])).await;
}

#[tokio::test]
async fn those_who_drained_are_not_held() {
    let cell = Cell::new();
    let server = Server::echo("s").await;
    let mut registrations = Vec::new();
    for name in NAMES {
        registrations.push(cell.register(SERVICE, name, &server.addr).await);
    }
    members_until(&cell.registry, SERVICE, |set| set.members.len() == 4).await;
    for registration in registrations.drain(1..) {
        registration.set_draining().await.unwrap();
        registration.deregister().await.unwrap();
    }
    let set = members_until(&cell.registry, SERVICE, |set| set.members.len() == 1).await;
    assert!(set.held.is_empty());
}

#[tokio::test]
async fn a_lost_connection_alone_does_not_end_the_hold() {
    let cell = Cell::new();
    let server = Server::echo("a").await;
    let target = Some(server.addr.parse().unwrap());
    let proxy = Proxy::start(target).await.unwrap();
    let mut leases = Vec::new();
    for (name, addr) in [("a", proxy.endpoint()), ("b", server.addr.clone())] {
        leases.push(cell.put_leased(SERVICE, name, &addr).await);
    }
    let peers = cell.peers();
    ping_until(&peers.call(SERVICE), |answers| !answers.is_empty()).await;
    peer_until(&peers, "a", |ready, _| ready).await;
    for lease in leases {
        cell.store.revoke_lease(lease).await.unwrap();
    }
    members_until(&cell.registry, SERVICE, |set| set.held.len() == 2).await;

    let to_a = peers.call_host(SERVICE, &host("a"));
    assert_eq!(ping(&to_a).await.unwrap(), "a");
    let before = server.callers.lock().len();
    let cut = async {
        while server.callers.lock().len() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        proxy.lead_to(target);
    };
    // Sent again over the next connection, it hangs there.
    let hanging = to_a.clone().within(Duration::from_secs(1));
    let (lost, ()) = tokio::join!(ping_with(&hanging, "hang"), cut);
    assert!(lost.is_err());
    ping_until(&to_a, |answers| answers.contains_key("a")).await;
    peer_until(&peers, "a", |ready, _| ready).await;
    assert!(cell.registry.members(SERVICE).current().held.contains_key(&host("a")));
}
