//! The cases of the conformance suite. Each gets a store of its own.

mod leases;
mod records;
mod watches;

pub use leases::*;
pub use records::*;
pub use watches::*;

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kilonova_model::Revision;
use kilonova_store::{KeyValue, SharedStore, Txn, TxnOutcome, Watch, WatchEvent};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn commit(store: &SharedStore, txn: Txn) -> Revision {
    match store.txn(txn).await.expect("the store answers") {
        TxnOutcome::Committed { revision } => revision,
        TxnOutcome::Conflict { failed, .. } => panic!("compares {failed:?} failed"),
    }
}

pub async fn put(store: &SharedStore, key: &str, value: &str) -> Revision {
    commit(store, Txn::new().put(key, value.to_owned())).await
}

pub async fn value_of(store: &SharedStore, key: &str) -> Option<Bytes> {
    store.get(key).await.expect("the store answers").0.map(|item| item.value)
}

pub async fn list_all(store: &SharedStore, prefix: &str) -> Vec<KeyValue> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(prefix, after.as_deref(), 100).await.expect("the store answers");
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            return items;
        }
    }
}

pub async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next())
        .await
        .expect("an event comes")
        .expect("a watch does not end by itself")
}

pub async fn next_snapshot(watch: &mut Watch) -> (Vec<KeyValue>, Revision) {
    match next(watch).await {
        WatchEvent::Snapshot { items, revision, .. } => (items, revision),
        other => panic!("expected a snapshot, got {other:?}"),
    }
}

pub async fn next_put(watch: &mut Watch) -> KeyValue {
    match next(watch).await {
        WatchEvent::Put(item) => item,
        other => panic!("expected a put, got {other:?}"),
    }
}

pub async fn next_delete(watch: &mut Watch) -> (String, Revision) {
    match next(watch).await {
        WatchEvent::Delete { key, revision } => (key, revision),
        other => panic!("expected a delete, got {other:?}"),
    }
}
