//! What is accepted, and how often.

use kilonova_conductor::accept::Request;
use kilonova_conductor::expiry::forget;
use kilonova_conductor::placed::Placed;
use kilonova_model::Reason;
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1 as pb;
use std::time::{Duration, SystemTime};

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
    let first = conductor.create("again", 1).await.unwrap();
    assert_eq!(forget(&conductor.records.db, SystemTime::now()).await.unwrap(), 0);
    assert_eq!(conductor.create("again", 1).await.unwrap(), first);
    let tomorrow = SystemTime::now() + Duration::from_secs(25 * 3600);
    assert_eq!(forget(&conductor.records.db, tomorrow).await.unwrap(), 1);
    assert_ne!(conductor.create("again", 1).await.unwrap(), first);
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
