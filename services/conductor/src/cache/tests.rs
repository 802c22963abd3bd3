//! That memory is what the store said, in the order it said it, and own commits at once.

use kilonova_model::FlavorId;
use kilonova_proto::types::v1::Flavor;
use prost::Message as _;

use super::*;

fn cache() -> Cache<FlavorId, Flavor> {
    Cache::new("flavors")
}

fn item(id: &str, vcpus: u32, revision: u64) -> KeyValue {
    let value = Flavor { id: id.into(), vcpus, ..Default::default() }.encode_to_vec().into();
    let (create_revision, mod_revision) = (Revision(1), Revision(revision));
    KeyValue { key: id.into(), value, create_revision, mod_revision, leased: false }
}

fn id_of(key: &str) -> Option<FlavorId> {
    FlavorId::parse(key).ok()
}

fn vcpus(cache: &Cache<FlavorId, Flavor>, id: &str) -> Option<u32> {
    cache.get(&FlavorId::parse(id).unwrap()).map(|entry| entry.record.vcpus)
}

#[test]
fn an_own_commit_is_read_at_once_and_an_older_watch_event_does_not_undo_it() {
    let cache = cache();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("a", 1, 5)], revision: Revision(5), went_back: false },
        &id_of,
    );
    let committed = Flavor { id: "a".into(), vcpus: 3, ..Default::default() };
    cache.committed(FlavorId::parse("a").unwrap(), Arc::new(committed), Revision(8));
    cache.take(WatchEvent::Put(item("a", 2, 7)), &id_of);
    assert_eq!(vcpus(&cache, "a"), Some(3));
    cache.take(WatchEvent::Delete { key: "a".into(), revision: Revision(9) }, &id_of);
    let late = Flavor { id: "a".into(), vcpus: 3, ..Default::default() };
    cache.committed(FlavorId::parse("a").unwrap(), Arc::new(late), Revision(8));
    assert_eq!(vcpus(&cache, "a"), None);
}

#[test]
fn subscribers_are_told_what_was_before_an_own_commit() {
    let cache = cache();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("a", 1, 5)], revision: Revision(5), went_back: false },
        &id_of,
    );
    let (_, mut changes) = cache.subscribe(None).unwrap();
    for (vcpus, revision) in [(2, 7), (3, 8)] {
        let own = Flavor { id: "a".into(), vcpus, ..Default::default() };
        cache.committed(FlavorId::parse("a").unwrap(), Arc::new(own), Revision(revision));
    }
    cache.take(WatchEvent::Put(item("a", 2, 7)), &id_of);
    cache.take(WatchEvent::Put(item("a", 3, 8)), &id_of);
    cache.take(WatchEvent::Delete { key: "a".into(), revision: Revision(9) }, &id_of);
    let told = std::iter::from_fn(|| changes.try_recv().ok()).map(|change| {
        let vcpus = |entry: Option<Entry<Flavor>>| entry.map(|entry| entry.record.vcpus);
        (vcpus(change.before), vcpus(change.after))
    });
    let expected = [(Some(1), Some(2)), (Some(2), Some(3)), (Some(3), None)];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_store_that_went_back_ends_subscribers_and_is_believed() {
    let cache = cache();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("a", 9, 50)], revision: Revision(50), went_back: false },
        &id_of,
    );
    let (_, mut changes) = cache.subscribe(None).unwrap();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("a", 1, 5)], revision: Revision(6), went_back: false },
        &id_of,
    );
    assert_eq!(vcpus(&cache, "a"), Some(1));
    assert!(matches!(changes.try_recv(), Err(broadcast::error::TryRecvError::Closed)));
}

#[test]
fn what_was_known_of_another_history_is_served_no_longer() {
    let cache = cache();
    let both = vec![item("a", 9, 50), item("b", 9, 40)];
    cache.take(WatchEvent::Snapshot { items: both, revision: Revision(50), went_back: false }, &id_of);
    let own = Flavor { id: "c".into(), vcpus: 9, ..Default::default() };
    cache.committed(FlavorId::parse("c").unwrap(), Arc::new(own), Revision(52));
    let (_, mut changes) = cache.subscribe(None).unwrap();
    // Its revisions have grown past all that was seen.
    let older = vec![item("a", 1, 5)];
    cache.take(WatchEvent::Snapshot { items: older, revision: Revision(60), went_back: true }, &id_of);
    assert_eq!(["a", "b", "c"].map(|id| vcpus(&cache, id)), [Some(1), None, None]);
    assert!(matches!(changes.try_recv(), Err(broadcast::error::TryRecvError::Closed)));
    assert_eq!(cache.subscribe(Some(Revision(51))).unwrap_err(), Expired);
    assert!(cache.subscribe(Some(Revision(60))).is_ok());
    let own = Flavor { id: "c".into(), vcpus: 2, ..Default::default() };
    cache.committed(FlavorId::parse("c").unwrap(), Arc::new(own), Revision(61));
    assert_eq!(vcpus(&cache, "c"), Some(2));
}

