//! Leases. The shortest that both stores grant is one second.

use std::time::Duration;

use kilonova_store::{SharedStore, StoreError, Txn, TxnOutcome, WatchFrom};
use tokio::time::Instant;

use super::{commit, next_delete, next_put, next_snapshot, put, value_of};

const TTL: Duration = Duration::from_secs(1);

pub async fn keys_of_an_expired_lease_are_deleted(store: SharedStore) {
    let granted = Instant::now();
    let lease = store.grant_lease(TTL).await.unwrap();
    let mut watch = store.watch("l/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    let written = commit(
        &store,
        Txn::new().put_leased("l/a", "1", lease).put_leased("l/b", "1", lease).put("l/c", "1"),
    )
    .await;
    for leased in [true, true, false] {
        assert_eq!(next_put(&mut watch).await.leased, leased);
    }
    assert!(store.get("l/a").await.unwrap().0.unwrap().leased);

    let mut deleted = [next_delete(&mut watch).await, next_delete(&mut watch).await];
    assert!(granted.elapsed() >= TTL, "not before its time: {:?}", granted.elapsed());
    deleted.sort();
    assert_eq!(deleted.each_ref().map(|(key, _)| key.as_str()), ["l/a", "l/b"]);
    assert!(deleted.iter().all(|(_, revision)| *revision > written));
    assert_eq!(value_of(&store, "l/a").await, None);
    assert_eq!(value_of(&store, "l/c").await.unwrap(), "1");

    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(store.revoke_lease(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(store.txn(Txn::new().put_leased("l/a", "2", lease)).await, Err(StoreError::LeaseGone));
    assert_eq!(value_of(&store, "l/a").await, None);
}

pub async fn a_renewed_lease_lives_on(store: SharedStore) {
    let renewed = store.grant_lease(TTL).await.unwrap();
    commit(&store, Txn::new().put_leased("l/renewed", "1", renewed)).await;
    // Two leases, one after the other, live and die while the renewed one lives.
    for n in 0..2 {
        let key = format!("l/mayfly-{n}");
        let mayfly = store.grant_lease(TTL).await.unwrap();
        commit(&store, Txn::new().put_leased(&key, "1", mayfly)).await;
        while value_of(&store, &key).await.is_some() {
            store.keep_alive(renewed).await.unwrap();
        }
    }
    assert!(value_of(&store, "l/renewed").await.is_some());
    let mut watch = store.watch("l/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await.0.len(), 1);
    assert_eq!(next_delete(&mut watch).await.0, "l/renewed");
}

pub async fn a_revoked_lease_takes_its_keys(store: SharedStore) {
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    let other = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    assert_ne!(lease, other);
    commit(&store, Txn::new().put_leased("l/a", "1", lease).put_leased("l/b", "1", other)).await;
    let mut watch = store.watch("l/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await.0.len(), 2);
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(value_of(&store, "l/a").await, None, "gone when the call returns");
    assert_eq!(next_delete(&mut watch).await.0, "l/a");
    assert_eq!(store.revoke_lease(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(value_of(&store, "l/b").await.unwrap(), "1");
    store.keep_alive(other).await.unwrap();
}

pub async fn a_key_put_anew_leaves_its_lease(store: SharedStore) {
    let first = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    let second = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    for key in ["l/kept", "l/moved", "l/gone-and-back"] {
        commit(&store, Txn::new().put_leased(key, "1", first)).await;
    }
    put(&store, "l/kept", "2").await;
    commit(&store, Txn::new().put_leased("l/moved", "2", second)).await;
    commit(&store, Txn::new().delete("l/gone-and-back")).await;
    put(&store, "l/gone-and-back", "2").await;
    store.revoke_lease(first).await.unwrap();
    for key in ["l/kept", "l/moved", "l/gone-and-back"] {
        assert_eq!(value_of(&store, key).await.unwrap(), "2", "{key}");
    }
    assert!(!store.get("l/kept").await.unwrap().0.unwrap().leased);
    store.revoke_lease(second).await.unwrap();
    assert_eq!(value_of(&store, "l/moved").await, None);
}

pub async fn a_lease_is_looked_at_only_when_the_compares_hold(store: SharedStore) {
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    put(&store, "l/a", "1").await;
    let txn = Txn::new().when_absent("l/a").put_leased("l/a", "2", lease);
    assert!(matches!(store.txn(txn).await.unwrap(), TxnOutcome::Conflict { failed, .. } if failed == [0]));
    let txn = Txn::new().put("l/b", "1").put_leased("l/c", "1", lease);
    assert_eq!(store.txn(txn).await, Err(StoreError::LeaseGone));
    assert_eq!(value_of(&store, "l/b").await, None, "nothing of it was done");
}
