//! Registering: epochs, duplicates, lost leases, draining, leaving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Revision, ServiceKind};
use kilonova_rpc::registry::{RegisterError, RegistryOptions};
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::{
    KeyValue, LeaseId, Op, Page, SharedStore, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::support::{Cell, PATIENCE, endpoint, host, members_until};

const SERVICE: ServiceKind = ServiceKind::Volume;
const KEY: &str = "kilonova/v1/test/endpoints/volume/node1@lvm";

fn short() -> RegistryOptions {
    RegistryOptions { ttl: Duration::from_millis(600) }
}

#[tokio::test]
async fn a_registration_is_seen_drains_and_leaves() {
    let cell = Cell::new();
    let mut sets = cell.registry.members(SERVICE).subscribe();
    let name = host("node1@lvm");
    let registration = cell.register(SERVICE, "node1@lvm", "10.0.0.7:7773").await;
    let seen =
        timeout(PATIENCE, sets.wait_for(|set| set.get(&name).is_some())).await.unwrap().unwrap().clone();
    let member = seen.get(&name).unwrap();
    assert_eq!((member.addr.as_str(), member.epoch), ("10.0.0.7:7773", registration.epoch()));
    assert!(!member.draining);

    let (item, _) = cell.store.get(KEY).await.unwrap();
    let expected = format!(
        r#"{{"Op":0,"Addr":"10.0.0.7:7773","Metadata":{{"host":"node1@lvm","epoch":{},"zone":"az1","minor":0,"authority":"10.0.0.7:7773","draining":false}}}}"#,
        registration.epoch()
    );
    assert_eq!(String::from_utf8(item.unwrap().value.to_vec()).unwrap(), expected);

    registration.set_draining().await.unwrap();
    let drains = sets.wait_for(|set| set.get(&name).is_some_and(|member| member.draining));
    drop(timeout(PATIENCE, drains).await.unwrap().unwrap());
    registration.deregister().await.unwrap();
    drop(timeout(PATIENCE, sets.wait_for(|set| set.get(&name).is_none())).await.unwrap().unwrap());
    assert!(cell.store.get(KEY).await.unwrap().0.is_none());
}

#[tokio::test]
async fn epochs_of_one_name_only_grow() {
    let cell = Cell::new();
    let mut last = kilonova_model::Epoch(0);
    for round in 0..5 {
        let registration = cell.register(SERVICE, "node1@lvm", "10.0.0.7:7773").await;
        assert!(registration.epoch() > last);
        last = registration.epoch();
        if round % 2 == 0 {
            registration.deregister().await.unwrap();
        }
        // Otherwise it crashes: the record stays, and the same address may take it over at once.
    }
}

async fn a_second_process_of_the_same_name_is_refused(cell: Cell) {
    let brief = RegistryOptions { ttl: Duration::from_secs(1) };
    let first = endpoint(SERVICE, "node1@lvm", "10.0.0.7:7773");
    let first = cell.registry.register(first, brief.clone()).await.unwrap();
    let second = endpoint(SERVICE, "node1@lvm", "10.0.0.8:7773");
    let error = cell.registry.register(second, brief).await.unwrap_err();
    assert!(matches!(error, RegisterError::Duplicate { .. }));
    let text = error.to_string();
    assert!(text.contains("10.0.0.7:7773") && text.contains("10.0.0.8:7773"), "{text}");
    assert_eq!(
        cell.registry.members(SERVICE).known().await.get(&host("node1@lvm")).unwrap().epoch,
        first.epoch()
    );
}

#[tokio::test]
async fn a_second_process_of_the_same_name_is_refused_in_the_embedded_store() {
    a_second_process_of_the_same_name_is_refused(Cell::new()).await;
}

#[tokio::test]
async fn a_second_process_of_the_same_name_is_refused_in_etcd() {
    let Some((_etcd, cell)) = Cell::etcd().await else { return };
    a_second_process_of_the_same_name_is_refused(cell).await;
}

/// All are seen, and how long that took is printed.
async fn a_thousand_at_once(cell: Cell) {
    let members = cell.registry.members(SERVICE);
    timeout(PATIENCE, members.known()).await.unwrap();
    let began = Instant::now();
    for hundred in 0..10 {
        let put = |txn: Txn, n: u32| {
            let key = format!("kilonova/v1/test/endpoints/volume/h{}", hundred * 100 + n);
            txn.put(key, format!(r#"{{"Op":0,"Addr":"10.0.0.{n}:7773","Metadata":null}}"#))
        };
        cell.store.txn((0..100).fold(Txn::new(), put)).await.unwrap();
    }
    let written = began.elapsed();
    members_until(&cell.registry, SERVICE, |set| set.members.len() == 1000).await;
    let seen = began.elapsed();
    println!("1,000 members in {}: written after {written:?}, all seen after {seen:?}", cell.store.name());
    assert!(seen < Duration::from_secs(5), "{seen:?}");
}

#[tokio::test]
async fn a_thousand_members_at_once_are_seen_in_the_embedded_store() {
    a_thousand_at_once(Cell::new()).await;
}

#[tokio::test]
async fn a_thousand_members_at_once_are_seen_in_etcd() {
    let Some((_etcd, cell)) = Cell::etcd().await else { return };
    a_thousand_at_once(cell).await;
}

#[tokio::test]
async fn the_name_of_a_dead_process_is_free_after_one_ttl() {
    let cell = Cell::new();
    let dead =
        cell.registry.register(endpoint(SERVICE, "node1@lvm", "10.0.0.7:7773"), short()).await.unwrap();
    let epoch = dead.epoch();
    drop(dead);
    let heir = endpoint(SERVICE, "node1@lvm", "10.0.0.8:7773");
    let heir = timeout(PATIENCE, cell.registry.register(heir, short())).await.unwrap().unwrap();
    assert!(heir.epoch() > epoch);
}

#[tokio::test]
async fn a_deleted_record_comes_back() {
    let cell = Cell::new();
    let quick = RegistryOptions { ttl: Duration::from_millis(60) };
    let registration =
        cell.registry.register(endpoint(SERVICE, "node1@lvm", "10.0.0.7:7773"), quick).await.unwrap();
    let mut epochs = registration.epochs();
    let first = *epochs.borrow_and_update();
    cell.store.txn(Txn::new().delete(KEY)).await.unwrap();
    drop(timeout(PATIENCE, epochs.wait_for(|epoch| *epoch > first)).await.unwrap().unwrap());
    assert!(cell.store.get(KEY).await.unwrap().0.is_some());
}

/// A store that can lose a lease.
struct Forgetful {
    store: EmbeddedStore,
    forget: AtomicBool,
    /// How many leases end between their grant and the put that names them.
    short_lived: AtomicU32,
}

impl Forgetful {
    fn new() -> Arc<Self> {
        let store = EmbeddedStore::open_temporary().unwrap();
        Arc::new(Self { store, forget: AtomicBool::new(false), short_lived: AtomicU32::new(0) })
    }
}

#[async_trait]
impl Store for Forgetful {
    fn name(&self) -> &'static str {
        self.store.name()
    }
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.store.list(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let lease = txn.ops.iter().find_map(|op| if let Op::Put { lease, .. } = op { *lease } else { None });
        if let Some(lease) = lease
            && self.short_lived.load(Ordering::SeqCst) > 0
        {
            self.short_lived.fetch_sub(1, Ordering::SeqCst);
            self.store.revoke_lease(lease).await?;
        }
        self.store.txn(txn).await
    }
    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        self.store.watch(prefix, from)
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.forget.swap(false, Ordering::SeqCst) {
            self.store.revoke_lease(lease).await?;
        }
        self.store.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }
    fn went_back(&self) -> watch::Receiver<u64> {
        self.store.went_back()
    }

    async fn lineage(&self) -> Result<u64, StoreError> {
        self.store.lineage().await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

#[tokio::test]
async fn a_lease_that_ended_before_it_was_used_is_granted_anew() {
    let store = Forgetful::new();
    store.short_lived.store(3, Ordering::SeqCst);
    let cell = Cell::over(store.clone());
    let registering = cell.registry.register(endpoint(SERVICE, "node1@lvm", "10.0.0.7:7773"), short());
    let registration = timeout(PATIENCE, registering).await.unwrap().unwrap();
    assert!(cell.store.get(KEY).await.unwrap().0.is_some_and(|record| record.leased));
    assert_eq!(store.short_lived.load(Ordering::SeqCst), 0);
    registration.deregister().await.unwrap();
}

#[tokio::test]
async fn a_lost_lease_is_a_new_incarnation() {
    let store = Forgetful::new();
    let shared: SharedStore = store.clone();
    let cell = Cell::over(shared);
    let registration =
        cell.registry.register(endpoint(SERVICE, "node1@lvm", "10.0.0.7:7773"), short()).await.unwrap();
    let mut epochs = registration.epochs();
    let first = *epochs.borrow_and_update();
    registration.set_draining().await.unwrap();
    store.forget.store(true, Ordering::SeqCst);
    let again = *timeout(PATIENCE, epochs.wait_for(|epoch| *epoch > first)).await.unwrap().unwrap();
    let name = host("node1@lvm");
    let mut sets = cell.registry.members(SERVICE).subscribe();
    let renewed = sets.wait_for(|set| set.get(&name).is_some_and(|member| member.epoch == again));
    let set = timeout(PATIENCE, renewed).await.unwrap().unwrap().clone();
    assert!(set.get(&name).unwrap().draining, "draining outlives the lease");
    registration.deregister().await.unwrap();
}
