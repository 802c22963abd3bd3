//! The process that subscribes to many members through our pool. Like the others it says `ready` and then the times;
//! before, and whenever asked, what it has used.

use std::sync::Arc;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Registry, RegistryOptions};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use tokio::task::JoinSet;

use super::publisher::member;
use super::subscribers::{Received, answer, follow};
use super::usage::Usage;

pub async fn run(addresses: String) {
    let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().expect("a store"));
    let registry = Registry::new(store, CellName::parse("bench").expect("a cell name"));
    let addresses: Vec<&str> = addresses.split(',').collect();
    let mut registered = Vec::new();
    for (number, addr) in addresses.iter().enumerate() {
        let endpoint = Endpoint {
            service: ServiceKind::Compute,
            host: host(number),
            addr: (*addr).to_owned(),
            zone: ZoneName::parse("zone-1").expect("a zone name"),
            minor: 0,
            authority: None,
        };
        let registration = registry.register(endpoint, RegistryOptions::default()).await;
        registered.push(registration.expect("registered"));
    }
    let caller = Caller::new(ServiceKind::Scheduler, HostName::parse("caller").expect("a host name"));
    let peers = Peers::new(registry, caller, PeersOptions::default());
    println!("{}", Usage::of_this_process().line());
    let received = Received::of(addresses.len());
    let mut subscribers = JoinSet::new();
    for number in 0..addresses.len() {
        let channel = peers.call_host(ServiceKind::Compute, &host(number)).wait_for_ready();
        subscribers.spawn(follow(channel, received.clone()));
    }
    answer().await;
}

fn host(number: usize) -> HostName {
    HostName::parse(&member(number)).expect("a host name")
}