#[test]
fn a_token_of_before_a_store_went_back_is_not_resumed_later() {
    let cache = cache();
    cache.take(WatchEvent::Snapshot { items: vec![], revision: Revision(50), went_back: false }, &id_of);
    cache.take(WatchEvent::Snapshot { items: vec![], revision: Revision(6), went_back: true }, &id_of);
    for revision in 7..60 {
        cache.take(WatchEvent::Put(item("a", 1, revision)), &id_of);
    }
    assert_eq!(cache.subscribe(Some(Revision(40))).unwrap_err(), Expired);
    assert!(cache.subscribe(Some(Revision(55))).is_ok());
}

#[test]
fn a_subscriber_resumes_without_gap_or_is_told_that_it_cannot() {
    let cache = cache();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("a", 1, 5)], revision: Revision(5), went_back: false },
        &id_of,
    );
    for revision in 6..10 {
        cache.take(WatchEvent::Put(item("b", 1, revision)), &id_of);
    }
    let (start, _) = cache.subscribe(Some(Revision(7))).unwrap();
    let Start::Resume(missed) = start else { panic!("a snapshot was not asked for") };
    assert_eq!(missed.iter().map(|c| c.revision.0).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(cache.subscribe(Some(Revision(4))).unwrap_err(), Expired);
}

#[test]
fn a_new_listing_reports_what_differs() {
    let cache = cache();
    let both = vec![item("a", 1, 5), item("b", 1, 5)];
    cache.take(WatchEvent::Snapshot { items: both, revision: Revision(5), went_back: false }, &id_of);
    let (_, mut changes) = cache.subscribe(None).unwrap();
    cache.take(
        WatchEvent::Snapshot { items: vec![item("b", 2, 8)], revision: Revision(9), went_back: false },
        &id_of,
    );
    assert_eq!(changes.try_recv().unwrap().after.unwrap().record.vcpus, 2);
    assert!(changes.try_recv().unwrap().after.is_none());
    assert!(changes.try_recv().is_err());
    assert_eq!(cache.subscribe(Some(Revision(8))).unwrap_err(), Expired);
}

#[tokio::test]
async fn a_barrier_is_passed_only_once_the_watch_has_brought_it() {
    let cell = kilonova_model::CellName::parse("c1").unwrap();
    let store: SharedStore = Arc::new(kilonova_store::embedded::EmbeddedStore::open_temporary().unwrap());
    let db = crate::db::Db { store, keys: Keys::new(&cell) };
    let (cache, barrier) = (cache(), crate::barrier::Barrier::default());
    let pass = || barrier.pass(&db, "flavors/", &cache);
    let (mut first, mut second) = (Box::pin(pass()), Box::pin(pass()));
    let soon = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(soon, &mut first).await.is_err(), "nothing has been brought");
    assert!(tokio::time::timeout(soon, &mut second).await.is_err());
    let (written, _) = db.store.get("flavors/~barrier").await.unwrap();
    cache.take(WatchEvent::Put(written.unwrap()), &id_of);
    first.await.unwrap();
    assert!(tokio::time::timeout(soon, &mut second).await.is_err(), "it asked after the first had begun");
    let (written, _) = db.store.get("flavors/~barrier").await.unwrap();
    cache.take(WatchEvent::Put(written.unwrap()), &id_of);
    second.await.unwrap();
    assert!(cache.is_empty());
}

#[tokio::test]
async fn a_barrier_is_not_passed_with_the_memory_of_another_history() {
    let cell = kilonova_model::CellName::parse("c1").unwrap();
    let store: SharedStore = Arc::new(kilonova_store::embedded::EmbeddedStore::open_temporary().unwrap());
    let db = crate::db::Db { store, keys: Keys::new(&cell) };
    let (cache, barrier) = (cache(), crate::barrier::Barrier::default());
    let listing = |items, revision, went_back| {
        cache.take(WatchEvent::Snapshot { items, revision: Revision(revision), went_back }, &id_of);
    };
    listing(vec![item("a", 1, 5)], 900, false);
    let error = barrier.pass(&db, "flavors/", &cache).await.unwrap_err();
    assert_eq!(error.reason, kilonova_model::Reason::StoreUnavailable);
    listing(vec![], 1, true);
    let soon = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(soon, barrier.pass(&db, "flavors/", &cache)).await.is_err());
}

#[test]
fn pages_follow_each_other() {
    let cache = cache();
    let items = ["a", "b", "c", "d"].map(|id| item(id, 1, 5)).to_vec();
    cache.take(WatchEvent::Snapshot { items, revision: Revision(5), went_back: false }, &id_of);
    let (page, more) = cache.page(None, 2, |_, _| true);
    assert!(more);
    let (rest, more) = cache.page(Some(&page[1].0), 2, |_, _| true);
    assert!(!more);
    assert_eq!(rest.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["c", "d"]);
}
