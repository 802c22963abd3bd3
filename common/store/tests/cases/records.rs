//! Transactions, reads and listings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use kilonova_model::Revision;
use kilonova_store::{Compare, KeyValue, SharedStore, StoreError, Txn, TxnOutcome};
use tokio::task::JoinSet;

use super::{commit, list_all, put, value_of};

fn absent(key: &str) -> Compare {
    Compare::Absent(key.into())
}

fn exists(key: &str) -> Compare {
    Compare::Exists(key.into())
}

pub async fn a_conflict_names_the_compares_that_failed(store: SharedStore) {
    let created = put(&store, "a", "1").await;
    let modified = put(&store, "a", "2").await;
    let holding = [
        exists("a"),
        absent("b"),
        Compare::ModRevision("a".into(), modified),
        Compare::CreateRevision("a".into(), created),
        Compare::ModRevision("b".into(), Revision(0)),
    ];
    let failing = [
        absent("a"),
        exists("b"),
        Compare::ModRevision("a".into(), created),
        Compare::CreateRevision("a".into(), modified),
        Compare::CreateRevision("b".into(), created),
    ];
    for compare in failing.clone() {
        let txn = holding.iter().cloned().fold(Txn::new(), Txn::when).when(compare.clone()).put("a", "lost");
        let outcome = store.txn(txn).await.unwrap();
        assert_eq!(outcome, TxnOutcome::Conflict { failed: vec![5], revision: modified }, "{compare:?}");
    }
    let all = failing.into_iter().fold(Txn::new().when(exists("a")), Txn::when).delete("a");
    let outcome = store.txn(all).await.unwrap();
    assert_eq!(outcome, TxnOutcome::Conflict { failed: vec![1, 2, 3, 4, 5], revision: modified });
    assert_eq!(value_of(&store, "a").await.unwrap(), "2", "a conflict writes nothing");

    let txn = holding.into_iter().fold(Txn::new(), Txn::when).put("a", "3");
    assert!(commit(&store, txn).await > modified);
    assert_eq!(value_of(&store, "a").await.unwrap(), "3");
}

pub async fn revisions_grow_and_mark_the_keys(store: SharedStore) {
    let (nothing, start) = store.get("a").await.unwrap();
    assert_eq!(nothing, None);
    assert!(start > Revision(0));
    let r1 = commit(&store, Txn::new().put("a", "1").put("b", "1")).await;
    let r2 = put(&store, "a", "2").await;
    let r3 = commit(&store, Txn::new().delete("b").delete("nothing")).await;
    let r4 = put(&store, "b", "2").await;
    assert!(start < r1 && r1 < r2 && r2 < r3 && r3 < r4);

    assert_eq!(commit(&store, Txn::new().delete("nothing")).await, r4, "nothing changed");
    assert_eq!(commit(&store, Txn::new()).await, r4, "nothing changed");
    assert_eq!(commit(&store, Txn::new().when(exists("a"))).await, r4, "nothing changed");

    let expected = |key: &str, value: &'static str, create_revision, mod_revision| KeyValue {
        key: key.into(),
        value: value.into(),
        create_revision,
        mod_revision,
        leased: false,
    };
    assert_eq!(store.get("a").await.unwrap(), (Some(expected("a", "2", r1, r2)), r4));
    assert_eq!(store.get("b").await.unwrap(), (Some(expected("b", "2", r4, r4)), r4));
}

pub async fn one_of_many_concurrent_writers_wins(store: SharedStore) {
    for round in 0..20 {
        let key = format!("leader/{round}");
        let mut candidates = JoinSet::new();
        for candidate in 0..16 {
            let (store, key) = (Arc::clone(&store), key.clone());
            candidates.spawn(async move {
                let txn = Txn::new().when_absent(&key).put(&key, format!("{candidate}"));
                store.txn(txn).await.unwrap().committed().map(|_| candidate)
            });
        }
        let winners: Vec<i32> = candidates.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert_eq!(value_of(&store, &key).await.unwrap(), winners[0].to_string());
    }
}

