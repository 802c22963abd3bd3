//! What is said of a store, and what is refused.

use std::sync::Arc;

use super::mark::KEPT;
use super::*;
use kilonova_model::CellName;
use kilonova_store::embedded::{EmbeddedOptions, EmbeddedStore};
use kilonova_store::keys::Keys;

fn identity() -> StoreIdentity {
    let keys = Keys::new(&CellName::parse("test").unwrap());
    StoreIdentity::new(Db { store: Arc::new(EmbeddedStore::open_temporary().unwrap()), keys })
}

fn told<'a>(id: &'a str, revision: u64, mark: &'a str) -> Remembered<'a> {
    Remembered { id, revision: Revision(revision), mark }
}

#[tokio::test]
async fn a_store_without_a_mark_that_was_made_was_set_back_however_far_it_has_come_since() {
    let one = identity();
    let first = one.marked("").await.unwrap();
    let second = one.marked(&first.mark).await.unwrap();
    assert!(!first.mark.is_empty() && first.mark != second.mark);
    assert_eq!(one.marked(&first.mark).await.unwrap().mark, second.mark, "another made one");
    assert_eq!(one.mark(), second.mark);
    for known in ["", &first.mark, &second.mark] {
        assert_eq!(one.compared(told(&first.id, 1, known)).await.unwrap().id, first.id, "{known}");
    }
    // The same number, of what was lost; and one that the copy has not come to yet.
    for number in [2, 9] {
        let id = one.current().await.unwrap().id;
        let lost = Mark { number, drawn: 7 }.to_string();
        let renewed = one.compared(told(&id, 1, &lost)).await.unwrap();
        assert_eq!(renewed.previous_id, id, "{lost}");
    }
    assert!(one.marked("").await.unwrap().mark > second.mark, "they go on");
}

#[tokio::test]
async fn a_mark_is_deleted_after_a_day_of_newer_ones_and_not_looked_for_then() {
    let one = identity();
    let first = one.marked("").await.unwrap();
    let seen = one.read().await.unwrap();
    let mark = Mark { number: KEPT, drawn: 7 }.to_string();
    let a_day_later = pb::Store { mark, ..seen.store.clone() };
    one.write(Txn::new(), &seen, a_day_later).await.unwrap().unwrap();
    one.marked("").await.unwrap();
    let marks = one.db.store.list(&one.db.keys.marks(), None, 10).await.unwrap().items;
    let marks: Vec<_> = marks.into_iter().map(|item| item.key).collect();
    assert_eq!(marks, [one.db.keys.mark(KEPT + 1)]);
    let told = told(&first.id, 1, &first.mark);
    assert_eq!(one.compared(told).await.unwrap().id, first.id, "too old to tell");
}

#[tokio::test]
async fn an_embedded_store_that_is_opened_though_it_lost_something_gets_another_identity() {
    let dir = tempfile::tempdir().unwrap();
    let open = |accept_older| {
        let options = EmbeddedOptions { accept_older, ..EmbeddedOptions::default() };
        let keys = Keys::new(&CellName::parse("test").unwrap());
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        StoreIdentity::new(Db { store: Arc::new(store), keys })
    };
    let one = open(false);
    let before = one.current().await.unwrap();
    let copy = dir.path().join("copy");
    kilonova_store::embedded::backup(dir.path(), &copy).unwrap();
    one.marked("").await.unwrap();
    drop(one);
    for log in ["store.db-wal", "store.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(log));
    }
    std::fs::rename(&copy, dir.path().join("store.db")).unwrap();
    let after = open(true).current().await.unwrap();
    assert_eq!(after.previous_id, before.id);
    assert_eq!(open(true).current().await.unwrap().id, after.id, "once");
}

#[tokio::test]
async fn a_store_gets_one_identity_and_keeps_it() {
    let one = identity();
    let (first, second) = tokio::join!(one.current(), one.current());
    let store = first.unwrap();
    assert_eq!(second.unwrap().id, store.id);
    assert!(!store.accepted && store.previous_id.is_empty() && store.revision > 0);
    let same = one.compared(told(&store.id, store.revision, "")).await.unwrap();
    assert_eq!(same.id, store.id, "it is as far as it was");
    let other = one.compared(told("another", u64::MAX, &store.id)).await.unwrap();
    assert_eq!(other.id, store.id, "what was told of another store says nothing of this one");
}

#[tokio::test]
async fn one_that_was_set_back_gets_another_identity_once_that_has_to_be_accepted() {
    let one = identity();
    let before = one.current().await.unwrap();
    one.accept(&before.id, "admin").await.unwrap();
    let ahead = told(&before.id, before.revision + 100, "");
    let (first, second) = tokio::join!(one.compared(ahead), one.compared(ahead));
    let store = first.unwrap();
    assert_eq!((&second.unwrap().id, &store.previous_id), (&store.id, &before.id));
    assert!(store.id != before.id && !store.accepted);

    let refused = one.accept(&before.id, "admin").await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidState);
    let accepted = one.accept(&store.id, "admin").await.unwrap();
    assert_eq!((accepted.accepted, accepted.accepted_by.as_str()), (true, "admin"));
    let again = one.accept(&store.id, "somebody else").await.unwrap();
    assert_eq!(again.accepted_by, "admin", "once");
}
