//! The members last known, in a file, for those who start while the store is away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, Epoch, ServiceKind};
use kilonova_rpc::registry::{Registry, RegistryOptions, Sources};
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::testing::EtcdProcess;
use kilonova_store::{EtcdStore, SharedStore};
use tokio::time::timeout;

use crate::support::{Cell, PATIENCE, Server, endpoint, etcd_options, host, members_until, ping};

const SERVICE: ServiceKind = ServiceKind::Conductor;

fn remembering(store: SharedStore, cell: &str, file: &Path) -> Cell {
    let sources = Sources { snapshot: Some(file.to_owned()), ..Sources::default() };
    Cell { registry: Registry::with_sources(store.clone(), CellName::parse(cell).unwrap(), sources), store }
}

fn embedded() -> SharedStore {
    Arc::new(EmbeddedStore::open_temporary().unwrap())
}

async fn written(file: &Path, wanted: impl Fn(&str) -> bool) {
    let look = async {
        while !std::fs::read_to_string(file).is_ok_and(|text| wanted(&text)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = timeout(PATIENCE, look).await;
    assert!(found.is_ok(), "{:?}", std::fs::read_to_string(file));
}

#[tokio::test]
async fn who_starts_without_etcd_knows_its_peers_and_registers_later() {
    let Some(mut etcd) = EtcdProcess::start().await.unwrap() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("members/api.json");
    let server = Server::echo("a").await;
    let store = Arc::new(EtcdStore::connect(etcd_options(etcd.endpoint())).await.unwrap());
    let before = remembering(store, "test", &file);
    assert!(!before.registry.remembers());
    let registration = before.register(SERVICE, "a", &server.addr).await;
    members_until(&before.registry, SERVICE, |set| set.members.len() == 1).await;
    written(&file, |text| text.contains(&server.addr)).await;

    etcd.kill().unwrap();
    let store = EtcdStore::connect_lazily(etcd_options(etcd.endpoint())).await.unwrap();
    let cell = remembering(Arc::new(store), "test", &file);
    assert!(cell.registry.remembers());
    let members = cell.registry.members(SERVICE);
    assert_eq!(members.current().get(&host("a")).unwrap().epoch, registration.epoch());
    assert_eq!(ping(&cell.peers().call(SERVICE)).await.unwrap(), "a");
    let own = endpoint(ServiceKind::Api, "api-1", "10.0.0.9:7770");
    let own = cell.registry.register_eventually(own, RegistryOptions { ttl: Duration::from_secs(2) });
    let own = timeout(PATIENCE, own).await.unwrap().unwrap();
    assert_eq!(own.epoch(), Epoch(0));
    own.set_draining().await.unwrap();
    assert!(!members.stale_for().is_zero());

    etcd.restart().await.unwrap();
    let mut epochs = own.epochs();
    drop(timeout(PATIENCE, epochs.wait_for(|epoch| *epoch > Epoch(0))).await.unwrap().unwrap());
    let api = members_until(&cell.registry, ServiceKind::Api, |set| !set.members.is_empty()).await;
    assert!(api.get(&host("api-1")).unwrap().draining, "what was said before it registered holds");
    let fresh = async {
        while !members.stale_for().is_zero() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, fresh).await.unwrap();
    own.deregister().await.unwrap();
}

#[tokio::test]
async fn registering_eventually_is_registering_when_the_store_is_there() {
    let cell = Cell::new();
    let own = endpoint(SERVICE, "a", "10.0.0.9:7771");
    let own = cell.registry.register_eventually(own, RegistryOptions::default()).await.unwrap();
    assert!(own.epoch() > Epoch(0));
    let other = endpoint(SERVICE, "a", "10.0.0.10:7771");
    let brief = RegistryOptions { ttl: Duration::from_millis(300) };
    let error = cell.registry.register_eventually(other, brief).await.unwrap_err();
    assert!(error.to_string().contains("another host name"), "{error}");
}

#[tokio::test]
async fn a_broken_or_foreign_file_is_ignored_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("members.json");
    let first = remembering(embedded(), "test", &file);
    first.put_leased(SERVICE, "a", "10.0.0.7:7771").await;
    members_until(&first.registry, SERVICE, |set| set.members.len() == 1).await;
    written(&file, |text| text.contains("10.0.0.7:7771")).await;
    drop(first);
    assert!(!remembering(embedded(), "other", &file).registry.remembers());

    std::fs::write(&file, b"{\"version\":1,\"cell\":\"te").unwrap();
    let second = remembering(embedded(), "test", &file);
    assert!(!second.registry.remembers());
    second.put_leased(SERVICE, "b", "10.0.0.8:7771").await;
    members_until(&second.registry, SERVICE, |set| set.get(&host("b")).is_some()).await;
    written(&file, |text| text.contains("10.0.0.8:7771") && !text.contains("10.0.0.7")).await;
}

#[tokio::test]
async fn what_the_store_says_takes_the_place_of_what_was_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("members.json");
    let first = remembering(embedded(), "test", &file);
    let mut names = Vec::new();
    for n in 0..5 {
        names.push(host(&format!("h{n}")));
        first.put_leased(SERVICE, names[n].as_str(), "10.0.0.7:7771").await;
    }
    members_until(&first.registry, SERVICE, |set| set.members.len() == 5).await;
    written(&file, |text| text.contains("h4")).await;

    let second = remembering(embedded(), "test", &file);
    // Most of those remembered are there; the others have left.
    for name in &names[..3] {
        second.put_leased(SERVICE, name.as_str(), "10.0.0.8:7771").await;
    }
    let set = members_until(&second.registry, SERVICE, |set| {
        set.members.len() == 3 && set.members.values().all(|member| member.addr == "10.0.0.8:7771")
    })
    .await;
    assert!(set.held.is_empty());
}