pub async fn no_increment_is_lost(store: SharedStore) {
    put(&store, "counter", "0").await;
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..25 {
                increment(&store).await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(value_of(&store, "counter").await.unwrap(), "200");
}

async fn increment(store: &SharedStore) {
    loop {
        let item = store.get("counter").await.unwrap().0.unwrap();
        let value: u64 = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
        let txn = Txn::new().when_unchanged(&item).put("counter", (value + 1).to_string());
        if store.txn(txn).await.unwrap().committed().is_some() {
            return;
        }
    }
}

/// Of transactions at once each is judged by itself, under a compare they share and beside some that fail.
pub async fn none_of_many_at_once_spoils_the_others(store: SharedStore) {
    let fence = put(&store, "fence", "").await;
    let stale = Revision(fence.0 + 1_000_000);
    let one = |n: u64| {
        let by = if n.is_multiple_of(7) { stale } else { fence };
        let txn = Txn::new().when(Compare::ModRevision("fence".into(), by));
        store.txn(txn.when_absent(format!("k/{n}")).put(format!("k/{n}"), n.to_string()))
    };
    let outcomes = join_all((0..300).map(one)).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let (n, outcome) = (n as u64, outcome.expect("the store answers"));
        let value = value_of(&store, &format!("k/{n}")).await;
        if n.is_multiple_of(7) {
            assert!(matches!(&outcome, TxnOutcome::Conflict { failed, .. } if *failed == [0]), "{outcome:?}");
            assert_eq!(value, None);
        } else {
            let (item, _) = store.get(&format!("k/{n}")).await.expect("the store answers");
            assert_eq!(item.map(|item| item.mod_revision), outcome.committed());
            assert_eq!(value, Some(n.to_string().into()));
        }
    }
}

pub async fn operations_of_a_transaction_are_done_together(store: SharedStore) {
    commit(&store, Txn::new().put("t/left", "0").put("t/right", "0")).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0..50 {
                let value = format!("{writer}-{n}");
                commit(&store, Txn::new().put("t/left", value.clone()).put("t/right", value)).await;
            }
        });
    }
    let reader = {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            while !done.load(Ordering::Relaxed) {
                let page = store.list("t/", None, 10).await.unwrap();
                assert_eq!(page.items[0].value, page.items[1].value);
                assert_eq!(page.items[0].mod_revision, page.items[1].mod_revision);
            }
        }
    };
    let writers = async {
        writers.join_all().await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writers, reader);
}

pub async fn a_read_sees_every_acknowledged_write(store: SharedStore) {
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let key = format!("k/{task}");
            for n in 0..50 {
                let written = put(&store, &key, &n.to_string()).await;
                let (item, revision) = store.get(&key).await.unwrap();
                assert_eq!(item.unwrap().mod_revision, written);
                assert!(revision >= written);
                let page = store.list(&key, None, 1).await.unwrap();
                assert_eq!(page.items[0].mod_revision, written);
                assert!(page.revision >= revision);
            }
        });
    }
    tasks.join_all().await;
}

