//! Watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use kilonova_model::Revision;
use kilonova_store::{KeyValue, SharedStore, Txn, Watch, WatchEvent, WatchFrom};
use tokio::task::JoinSet;

use super::{PATIENCE, commit, list_all, next, next_delete, next_put, next_snapshot, put};

pub async fn a_watch_starts_with_a_snapshot_and_keeps_to_its_prefix(store: SharedStore) {
    let before = put(&store, "w/a", "1").await;
    put(&store, "w0", "not ours").await;
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    let (items, revision) = next_snapshot(&mut watch).await;
    assert_eq!(items, vec![store.get("w/a").await.unwrap().0.unwrap()]);
    assert!(revision >= before);
    assert!(watch.health().borrow().connected);

    put(&store, "w", "not ours").await;
    put(&store, "v/a", "not ours").await;
    let put_at = commit(&store, Txn::new().put("w/b", "2").put("x/b", "not ours")).await;
    let item = next_put(&mut watch).await;
    assert_eq!((item.key.as_str(), item.create_revision, item.mod_revision), ("w/b", put_at, put_at));
    assert_eq!(item, store.get("w/b").await.unwrap().0.unwrap());
    let deleted = commit(&store, Txn::new().delete("w/a").delete("w0")).await;
    assert_eq!(next_delete(&mut watch).await, ("w/a".to_owned(), deleted));

    let mut nothing = store.watch("nothing/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut nothing).await.0, vec![]);
}

/// What a consumer of a watch knows, and every change it was told of.
#[derive(Default)]
struct Seen {
    start: Revision,
    known: BTreeMap<String, KeyValue>,
    changes: BTreeSet<(Revision, String)>,
    last: Revision,
}

impl Seen {
    fn apply(&mut self, event: WatchEvent) {
        assert!(event.revision() >= self.last, "{event:?} after {}", self.last);
        self.last = event.revision();
        match event {
            WatchEvent::Snapshot { items, revision, .. } => {
                self.start = revision;
                self.changes.clear();
                self.known = items.into_iter().map(|item| (item.key.clone(), item)).collect();
            }
            WatchEvent::Put(item) => {
                assert!(self.changes.insert((item.mod_revision, item.key.clone())), "twice: {item:?}");
                self.known.insert(item.key.clone(), item);
            }
            WatchEvent::Delete { key, revision } => {
                assert!(self.changes.insert((revision, key.clone())), "twice: {key} {revision}");
                assert!(self.known.remove(&key).is_some(), "{key} was not there");
            }
        }
    }
}

/// Writes at random, and returns what it changed.
async fn write_at_random(store: SharedStore, writer: u32, rounds: u32) -> BTreeSet<(Revision, String)> {
    let mut changes = BTreeSet::new();
    for round in 0..rounds {
        let (one, two) = (format!("w/{writer}/{}", round % 7), format!("w/{writer}/{}", round % 5 + 10));
        let txn = if round % 3 == 2 {
            Txn::new().delete(&one).put(&two, round.to_string())
        } else {
            Txn::new().put(&one, round.to_string()).put(&two, round.to_string())
        };
        let there = round % 3 != 2 || store.get(&one).await.unwrap().0.is_some();
        let revision = commit(&store, txn).await;
        changes.extend(there.then_some((revision, one)));
        changes.insert((revision, two));
    }
    changes
}

pub async fn a_watch_has_no_gap_and_no_duplicate(store: SharedStore) {
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        writers.spawn(write_at_random(Arc::clone(&store), writer, 150));
    }
    let mut watchers = JoinSet::new();
    for watcher in 0..8_u64 {
        let store = Arc::clone(&store);
        watchers.spawn(async move {
            // Each starts at another moment of the writing.
            while store.get("w/0/0").await.unwrap().1 < Revision(watcher * 30) {}
            let mut watch = store.watch("w/", WatchFrom::Snapshot);
            let mut seen = Seen::default();
            while !seen.known.contains_key("w/end") {
                seen.apply(next(&mut watch).await);
            }
            seen
        });
    }
    let written: BTreeSet<_> = writers.join_all().await.into_iter().flatten().collect();
    put(&store, "w/end", "").await;
    let finally: BTreeMap<_, _> =
        list_all(&store, "w/").await.into_iter().map(|item| (item.key.clone(), item)).collect();
    for mut seen in watchers.join_all().await {
        assert_eq!(seen.known, finally);
        seen.changes.retain(|(_, key)| key != "w/end");
        let expected: BTreeSet<_> =
            written.iter().filter(|(revision, _)| *revision > seen.start).cloned().collect();
        assert_eq!(seen.changes, expected, "from {}", seen.start);
    }
    // Any revision will do to resume from, wherever it lies in what was committed together.
    let revisions: BTreeSet<_> = written.iter().map(|(revision, _)| *revision).collect();
    for start in revisions.into_iter().step_by(29) {
        let mut watch = store.watch("w/", WatchFrom::After(start));
        let expected = written.iter().filter(|(revision, _)| *revision > start).cloned();
        assert_eq!(changes_until_end(&mut watch).await, expected.collect::<BTreeSet<_>>(), "after {start}");
    }
}

