//! Services found elsewhere than in the store: static lists, DNS names, meshes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kilonova_model::{Reason, ServiceKind};
use kilonova_rpc::registry::{Address, Discovery, HostAddress, Resolve, Sources, parse_static};
use kilonova_rpc::status::reason_of;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::support::{Cell, PATIENCE, Server, endpoint, host, members_until, ping, ping_until, soon};

const SERVICE: ServiceKind = ServiceKind::Conductor;

fn port_of(server: &Server) -> &str {
    server.addr.rsplit_once(':').unwrap().1
}

#[tokio::test]
async fn a_static_list_is_called_by_service_and_by_name() {
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let members = vec![parse_static(&format!("first={}", a.addr)), parse_static(&b.addr)];
    let members = members.into_iter().collect::<Result<_, _>>().unwrap();
    let cell = Cell::with_target(SERVICE, Discovery::Static { members, host_address: None });
    let peers = cell.peers();
    ping_until(&peers.call(SERVICE), |answers| answers.len() == 2).await;
    assert_eq!(ping(&peers.call_host(SERVICE, &host("first"))).await.unwrap(), "a");
    let status = ping(&peers.call_host(SERVICE, &host("second"))).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::NoSuchHost), "{status}");
    b.kill();
    for _ in 0..20 {
        assert_eq!(ping(&peers.call_host(SERVICE, &host("first"))).await.unwrap(), "a");
    }
}

#[tokio::test]
async fn a_mesh_is_one_address_for_the_service_and_for_every_host() {
    let server = Server::echo("somebody").await;
    let address = Address::parse(&server.addr).unwrap();
    let cell = Cell::with_target(SERVICE, Discovery::Mesh { address: address.clone(), host_address: None });
    let peers = cell.peers();
    assert_eq!(ping(&peers.call(SERVICE)).await.unwrap(), "somebody");
    assert_eq!(ping(&peers.call_host(SERVICE, &host("conductor-7"))).await.unwrap(), "somebody");
    let one_of_many: Vec<_> = peers.states().into_iter().filter(|peer| !peer.directed).collect();
    assert_eq!(one_of_many.len(), 1);
    assert_eq!(one_of_many[0].addr, server.addr);
}

#[tokio::test]
async fn a_template_says_where_hosts_are() {
    let (any, one) = (Server::echo("any").await, Server::echo("one").await);
    let address = Address::parse(&any.addr).unwrap();
    let template = HostAddress::parse(&format!("{{host}}:{}", port_of(&one))).unwrap();
    let cell = Cell::with_target(SERVICE, Discovery::Mesh { address, host_address: Some(template) });
    let peers = cell.peers();
    assert_eq!(ping(&peers.call(SERVICE)).await.unwrap(), "any");
    assert_eq!(ping(&peers.call_host(SERVICE, &host("localhost"))).await.unwrap(), "one");
}

#[tokio::test]
async fn registering_goes_to_the_store_whatever_the_target() {
    let server = Server::echo("meshed").await;
    let address = Address::parse(&server.addr).unwrap();
    let cell = Cell::with_target(SERVICE, Discovery::Mesh { address, host_address: None });
    let registration = cell.register(SERVICE, "conductor-1", "10.0.0.7:7771").await;
    let set = members_until(&cell.registry, SERVICE, |set| !set.members.is_empty()).await;
    assert_eq!(set.get(&host("conductor-1")).unwrap().epoch, registration.epoch());
    assert_eq!(ping(&cell.peers().call(SERVICE)).await.unwrap(), "meshed");
}

#[tokio::test]
async fn a_dns_name_is_every_address_it_has() {
    let server = Server::echo("local").await;
    let name = Address::parse(&format!("localhost:{}", port_of(&server))).unwrap();
    let refresh = Duration::from_secs(30);
    let cell = Cell::with_target(SERVICE, Discovery::Dns { name, refresh, host_address: None });
    let channel = cell.peers().call(SERVICE);
    channel.wait_ready(soon()).await.unwrap();
    assert_eq!(ping(&channel).await.unwrap(), "local");
}

/// Answers as it is told, or with an error.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(Option<Vec<SocketAddr>>, u32)>>);

impl Told {
    fn answer(&self, answer: Option<Vec<&Server>>) {
        let addresses = answer.map(|servers| servers.iter().map(|s| s.addr.parse().unwrap()).collect());
        self.0.lock().0 = addresses;
    }

    /// Waits until it was asked some more times.
    async fn asked_again(&self) {
        let before = self.0.lock().1;
        let asked = async {
            while self.0.lock().1 < before + 3 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap();
    }
}

impl Resolve for Told {
    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let mut told = self.0.lock();
        told.1 += 1;
        let answer = told.0.clone().ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { answer })
    }
}

#[tokio::test]
async fn a_dns_error_or_an_empty_answer_keeps_the_last_set() {
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let resolver = Told::default();
    let name = Address::parse("conductor.example:7771").unwrap();
    let target = Discovery::Dns { name, refresh: Duration::from_millis(20), host_address: None };
    let targets = [(SERVICE, target)].into();
    let cell =
        Cell::with_sources(Sources { targets, resolver: Arc::new(resolver.clone()), ..Sources::default() });
    let routes = cell.registry.routes(SERVICE);
    resolver.asked_again().await;
    assert!(!routes.current().is_known(), "not known before the first answer");
    resolver.answer(Some(vec![]));
    resolver.asked_again().await;
    assert!(!routes.current().is_known(), "nor by an empty one");

    resolver.answer(Some(vec![&a, &b]));
    let known = timeout(PATIENCE, routes.known()).await.unwrap();
    assert_eq!(known.members.len(), 2);
    assert!(known.members.values().all(|member| member.authority == "conductor.example:7771"));
    assert!(routes.stale_for().is_zero());
    for worse in [None, Some(vec![])] {
        resolver.answer(worse);
        resolver.asked_again().await;
        assert_eq!(routes.current(), known);
        assert!(!routes.stale_for().is_zero());
        let channel = cell.peers().call(SERVICE);
        ping_until(&channel, |answers| answers.contains_key("a") && answers.contains_key("b")).await;
    }
    resolver.answer(Some(vec![&b]));
    let mut sets = routes.subscribe();
    let fewer =
        timeout(PATIENCE, sets.wait_for(|set| set.members.len() == 1)).await.unwrap().unwrap().clone();
    assert!(fewer.revision > known.revision);
}

#[tokio::test]
async fn the_cap_is_the_least_minor_of_those_who_take_calls() {
    let cell = Cell::new();
    let members = cell.registry.members(SERVICE);
    members.known().await;
    assert_eq!(members.cap(), None);
    // Says nothing of its version.
    let foreign = r#"{"Op":0,"Addr":"10.0.0.1:1","Metadata":null}"#;
    let key = "kilonova/v1/test/endpoints/conductor/foreign";
    cell.store.txn(kilonova_store::Txn::new().put(key, foreign)).await.unwrap();
    let mut registrations = Vec::new();
    for (name, minor) in [("new", 5), ("old", 3)] {
        let endpoint = kilonova_rpc::registry::Endpoint { minor, ..endpoint(SERVICE, name, "10.0.0.2:1") };
        registrations.push(cell.registry.register(endpoint, Default::default()).await.unwrap());
    }
    members_until(&cell.registry, SERVICE, |set| set.members.len() == 3).await;
    assert_eq!(members.cap(), Some(3));
    registrations[1].set_draining().await.unwrap();
    members_until(&cell.registry, SERVICE, |set| set.get(&host("old")).unwrap().draining).await;
    assert_eq!(members.cap(), Some(5));
}
