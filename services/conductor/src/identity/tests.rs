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
    Remembered { id, revision: Revision(revision), mark, ..Remembered::default() }
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

/// As an agent that has been told of a store once it was accepted.
fn remembers(store: &pb::Store) -> Remembered<'_> {
    Remembered { id: &store.id, origin: &store.origin_id, ..Remembered::default() }
}

#[tokio::test]
async fn an_acceptance_holds_for_what_the_store_replaced_and_for_nothing_that_came_after_a_copy_of_it() {
    let one = identity();
    let first = one.current().await.unwrap();
    assert_eq!((&first.origin_id, first.replaced_ids.len()), (&first.id, 0));
    let second = one.renew_identity(&first.id).await.unwrap();
    let accepted = one.accept(&second.id, "admin").await.unwrap();
    assert_eq!(
        (&accepted.origin_id, accepted.replaced_ids.as_slice()),
        (&first.id, [first.id.clone()].as_slice())
    );
    assert_eq!(one.compared(remembers(&first)).await.unwrap().id, accepted.id, "adopted");

    // What came after it was accepted in its place too; this is a copy from before that.
    let lost = pb::Store { id: "lost".into(), ..accepted.clone() };
    let (renewed, again) = tokio::join!(one.compared(remembers(&lost)), one.compared(remembers(&lost)));
    let renewed = renewed.unwrap();
    assert_eq!(again.unwrap().id, renewed.id, "once");
    assert_eq!((renewed.accepted, &renewed.previous_id), (false, &accepted.id));
    assert_eq!(renewed.replaced_ids, [first.id.clone(), accepted.id, "lost".into()]);
    assert!(one.waits());
    let accepted = one.accept(&renewed.id, "admin").await.unwrap();
    assert_eq!(one.compared(remembers(&lost)).await.unwrap().id, accepted.id);
    assert!(one.waits(), "for the hosts to compare what they have with it");
    assert_eq!(one.until_to_compare().await.id, accepted.id);
    assert!(!one.set_compared(&first.id).await.unwrap().compared && one.waits(), "with another one");
    assert!(one.set_compared(&accepted.id).await.unwrap().compared);

    // An agent of another cell waits alone, until an administrator has looked at it.
    let other = pb::Store { id: "other".into(), origin_id: "other".into(), ..pb::Store::default() };
    for _ in 0..2 {
        let store = one.compared(remembers(&other)).await.unwrap();
        assert_eq!(
            (&store.id, store.waiting_ids.as_slice()),
            (&accepted.id, ["other".to_owned()].as_slice())
        );
        assert!(!one.waits() && !store.replaced_ids.contains(&other.id));
    }
    let adopted = one.accept(&accepted.id, "somebody").await.unwrap();
    assert!(adopted.waiting_ids.is_empty() && adopted.replaced_ids.contains(&other.id));
    assert!(one.waits(), "for its agents to compare too");
}

#[tokio::test]
async fn a_store_that_was_wiped_under_a_conductor_is_in_the_place_of_the_one_that_it_knew() {
    let one = identity();
    let first = one.marked("").await.unwrap();
    one.db.store.txn(Txn::new().delete(one.db.keys.store_identity())).await.unwrap();
    let second = one.current().await.unwrap();
    assert_eq!((&second.previous_id, &second.origin_id), (&first.id, &first.origin_id));
    assert!(one.waits() && !second.accepted);
    // The word is given before any agent has registered.
    one.accept(&second.id, "admin").await.unwrap();
    let told = one.compared(remembers(&first)).await.unwrap();
    assert!(told.accepted && told.replaced_ids.contains(&first.id));
}

#[tokio::test]
async fn the_ids_that_are_kept_are_bounded_and_those_of_an_earlier_version_are_understood() {
    let one = identity();
    let mut store = one.current().await.unwrap();
    for _ in 0..REPLACED + 2 {
        store = one.renew_identity(&store.id).await.unwrap();
    }
    assert_eq!(store.replaced_ids.len(), REPLACED);
    for number in 0..WAITING + 2 {
        let id = format!("other-{number}");
        one.compared(Remembered { id: &id, origin: &id, ..Remembered::default() }).await.unwrap();
    }
    assert_eq!(one.current().await.unwrap().waiting_ids.len(), WAITING);

    let seen = one.read().await.unwrap();
    let earlier =
        pb::Store { id: "b".into(), previous_id: "a".into(), accepted: true, ..pb::Store::default() };
    one.write(Txn::new(), &seen, earlier).await.unwrap().unwrap();
    let store = one.current().await.unwrap();
    assert_eq!((store.origin_id.as_str(), store.replaced_ids), ("b", vec!["a".to_owned()]));
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
