//! What is accepted, and how often.

use kilonova_conductor::accept::Request;
use kilonova_conductor::expiry::Forgetting;
use kilonova_conductor::placed::Placed;
use kilonova_model::{ProjectId, Reason, RequestId};
use kilonova_proto::conductor::v1::{InstanceRecord, RequestRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_store::Txn;
use prost::Message;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_accepted_once_however_often_and_wherever_it_arrives() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let (a, b, c) = tokio::join!(one.create("same", 2), two.create("same", 2), one.create("same", 2));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    assert_eq!((a.len(), &a, &a), (2, &b, &c));
    assert_eq!(one.used().await.instances, 2);
    let other = Request::new("BuildInstances", "demo", "same", &pb::InstanceSpec::default()).unwrap();
    assert_eq!(one.acceptor.replay(&other).await.unwrap_err().reason, Reason::RequestIdReused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_against_concurrent_requests_on_two_conductors() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let requests = (0..30).map(|n| {
        let conductor = if n % 2 == 0 { &one } else { &two };
        async move { conductor.create("", 1).await }
    });
    let answers = futures::future::join_all(requests).await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, 10, "the default quota is 10 instances");
    assert!(answers.iter().filter_map(|a| a.as_ref().err()).all(|e| e.reason == Reason::QuotaExceeded));
    assert_eq!(one.used().await.instances, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_forgotten_when_its_time_is_over() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let mut owner = forgetting(&conductor);
    let first = conductor.create("again", 1).await.unwrap();
    assert_eq!(owner.pass(in_hours(0)).await.unwrap(), 0);
    assert_eq!(owner.pass(in_hours(23)).await.unwrap(), 0);
    assert_eq!(conductor.create("again", 1).await.unwrap(), first);
    assert_eq!(owner.pass(in_hours(24)).await.unwrap(), 1);
    let second = conductor.create("again", 1).await.unwrap();
    assert_ne!(second, first);
    assert_eq!(owner.pass(in_hours(47)).await.unwrap(), 0, "it was written after that");
    assert_eq!(conductor.create("again", 1).await.unwrap(), second);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_forgotten_because_a_clock_says_that_it_is_old() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let first = conductor.create("again", 1).await.unwrap();
    let db = &conductor.records.db;
    let key = db.keys.request(&ProjectId::parse("demo").unwrap(), &RequestId::parse("again").unwrap());
    let mut record = db.read::<RequestRecord>(&key).await.unwrap().unwrap().record;
    record.expire_time = Some(prost_types::Timestamp::default());
    db.commit(Txn::new().put(key, record.encode_to_vec())).await.unwrap();
    for days in [1, 1000] {
        let mut ahead = forgetting(&conductor);
        assert_eq!(ahead.pass(in_hours(24 * days)).await.unwrap(), 0, "it has counted nothing");
    }
    assert_eq!(conductor.create("again", 1).await.unwrap(), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_goes_on_from_what_another_counted_and_no_time_is_counted_twice() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    conductor.create("again", 1).await.unwrap();
    let (mut one, mut two) = (forgetting(&conductor), forgetting(&conductor));
    assert_eq!(one.pass(in_hours(0)).await.unwrap(), 0);
    assert_eq!(one.pass(in_hours(12)).await.unwrap(), 0);
    assert_eq!(two.pass(in_hours(100)).await.unwrap(), 0, "what it did not see is not counted");
    assert_eq!(one.pass(in_hours(24)).await.unwrap(), 0, "the other has counted since");
    assert_eq!(one.pass(in_hours(35)).await.unwrap(), 0);
    assert_eq!(two.pass(in_hours(101)).await.unwrap(), 0, "that one has");
    assert_eq!(two.pass(in_hours(102)).await.unwrap(), 1, "12, 11 and 1");
}

/// A conductor's part in the forgetting, from its start.
fn forgetting(conductor: &Conductor) -> Forgetting {
    Forgetting::new(conductor.records.db.clone(), conductor.config.request_retention.get())
}

/// A clock that says what is in so many hours.
fn in_hours(hours: u64) -> impl Fn() -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let now = *START + Duration::from_secs(hours * 3600);
    move || now
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_of_a_record_is_lost_among_two_conductors() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    cell.hosts.world.lock().silent = ["h1".to_owned()].into();
    let id = one.create("", 1).await.unwrap()[0];
    one.until(id, |i| !i.host.is_empty()).await;
    let note = |conductor: &Conductor, key: String| {
        let records = conductor.records.clone();
        async move {
            let noted = records.modify(id, |entry| {
                let mut record = InstanceRecord::clone(&entry.record);
                let spec = record.instance.get_or_insert_default().spec.get_or_insert_default();
                spec.metadata.insert(key.clone(), String::new());
                Ok(Some(record))
            });
            // So many at once may be told to try again, and then nothing of it was done.
            noted.await.is_ok()
        }
    };
    let notes = (0..40).map(|n| note(if n % 2 == 0 { &one } else { &two }, format!("{n}")));
    let noted = futures::future::join_all(notes).await;
    let record = one.records.read(id).await.unwrap().unwrap().record;
    let kept = record.resource().spec.as_ref().unwrap().metadata.len();
    assert_eq!(kept, noted.iter().filter(|ok| **ok).count());
    assert!(kept > 1);
}
