//! Several conductors over one store.

use async_trait::async_trait;
use kilonova_conductor::records::Written;
use kilonova_model::{InstanceId, Revision};
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1::instance::State;
use kilonova_store::{
    EmbeddedStore, KeyValue, LeaseId, Page, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_conductors_work_is_finished_by_the_other() {
    let cell = Cell::new(&["h1", "h2"]).await;
    let one = cell.conductor("c1").await;
    cell.hosts.world.lock().silent = ["h1", "h2"].map(str::to_owned).into();
    let ids = one.create("", 8).await.unwrap();
    for id in &ids {
        one.until(*id, |i| !i.host.is_empty()).await;
    }
    one.die().await;
    cell.hosts.world.lock().silent.clear();
    let two = cell.conductor("c2").await;
    for id in &ids {
        two.until(*id, |i| i.state() == State::Active).await;
    }
    let mut hosts_of: BTreeMap<InstanceId, BTreeSet<String>> = BTreeMap::new();
    for (id, host, _) in &cell.hosts.world.lock().builds {
        hosts_of.entry(*id).or_default().insert(host.clone());
    }
    assert!(hosts_of.values().all(|hosts| hosts.len() == 1), "{hosts_of:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_committed_another_has_in_memory_once_it_is_brought_up_to_date() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    for _ in 0..10 {
        let id = one.create("", 1).await.unwrap()[0];
        let (first, second) =
            tokio::join!(two.records.brought_up_to_date(), two.records.brought_up_to_date());
        first.and(second).unwrap();
        assert!(two.records.cache.get(&id).is_some(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_are_shared_and_an_old_owners_write_is_refused() {
    let cell = Cell::new(&["h1"]).await;
    let one = cell.conductor("c1").await;
    let id = one.create("", 1).await.unwrap()[0];
    let record = one.until(id, |i| i.state() == State::Active).await;
    let fence = one.shards.fence(&id).expect("a lone conductor owns every shard");
    // The key is taken away and taken again, as after an expired lease.
    cell.store.txn(Txn::new().delete(fence.key.clone())).await.unwrap();
    cell.store.txn(Txn::new().put(fence.key.clone(), "")).await.unwrap();
    let entry = one.records.read(id).await.unwrap().unwrap();
    let written = one
        .records
        .write(id, &entry, InstanceRecord::clone(&record), Some(&fence), Txn::new())
        .await
        .unwrap();
    assert!(matches!(written, Written::Fenced));
    // Once the foreign key is gone the shard is taken again, and the record is driven under a new right.
    cell.store.txn(Txn::new().delete(fence.key.clone())).await.unwrap();
    let again = eventually("the shard is taken again", || one.shards.fence(&id)).await;
    assert!(again.revision > fence.revision);
    one.delete(id).await.unwrap();
    one.until(id, |i| i.state() == State::Deleted).await;

    let two = cell.conductor("c2").await;
    eventually("all shards are shared", || {
        let (one, two) = (one.shards.owned(), two.shards.owned());
        (one + two == 256 && one > 64 && two > 64).then_some(())
    })
    .await;
}

/// A store whose next leases end before they are used.
struct Mayflies {
    store: EmbeddedStore,
    left: AtomicU32,
}

#[async_trait]
impl Store for Mayflies {
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
        self.store.txn(txn).await
    }
    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        self.store.watch(prefix, from)
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let lease = self.store.grant_lease(ttl).await?;
        if self.left.load(Ordering::SeqCst) > 0 {
            self.left.fetch_sub(1, Ordering::SeqCst);
            self.store.revoke_lease(lease).await?;
        }
        Ok(lease)
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_on_the_shards_that_ended_before_its_use_is_granted_anew() {
    let left = AtomicU32::new(0);
    let store = Arc::new(Mayflies { store: EmbeddedStore::open_temporary().unwrap(), left });
    let cell = Cell::over(store.clone(), &["h1"]).await;
    store.left.store(3, Ordering::SeqCst);
    let one = cell.conductor("c1").await;
    eventually("all shards are owned", || (one.shards.owned() == 256).then_some(())).await;
    assert_eq!(store.left.load(Ordering::SeqCst), 0);
}