pub async fn a_listing_is_paged_in_key_order(store: SharedStore) {
    let keys: Vec<String> = (0..25).map(|n| format!("p/{n:02}")).collect();
    let txn = keys.iter().rev().fold(Txn::new(), |txn, key| txn.put(key, key.clone()));
    let revision = commit(&store, txn.put("p", "").put("p0", "").put("o/1", "").put("pp/1", "")).await;

    let (mut listed, mut sizes, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = store.list("p/", after.as_deref(), 10).await.unwrap();
        assert_eq!(page.revision, revision);
        sizes.push(page.items.len());
        listed.extend(page.items.into_iter().map(|item| item.key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((listed, sizes), (keys, vec![10, 10, 5]));

    let exactly = store.list("p/", None, 25).await.unwrap();
    assert_eq!((exactly.items.len(), exactly.next), (25, None));
    let from_a_key = store.list("p/", Some("p/22"), 10).await.unwrap();
    let found: Vec<_> = from_a_key.items.iter().map(|item| item.key.as_str()).collect();
    assert_eq!(found, ["p/23", "p/24"]);
    assert_eq!(store.list("p/", Some("p/24"), 10).await.unwrap().items, vec![]);
    assert_eq!(store.list("q/", None, 10).await.unwrap().items, vec![]);
    assert_eq!(store.list("", None, 100).await.unwrap().items.len(), 29);
}

pub async fn a_listing_is_complete_while_others_write(store: SharedStore) {
    let stay: Vec<String> = (0..60).map(|n| format!("k/{n:03}-stays")).collect();
    commit(&store, stay.iter().fold(Txn::new(), |txn, key| txn.put(key, ""))).await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                let key = format!("k/{:03}-comes-and-goes", n * 7 % 60);
                commit(&store, Txn::new().put(&key, "")).await;
                commit(&store, Txn::new().delete(&key)).await;
                n += 1;
            }
        }
    };
    let reader = async {
        for _ in 0..20 {
            let (mut listed, mut after, mut revisions) = (Vec::new(), None, Vec::new());
            loop {
                let page = store.list("k/", after.as_deref(), 7).await.unwrap();
                revisions.push(page.revision);
                listed.extend(page.items.into_iter().map(|item| item.key));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
            assert!(revisions.is_sorted(), "{revisions:?}");
            listed.retain(|key| key.ends_with("-stays"));
            assert_eq!(listed, stay);
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writer, reader);
}

pub async fn bad_requests_are_refused(store: SharedStore) {
    let twice = store.txn(Txn::new().put("k", "1").put("k", "2")).await;
    assert_eq!(twice, Err(StoreError::DuplicateKey { key: "k".into() }));
    for key in ["", "/k", "a key"] {
        assert!(matches!(store.get(key).await, Err(StoreError::InvalidKey { .. })), "{key:?}");
        let put = store.txn(Txn::new().put(key, "")).await;
        assert!(matches!(put, Err(StoreError::InvalidKey { .. })), "{key:?}");
    }
    assert!(matches!(store.list("k/", Some("no token"), 1).await, Err(StoreError::InvalidKey { .. })));
    let large = store.txn(Txn::new().put("k", vec![0; 2 << 20])).await;
    assert!(matches!(large, Err(StoreError::TooLarge { .. })));
    let most =
        (0..128).fold(Txn::new(), |txn, n| txn.when_absent(format!("m/{n}")).put(format!("m/{n}"), ""));
    commit(&store, most.clone()).await;
    assert_eq!(list_all(&store, "m/").await.len(), 128);
    let again = store.txn(most.clone()).await.unwrap();
    assert!(matches!(again, TxnOutcome::Conflict { failed, .. } if failed == (0..128).collect::<Vec<_>>()));
    assert!(matches!(store.txn(most.put("m/one-more", "")).await, Err(StoreError::TooLarge { .. })));
}

pub async fn large_values_pass(store: SharedStore) {
    let value: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    for n in 0..12 {
        commit(&store, Txn::new().put(format!("large/{n:02}"), value.clone())).await;
    }
    assert_eq!(value_of(&store, "large/07").await.unwrap(), value);
    let page = store.list("large/", None, 100).await.unwrap();
    assert!(page.items.len() == 12 && page.items.iter().all(|item| item.value == value));
    let mut watch = store.watch("large/", kilonova_store::WatchFrom::Snapshot);
    let (items, _) = super::next_snapshot(&mut watch).await;
    assert!(items.len() == 12 && items.iter().all(|item| item.value == value));
    let start = page.items[0].mod_revision;
    let mut watch = store.watch("large/", kilonova_store::WatchFrom::After(start));
    for n in 1..12 {
        assert_eq!(super::next_put(&mut watch).await.key, format!("large/{n:02}"));
    }
}
