//! What only the embedded store promises: what survives a restart, a kill, and an overrun watch.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kilonova_model::Revision;
use kilonova_store::{
    EmbeddedOptions, EmbeddedStore, SharedStore, Store, StoreError, Txn, TxnOutcome, Watch, WatchEvent,
    WatchFrom, embedded,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// Where the child of `acknowledged_writes_survive_a_kill` keeps its store.
const CHILD_DIR: &str = "KILONOVA_TEST_STORE_DIR";

fn open(dir: &std::path::Path) -> EmbeddedStore {
    EmbeddedStore::open(dir, EmbeddedOptions::default()).expect("the store opens")
}

async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    store.txn(txn).await.expect("the store answers").committed().expect("no compare failed")
}

async fn next(watch: &mut Watch) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event comes").expect("the store is open")
}

#[tokio::test]
async fn reopening_keeps_data_and_drops_leased_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    let kept = commit(&store, Txn::new().put("a", "1")).await;
    let last = commit(&store, Txn::new().put_leased("b", "1", lease)).await;
    drop(store);

    let store = open(dir.path());
    let (item, revision) = store.get("a").await.unwrap();
    let item = item.unwrap();
    assert_eq!((item.create_revision, item.mod_revision, item.value.as_ref()), (kept, kept, b"1".as_slice()));
    assert_eq!(store.get("b").await.unwrap().0, None);
    assert!(revision > last, "the deletion is a change");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert!(commit(&store, Txn::new().put("c", "1")).await > revision);
    drop(store);

    let store = open(dir.path());
    let mut watch = store.watch("", WatchFrom::After(kept));
    let first = next(&mut watch).await;
    assert!(matches!(first, WatchEvent::Snapshot { items, .. } if items.len() == 2), "history is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let mut writers = JoinSet::new();
    for writer in 0..200 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0..10 {
                // Every third is in conflict with one that shares its group, and must not spoil it.
                let key = if n % 3 == 0 { format!("shared/{n}") } else { format!("own/{writer}/{n}") };
                let txn = Txn::new().when_absent(&key).put(&key, format!("{writer}"));
                if let TxnOutcome::Committed { revision } = store.txn(txn).await.unwrap() {
                    acknowledged.push((key, revision, writer.to_string()));
                }
            }
            acknowledged
        });
    }
    let acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert_eq!(acknowledged.len(), 200 * 6 + 4);
    drop(Arc::into_inner(store));

    let store = open(dir.path());
    for (key, revision, value) in acknowledged {
        let item = store.get(&key).await.unwrap().0.unwrap_or_else(|| panic!("{key} is lost"));
        assert_eq!((item.mod_revision, item.value.as_ref()), (revision, value.as_bytes()), "{key}");
    }
}

/// Runs only as the child of the test below: writes and says so, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store: SharedStore = Arc::new(open(dir.as_ref()));
    let mut writers = JoinSet::new();
    for writer in 0..32 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for n in 0.. {
                let key = format!("k/{writer}/{n}");
                let revision = commit(&*store, Txn::new().put(&key, "1")).await;
                println!("\nacknowledged {key} {revision}");
            }
        });
    }
    writers.join_all().await;
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = Vec::new();
    let mut note = |line: String| {
        if let Some((key, revision)) = line.strip_prefix("acknowledged ").and_then(|it| it.split_once(' ')) {
            acknowledged.push((key.to_owned(), Revision(revision.parse().unwrap())));
        }
        acknowledged.len()
    };
    while note(lines.next().expect("the child goes on").unwrap()) < 2000 {}
    child.kill().unwrap();
    child.wait().unwrap();
    let whole = |line: &String| line.split(' ').count() == 3;
    let rest: Vec<_> = lines.map_while(Result::ok).filter(whole).collect();
    // The last line may have been cut.
    rest.into_iter().rev().skip(1).for_each(|line| {
        note(line);
    });

    let store = open(dir.path());
    for (key, revision) in acknowledged {
        let (item, now) = store.get(&key).await.unwrap();
        assert_eq!(item.unwrap_or_else(|| panic!("{key} is lost")).mod_revision, revision, "{key}");
        assert!(now >= revision);
    }
}

#[tokio::test]
async fn a_directory_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap_err();
    assert_eq!(error, StoreError::InUse { dir: dir.path().to_owned() });
    assert_eq!(
        error.to_string(),
        format!("the store in {} is in use by another process", dir.path().display())
    );
    commit(&store, Txn::new().put("a", "1")).await;
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn a_watch_that_falls_behind_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { history: 8, ..EmbeddedOptions::default() };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    let mut watch = store.watch("k/", WatchFrom::Snapshot);
    assert!(matches!(next(&mut watch).await, WatchEvent::Snapshot { .. }));
    let early = commit(&store, Txn::new().put("k/0", "0")).await;
    assert!(matches!(next(&mut watch).await, WatchEvent::Put(_)));
    for n in 0..20 {
        commit(&store, Txn::new().put(format!("k/{n}"), "1")).await;
    }
    for mut behind in [watch, store.watch("k/", WatchFrom::After(early))] {
        match next(&mut behind).await {
            WatchEvent::Snapshot { items, .. } => {
                assert_eq!(items, store.list("k/", None, 100).await.unwrap().items)
            }
            other => panic!("expected a snapshot, got {other:?}"),
        }
        let written = commit(&store, Txn::new().put("k/new", "1")).await;
        assert_eq!(next(&mut behind).await.revision(), written);
    }
}

