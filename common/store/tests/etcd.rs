//! What the etcd store promises when etcd or the way to it fails.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kilonova_model::Revision;
use kilonova_store::etcd::{Credentials, EtcdOptions, EtcdStore};
use kilonova_store::testing::{EtcdProcess, Proxy};
use kilonova_store::{Store, StoreError, Txn, Watch, WatchEvent, WatchFrom};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

fn options(endpoint: String) -> EtcdOptions {
    EtcdOptions {
        endpoints: vec![endpoint],
        call_deadline: Duration::from_secs(2),
        keep_alive_interval: Duration::from_secs(1),
        keep_alive_timeout: Duration::from_secs(1),
        reconnect_pause: Duration::from_millis(500),
        ..EtcdOptions::default()
    }
}

async fn connect(endpoint: String) -> EtcdStore {
    EtcdStore::connect(options(endpoint)).await.expect("etcd answers")
}

async fn start() -> Option<EtcdProcess> {
    EtcdProcess::start().await.expect("etcd starts")
}

async fn put(store: &EtcdStore, key: &str) -> Revision {
    let outcome = store.txn(Txn::new().put(key, "1")).await.expect("etcd answers");
    outcome.committed().expect("no compares")
}

async fn put_when_back(store: &EtcdStore, key: &str) -> Revision {
    let deadline = Instant::now() + PATIENCE;
    // A write that is not answered may be done, and would be seen twice.
    while let Err(error) = store.get(key).await {
        assert!(Instant::now() < deadline && error.is_transient(), "{error}");
    }
    loop {
        match store.txn(Txn::new().put(key, "1")).await {
            Ok(outcome) => return outcome.committed().expect("no compares"),
            Err(error) => assert!(Instant::now() < deadline && error.is_transient(), "{error}"),
        }
    }
}

async fn next(watch: &mut Watch) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event comes").expect("a watch does not end")
}

async fn next_snapshot(watch: &mut Watch) -> Vec<String> {
    match next(watch).await {
        WatchEvent::Snapshot { items, .. } => items.into_iter().map(|item| item.key).collect(),
        other => panic!("expected a snapshot, got {other:?}"),
    }
}

/// The next event must be this put: nothing missed, nothing repeated.
async fn next_is_put(watch: &mut Watch, key: &str, revision: Revision) {
    match next(watch).await {
        WatchEvent::Put(item) => assert_eq!((item.key.as_str(), item.mod_revision), (key, revision)),
        other => panic!("expected {key}, got {other:?}"),
    }
}

/// The snapshot that says that the store went back.
async fn next_anew(watch: &mut Watch) -> Vec<String> {
    loop {
        if let WatchEvent::Snapshot { items, went_back: true, .. } = next(watch).await {
            return items.into_iter().map(|item| item.key).collect();
        }
    }
}

async fn wait_connected(watch: &Watch, connected: bool) {
    let mut health = watch.health();
    let reached = health.wait_for(|health| health.connected == connected);
    timeout(PATIENCE, reached).await.expect("in time").expect("the watch lives");
}