async fn changes_until_end(watch: &mut Watch) -> BTreeSet<(Revision, String)> {
    let mut changes = BTreeSet::new();
    loop {
        let change = match next(watch).await {
            WatchEvent::Put(item) if item.key == "w/end" => return changes,
            WatchEvent::Put(item) => (item.mod_revision, item.key),
            WatchEvent::Delete { key, revision } => (revision, key),
            snapshot @ WatchEvent::Snapshot { .. } => panic!("the changes are still there: {snapshot:?}"),
        };
        assert!(changes.insert(change.clone()), "twice: {change:?}");
    }
}

pub async fn a_watch_resumes_after_a_revision(store: SharedStore) {
    let first = commit(&store, Txn::new().put("w/a", "1").put("w/b", "1")).await;
    let second = commit(&store, Txn::new().put("w/c", "1").delete("w/a")).await;
    let third = put(&store, "w/b", "2").await;
    let mut watch = store.watch("w/", WatchFrom::After(first));
    let mut together = [next(&mut watch).await, next(&mut watch).await];
    together.sort_by_key(|event| matches!(event, WatchEvent::Delete { .. }));
    assert!(
        matches!(&together[0], WatchEvent::Put(item) if item.key == "w/c" && item.mod_revision == second)
    );
    assert_eq!(together[1], WatchEvent::Delete { key: "w/a".into(), revision: second });
    let item = next_put(&mut watch).await;
    assert_eq!((item.key.as_str(), item.mod_revision, item.create_revision), ("w/b", third, first));

    let mut at_the_end = store.watch("w/", WatchFrom::After(third));
    let fourth = put(&store, "w/d", "1").await;
    assert_eq!(next_put(&mut watch).await.mod_revision, fourth);
    assert_eq!(next_put(&mut at_the_end).await.mod_revision, fourth);
}

pub async fn a_watch_from_an_unknown_future_starts_over(store: SharedStore) {
    let revision = put(&store, "w/a", "1").await;
    let mut watch = store.watch("w/", WatchFrom::After(Revision(revision.0 + 1_000_000)));
    assert_eq!(next_snapshot(&mut watch).await.0.len(), 1);
    put(&store, "w/b", "1").await;
    assert_eq!(next_put(&mut watch).await.key, "w/b");
}

pub async fn a_slow_watch_holds_up_nobody_and_catches_up(store: SharedStore) {
    let mut slow = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut slow).await;
    for n in 0..1500 {
        put(&store, &format!("w/{}", n % 10), &n.to_string()).await;
    }
    put(&store, "w/end", "").await;
    let mut seen = Seen::default();
    while !seen.known.contains_key("w/end") {
        seen.apply(next(&mut slow).await);
    }
    assert_eq!(seen.known.into_values().collect::<Vec<_>>(), list_all(&store, "w/").await);
}

pub async fn a_dropped_watch_ends(store: SharedStore) {
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    let mut health = watch.health();
    drop(watch);
    // The sender goes when whatever fed the watch has gone.
    let gone = async { while health.changed().await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.expect("the watch is cancelled");

    let mut other = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut other).await;
    put(&store, "w/a", "1").await;
    assert!(matches!(other.next().await, Some(WatchEvent::Put(_))));
}