#[tokio::test]
async fn closing_the_store_ends_its_watches() {
    let store = EmbeddedStore::open_temporary().unwrap();
    let mut watch = store.watch("k/", WatchFrom::Snapshot);
    assert!(matches!(next(&mut watch).await, WatchEvent::Snapshot { .. }));
    drop(store);
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap(), None);
    assert!(!watch.health().borrow().connected);
}

fn reopen(dir: &std::path::Path, accept_older: bool) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(dir, EmbeddedOptions { accept_older, ..EmbeddedOptions::default() })
}

/// Opening is refused, saying so; as was asked, it is opened with these keys.
async fn is_refused(dir: &std::path::Path, why: &str, kept: &[&str]) {
    let refused = reopen(dir, false).expect_err("it has lost something");
    assert!(matches!(&refused, StoreError::Receded { what, .. } if what.contains(why)), "{refused}");
    let refused_again = reopen(dir, false).expect_err("it has lost something");
    assert_eq!(refused_again, refused, "looking changes nothing");
    let store = reopen(dir, true).expect("that was said to be right");
    let page = store.list("", None, 100).await.expect("it can be read");
    let keys: Vec<_> = page.items.into_iter().map(|item| item.key).collect();
    assert_eq!(keys, kept);
    commit(&store, Txn::new().put("later", "1")).await;
    let lineage = store.lineage().await.expect("it is open");
    drop(store);
    let store = reopen(dir, true).expect("what was accepted is the store now");
    assert_eq!(
        store.lineage().await.expect("it is open"),
        lineage,
        "that it is accepted again changes nothing"
    );
}

#[tokio::test]
async fn a_database_that_is_lost_or_another_one_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for n in 0..3 {
        let store = open(dir.path());
        commit(&store, Txn::new().put("a", n.to_string())).await;
    }
    let store = open(other.path());
    for n in 0..20 {
        commit(&store, Txn::new().put("b", n.to_string())).await;
    }
    drop(store);
    std::fs::copy(other.path().join("store.db"), dir.path().join("store.db")).unwrap();
    is_refused(dir.path(), "another store", &["b"]).await;
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    is_refused(dir.path(), "missing or empty", &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_log_was_deleted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    commit(&store, Txn::new().put("a", "1")).await;
    drop(store);
    let early = tempfile::tempdir().unwrap();
    std::fs::copy(dir.path().join("store.db"), early.path().join("store.db")).unwrap();

    // As found after a crash: the log is not in the database yet, the mark is written.
    let store = open(dir.path());
    let last = commit(&store, Txn::new().put("b", "1")).await;
    let mark = || std::fs::read_to_string(dir.path().join("store.mark")).unwrap();
    while !mark().contains(&format!("revision {last}")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let crashed = tempfile::tempdir().unwrap();
    for file in ["store.db", "store.mark"] {
        std::fs::copy(dir.path().join(file), crashed.path().join(file)).unwrap();
    }
    is_refused(crashed.path(), "its last 1 changes are lost", &["a"]).await;

    // An earlier copy in the place of the store.
    drop(store);
    std::fs::copy(early.path().join("store.db"), dir.path().join("store.db")).unwrap();
    is_refused(dir.path(), "its last 1 changes are lost", &["a"]).await;
}

#[tokio::test]
async fn a_store_that_has_lost_something_is_not_copied_nor_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let last = commit(&store, Txn::new().put("k/a", "1")).await;
    let mark = || std::fs::read_to_string(dir.path().join("store.mark")).unwrap();
    while !mark().contains(&format!("revision {last}")) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let killed = tempfile::tempdir().unwrap();
    for file in ["store.db", "store.mark"] {
        std::fs::copy(dir.path().join(file), killed.path().join(file)).unwrap();
    }
    let file = killed.path().join("backup.db");
    let names = || {
        let entries = std::fs::read_dir(killed.path()).unwrap().map(|entry| entry.unwrap().file_name());
        entries.collect::<BTreeSet<_>>()
    };
    let before = names();
    let refused = embedded::backup(killed.path(), &file).unwrap_err();
    assert!(refused.to_string().contains("changes are lost"), "{refused}");
    assert_eq!(names(), before);
    // An empty log in its place does not make it whole.
    std::fs::write(killed.path().join("store.db-wal"), "").unwrap();
    let refused = embedded::backup(killed.path(), &file).unwrap_err();
    assert!(refused.to_string().contains("nothing was copied"), "{refused}");
    assert!(!file.exists());
}

#[tokio::test]
async fn a_backup_of_an_open_store_is_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..50 {
        commit(&store, Txn::new().put(format!("k/{n}"), "1")).await;
    }
    let file = dir.path().join("backup.db");
    let copied = embedded::backup(dir.path(), &file).unwrap();
    assert_eq!((copied.revision, copied.keys), (store.get("k/0").await.unwrap().1, 50));
    assert!(embedded::backup(dir.path(), &file).is_err(), "nothing is overwritten");
    let later = commit(&store, Txn::new().put("k/later", "1")).await;
    let lineage = store.lineage().await.unwrap();
    drop(store);
    let store = reopen(dir.path(), false).unwrap();
    assert_eq!(store.lineage().await.unwrap(), lineage, "over a restart");
    drop(store);

    for log in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(log));
    }
    std::fs::rename(&file, dir.path().join("store.db")).unwrap();
    assert!(matches!(reopen(dir.path(), false), Err(StoreError::Receded { .. })));
    let store = reopen(dir.path(), true).unwrap();
    assert_ne!(store.lineage().await.unwrap(), lineage, "it is not the store it was");
    assert_eq!(store.list("k/", None, 100).await.unwrap().items.len(), 50);
    assert_eq!(store.get("k/later").await.unwrap(), (None, copied.revision));
    assert!(later > copied.revision);
}