#[tokio::test]
async fn connecting_to_nobody_fails_in_time() {
    let nobody = Proxy::start(None).await.unwrap();
    let error = EtcdStore::connect(options(nobody.endpoint())).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    // Takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut to_silent = options(silent.local_addr().unwrap().to_string());
    to_silent.connect_deadline = Duration::from_millis(300);
    let error = EtcdStore::connect(to_silent).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_write_that_never_left_is_certainly_not_done() {
    let Some(mut etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    let before = put(&store, "k").await;
    etcd.kill().unwrap();
    // The first one may still meet the dying connection; from then on there is nobody to connect to.
    let _ = store.txn(Txn::new().put("k", "2")).await;
    let error = store.txn(Txn::new().put("k", "3")).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = store.get("k").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    etcd.restart().await.unwrap();
    assert!(put_when_back(&store, "k").await > before);
}

#[tokio::test]
async fn a_write_without_an_answer_may_be_done() {
    let Some(etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    put(&store, "k").await;
    etcd.pause().unwrap();
    let asked = Instant::now();
    let error = store.txn(Txn::new().put("k", "2")).await.unwrap_err();
    assert!(error.maybe_executed(), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(4), "within the deadline: {:?}", asked.elapsed());
    let error = store.get("k").await.unwrap_err();
    assert!(!error.maybe_executed(), "{error}");
    etcd.resume().unwrap();
    put_when_back(&store, "k").await;
}

#[tokio::test]
async fn a_watch_survives_the_death_of_etcd() {
    let Some(mut etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    put(&store, "w/0").await;
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await, ["w/0"]);
    let revision = put(&store, "w/1").await;
    next_is_put(&mut watch, "w/1", revision).await;
    for round in 0..2 {
        etcd.kill().unwrap();
        wait_connected(&watch, false).await;
        etcd.restart().await.unwrap();
        let other = connect(etcd.endpoint()).await;
        let key = format!("w/after-{round}");
        let revision = put_when_back(&other, &key).await;
        next_is_put(&mut watch, &key, revision).await;
        wait_connected(&watch, true).await;
    }
}

#[tokio::test]
async fn a_watch_notices_an_etcd_that_stands_still() {
    let Some(etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    wait_connected(&watch, true).await;
    etcd.pause().unwrap();
    wait_connected(&watch, false).await;
    etcd.resume().unwrap();
    let revision = put_when_back(&store, "w/1").await;
    next_is_put(&mut watch, "w/1", revision).await;
    wait_connected(&watch, true).await;
}

#[tokio::test]
async fn changes_made_while_cut_off_are_delivered() {
    let Some(etcd) = start().await else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let (cut_off, direct) = (connect(proxy.endpoint()).await, connect(etcd.endpoint()).await);
    let mut watch = cut_off.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    wait_connected(&watch, true).await;
    for round in 0..5 {
        proxy.lead_to(None);
        wait_connected(&watch, false).await;
        let revisions = [put(&direct, "w/a").await, put(&direct, "w/b").await];
        proxy.lead_to(Some(etcd.address()));
        next_is_put(&mut watch, "w/a", revisions[0]).await;
        next_is_put(&mut watch, "w/b", revisions[1]).await;
        wait_connected(&watch, true).await;
        assert!(watch.health().borrow().connected, "round {round}");
    }
}

#[tokio::test]
async fn a_compaction_under_a_watch_gives_a_snapshot() {
    let Some(etcd) = start().await else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let (cut_off, direct) = (connect(proxy.endpoint()).await, connect(etcd.endpoint()).await);
    let early = put(&direct, "w/a").await;
    let mut watch = cut_off.watch("w/", WatchFrom::After(early));
    wait_connected(&watch, true).await;
    proxy.lead_to(None);
    wait_connected(&watch, false).await;
    direct.txn(Txn::new().delete("w/a")).await.unwrap();
    put(&direct, "w/b").await;
    let last = put(&direct, "w/c").await;
    etcd.compact(last).await.unwrap();
    proxy.lead_to(Some(etcd.address()));
    assert_eq!(next_snapshot(&mut watch).await, ["w/b", "w/c"]);
    let revision = put(&direct, "w/d").await;
    next_is_put(&mut watch, "w/d", revision).await;

    let mut late = direct.watch("w/", WatchFrom::After(early));
    assert_eq!(next_snapshot(&mut late).await, ["w/b", "w/c", "w/d"]);
    let revision = put(&direct, "w/e").await;
    next_is_put(&mut late, "w/e", revision).await;
}

#[tokio::test]
async fn a_store_that_went_back_gives_a_snapshot() {
    let (Some(etcd), Some(restored)) = (start().await, start().await) else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let store = connect(proxy.endpoint()).await;
    for n in 0..10 {
        put(&store, &format!("w/{n}")).await;
    }
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await.len(), 10);
    wait_connected(&watch, true).await;
    put(&connect(restored.endpoint()).await, "w/old").await;
    proxy.lead_to(Some(restored.address()));
    assert_eq!(next_anew(&mut watch).await, ["w/old"]);
    let revision = put_when_back(&store, "w/new").await;
    next_is_put(&mut watch, "w/new", revision).await;
}

#[tokio::test]
async fn a_restored_copy_is_told_apart_by_every_watch_even_when_it_has_overtaken() {
    let Some(mut etcd) = start().await else { return };
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let store = connect(proxy.endpoint()).await;
    put(&store, "still/a").await;
    put(&store, "w/a").await;
    let copy = etcd.copy().await.unwrap();
    put_when_back(&store, "other").await;
    let mut still = store.watch("still/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut still).await, ["still/a"]);
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await, ["w/a"]);
    let revision = put(&store, "w/lost").await;
    next_is_put(&mut watch, "w/lost", revision).await;
    wait_connected(&watch, true).await;
    let mut went_back = store.went_back();
    assert_eq!(*went_back.borrow_and_update(), 0);

    // The way to it is cut until others have brought its revisions past all that was seen.
    proxy.lead_to(None);
    etcd.restore(&copy).await.unwrap();
    let other = connect(etcd.endpoint()).await;
    let mut overtaken = put(&other, "w/b").await;
    while overtaken <= revision {
        overtaken = put(&other, "w/b").await;
    }
    proxy.lead_to(Some(etcd.address()));
    assert_eq!(next_anew(&mut watch).await, ["w/a", "w/b"]);
    assert_eq!(next_anew(&mut still).await, ["still/a"]);
    timeout(PATIENCE, went_back.wait_for(|count| *count > 0)).await.unwrap().unwrap();
    let revision = put(&store, "still/b").await;
    next_is_put(&mut still, "still/b", revision).await;
}

#[tokio::test]
async fn a_wiped_etcd_is_told_apart_and_a_restarted_one_is_not() {
    let Some(mut etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    put(&store, "w/a").await;
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await, ["w/a"]);
    wait_connected(&watch, true).await;
    etcd.kill().unwrap();
    wait_connected(&watch, false).await;
    etcd.restart().await.unwrap();
    let revision = put_when_back(&store, "w/b").await;
    next_is_put(&mut watch, "w/b", revision).await;
    assert_eq!(*store.went_back().borrow(), 0);
    etcd.wipe().await.unwrap();
    assert_eq!(next_anew(&mut watch).await, Vec::<String>::new());
    assert_eq!(*store.went_back().borrow(), 1);
}

#[tokio::test]
async fn behind_a_proxy_that_kept_the_stream_the_probe_finds_it() {
    let (Some(etcd), Some(mut other)) = (start().await, start().await) else { return };
    // Only what is asked from now on goes to the other one; the open stream stays where it is.
    let proxy = Proxy::start(Some(etcd.address())).await.unwrap();
    let quick = EtcdOptions { probe_interval: Duration::from_millis(100), ..options(proxy.endpoint()) };
    let store = EtcdStore::connect(quick).await.unwrap();
    put(&store, "w/a").await;
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    assert_eq!(next_snapshot(&mut watch).await, ["w/a"]);
    other.wipe().await.unwrap();
    proxy.lead_to(Some(other.address()));
    assert_eq!(next_anew(&mut watch).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_an_etcd_without_space_is_said_not_to_have_done_is_not_there() {
    const WRITERS: usize = 24;
    let quota = ["--quota-backend-bytes", "4000000"];
    let Some(etcd) = EtcdProcess::start_with(&quota).await.expect("etcd starts") else { return };
    let store = Arc::new(connect(etcd.endpoint()).await);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let mut refused = Vec::new();
            // etcd learns how large it is ten times a second.
            for n in 0..1000 {
                let key = format!("k/{writer}/{n}");
                if let Err(error) = store.txn(Txn::new().put(&key, vec![0; 60_000])).await {
                    refused.push((key, error));
                    if refused.len() == 3 {
                        break;
                    }
                }
            }
            refused
        });
    }
    let refused: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert!(!refused.is_empty(), "the quota is reached");
    for (key, error) in refused {
        let is_there = store.get(&key).await.unwrap().0.is_some();
        assert!(error.maybe_executed() || !is_there, "{key}: {error}");
    }
}

#[tokio::test]
async fn a_listing_goes_on_after_its_revision_is_compacted() {
    let Some(etcd) = start().await else { return };
    let store = connect(etcd.endpoint()).await;
    for key in ["k/1", "k/2", "k/3"] {
        put(&store, key).await;
    }
    let first = store.list("k/", None, 2).await.unwrap();
    let later = put(&store, "k/4").await;
    let second = store.list("k/", first.next.as_deref(), 10).await.unwrap();
    assert_eq!((second.items.len(), second.revision), (1, first.revision), "as it was at the first page");
    etcd.compact(later).await.unwrap();
    let second = store.list("k/", first.next.as_deref(), 10).await.unwrap();
    assert_eq!((second.items.len(), second.revision), (2, later));
}

#[tokio::test]
async fn an_audit_that_agrees_is_silent() {
    let Some(etcd) = start().await else { return };
    let mut eager = options(etcd.endpoint());
    (eager.audit_interval, eager.audit_grace) = (Duration::from_millis(20), Duration::from_millis(500));
    let store = EtcdStore::connect(eager).await.unwrap();
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    // Several audits go by while these are written.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        let revision = put(&store, "w/a").await;
        next_is_put(&mut watch, "w/a", revision).await;
    }
}

/// Turns authentication on, for `root` and for `kilonova`, who may do anything under `w/`. Returns a client of `root`.
async fn with_users(etcd: &EtcdProcess) -> etcd_client::Client {
    use etcd_client::{Client, ConnectOptions, Permission};
    let mut client = Client::connect([etcd.endpoint()], None).await.expect("etcd does it");
    for (user, password, role) in [("root", "of-root", "root"), ("kilonova", "secret", "writer")] {
        client.user_add(user, password, None).await.expect("etcd does it");
        client.role_add(role).await.expect("etcd does it");
        client.user_grant_role(user, role).await.expect("etcd does it");
    }
    client
        .role_grant_permission("writer", Permission::read_write("w/").with_prefix())
        .await
        .expect("etcd does it");
    client.auth_enable().await.expect("etcd does it");
    let options = ConnectOptions::new().with_user("root", "of-root");
    Client::connect([etcd.endpoint()], Some(options)).await.expect("etcd does it")
}

#[tokio::test]
async fn a_change_of_users_refuses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "a key of a test, long enough for what signs with it").unwrap();
    let tokens = format!("jwt,priv-key={},sign-method=HS256,ttl=5m", key.display());
    let Some(etcd) = EtcdProcess::start_with(&["--auth-token", &tokens]).await.expect("etcd starts") else {
        return;
    };
    let mut root = with_users(&etcd).await;
    let credentials = Some(Credentials { user: "kilonova".into(), password: "secret".into() });
    let store = EtcdStore::connect(EtcdOptions { credentials, ..options(etcd.endpoint()) }).await.unwrap();
    let mut watch = store.watch("w/", WatchFrom::Snapshot);
    next_snapshot(&mut watch).await;
    for n in 0..5 {
        root.user_add(format!("another-{n}"), "x", None).await.unwrap();
        let key = format!("w/{n}");
        let revision = put(&store, &key).await;
        next_is_put(&mut watch, &key, revision).await;
        root.user_delete(format!("another-{n}")).await.unwrap();
        // Several at once, of which one renews the token.
        let (a, b, list) = tokio::join!(store.get("w/a"), store.get("w/b"), store.list("w/", None, 100));
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(list.unwrap().items.len(), n + 1);
        root.user_change_password("root", "of-root").await.unwrap();
        let mut another = store.watch("w/", WatchFrom::Snapshot);
        next_snapshot(&mut another).await;
        let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
        store.keep_alive(lease).await.unwrap();
        let revision = store.txn(Txn::new().put_leased("w/leased", "1", lease)).await.unwrap();
        next_is_put(&mut another, "w/leased", revision.committed().unwrap()).await;
        assert_eq!(next(&mut watch).await.revision(), revision.committed().unwrap());
        store.revoke_lease(lease).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Delete { .. }));
    }
    let reached = store.get("w/0").await.unwrap().1;
    store.compact(reached).await.unwrap();
    store.compact(reached).await.expect("it is so already");
    let error = store.txn(Txn::new().put("x/not-allowed", "1")).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}
