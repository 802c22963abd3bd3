//! Creates that share a transaction: each has its own answer, and together they are counted once.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kilonova_conductor::Config;
use kilonova_conductor::accept::batch::{Accepted, Batches};
use kilonova_conductor::accept::book::Book;
use kilonova_conductor::accept::merge::Ask;
use kilonova_conductor::accept::{Lanes, Request};
use kilonova_conductor::config::QuotaDefaults;
use kilonova_conductor::db::Db;
use kilonova_model::{CellName, InstanceId, ProjectId, Reason, Revision};
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;

use super::support::*;

fn demo() -> ProjectId {
    ProjectId::parse("demo").unwrap()
}

/// What all records in the store together use.
async fn counted(conductor: &Conductor) -> u32 {
    let (store, keys) = (&conductor.records.db.store, &conductor.records.db.keys);
    let page = store.list(&keys.instances(), None, 10_000).await.unwrap();
    u32::try_from(page.items.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_on_two_conductors_stays_within_the_quota_and_each_accepted_is_counted_once() {
    let cell = Cell::new(&["h1"]).await;
    let quota = QuotaDefaults { instances: 100, cores: -1, ram_mib: -1, ..Default::default() };
    let config = Config { quota, ..Default::default() };
    let (one, two) =
        (cell.conductor_with("c1", config.clone()).await, cell.conductor_with("c2", config).await);
    let requests = (0..200_u32).map(|n| {
        let conductor = if n % 2 == 0 { &one } else { &two };
        // Every id comes twice, on either conductor.
        async move { conductor.create(&format!("r{}", n / 2), 1 + n / 2 % 3).await }
    });
    let answers = join_all(requests).await;
    let mut accepted: Vec<InstanceId> = answers.iter().flatten().flatten().copied().collect();
    let answered = accepted.len();
    accepted.sort_unstable();
    accepted.dedup();
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.clone().all(|error| error.reason == Reason::QuotaExceeded), "{refused:?}");
    let accepted = u32::try_from(accepted.len()).unwrap();
    assert!((98..=100).contains(&accepted), "{accepted} of 100: what is left fits none of them");
    assert_eq!(answered, 2 * accepted as usize, "equal requests have equal answers");
    assert_eq!((one.used().await.instances, counted(&one).await), (accepted, accepted));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_that_comes_many_times_at_once_is_accepted_once() {
    let cell = Cell::new(&["h1"]).await;
    let (one, two) = (cell.conductor("c1").await, cell.conductor("c2").await);
    let conductor = |n| if n % 2 == 0 { &one } else { &two };
    let answers = join_all((0..60).map(|n| conductor(n).create("same", 3))).await;
    let first = answers[0].clone().unwrap();
    assert_eq!(first.len(), 3);
    assert!(answers.iter().all(|answer| answer.as_ref() == Ok(&first)));
    assert_eq!((one.used().await.instances, counted(&one).await), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_together_share_a_transaction_and_none_spoils_the_others() {
    let cell = Cell::new(&[]).await;
    let conductor = cell.conductor("c1").await;
    let before = conductor.create("before", 1).await.unwrap();
    let first = conductor.create("", 1);
    let rest = async {
        tokio::join!(
            conductor.create("again", 2),
            conductor.create("", 20),
            conductor.create("before", 1),
            conductor.create("again", 2),
            conductor.create("", 2),
        )
    };
    // While the turn is another's, they gather.
    let lane = conductor.acceptor.enter(&demo()).await;
    let release = async { drop(lane) };
    let (first, (two, refused, repeated, twin, last), ()) = tokio::join!(first, rest, release);
    let (first, two, last) = (first.unwrap(), two.unwrap(), last.unwrap());
    assert_eq!((repeated.unwrap(), twin.unwrap()), (before, two.clone()));
    let refused = refused.unwrap_err();
    assert_eq!(refused.reason, Reason::QuotaExceeded);
    assert_eq!(refused.metadata["requested"], "20");
    let db = &conductor.records.db;
    let accepted = async |id| db.store.get(&db.keys.instance(id)).await.unwrap().0.unwrap().create_revision;
    let revision = accepted(first[0]).await;
    for id in two.iter().chain(&last) {
        assert_eq!(accepted(*id).await, revision, "one transaction, one revision");
    }
    assert_eq!(conductor.used().await.instances, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_takes_nothing_from_the_others() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let lane = conductor.acceptor.enter(&demo()).await;
    let gone = tokio::time::timeout(Duration::from_millis(50), conductor.create("gone", 1)).await;
    assert!(gone.is_err(), "its turn has not come");
    let (stays, ()) = tokio::join!(conductor.create("stays", 1), async { drop(lane) });
    assert_eq!(stays.unwrap().len(), 1);
    // It was asked for, and is there for who asks again.
    conductor.create("gone", 1).await.unwrap();
    assert_eq!((conductor.used().await.instances, counted(&conductor).await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_conductor_that_stops() {
    let cell = Cell::new(&["h1"]).await;
    let conductor = cell.conductor("c1").await;
    let _lane = conductor.acceptor.enter(&demo()).await;
    let soon = |asked| tokio::time::timeout(Duration::from_secs(120), asked);
    let (answer, ()) = tokio::join!(soon(conductor.create("", 1)), conductor.die());
    assert_eq!(answer.unwrap().unwrap_err().reason, Reason::StoreOutcomeUnknown);
    let late = soon(conductor.create("", 1)).await.unwrap();
    assert_eq!(late.unwrap_err().reason, Reason::StoreOutcomeUnknown);
}

/// An accept path whose memory says what a test wants.
struct Path {
    book: Arc<Book>,
    batches: Batches,
    keys: Keys,
}

impl Path {
    fn new(cell: &Cell, tasks: &Tasks) -> Self {
        let keys = Keys::new(&CellName::parse(CELL).unwrap());
        let db = Db { store: cell.store.clone(), keys: keys.clone() };
        let book = Arc::new(Book::follow(db, Arc::new(Config::default()), tasks));
        let batches = Batches::new(book.clone(), Arc::new(Lanes::default()), tasks);
        Self { book, batches, keys }
    }

    /// Has memory believe this, whatever the store says.
    fn believe(&self, instances: u32) {
        let used = pb::QuotaUsage { instances, ..Default::default() };
        self.book.counted(&demo(), used, Revision(1 << 40));
    }

    async fn ask(&self, request_id: &str, instances: u32) -> Result<Accepted, Reason> {
        let request = Request::new("Test", "demo", request_id, &pb::Instance::default()).unwrap();
        let key = self.keys.instance(InstanceId::generate());
        let txn = self.book.remember(&request, Vec::new(), Txn::new().when_absent(key.clone()).put(key, "x"));
        let wanted = pb::QuotaUsage { instances, ..Default::default() };
        self.batches.accept(Ask { request, wanted, txn }).await.map_err(|error| error.reason)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_remembered_neither_refuses_nor_exceeds() {
    let (cell, tasks) = (Cell::new(&[]).await, Tasks::new("test"));
    let path = Path::new(&cell, &tasks);
    assert!(matches!(path.ask("one", 6).await, Ok(Accepted::New(_))));
    path.believe(10);
    assert!(matches!(path.ask("two", 3).await, Ok(Accepted::New(_))), "the store has room");
    path.believe(0);
    assert_eq!(path.ask("three", 2).await, Err(Reason::QuotaExceeded), "the store has none");
    assert_eq!(
        path.ask("one", 6).await,
        Ok(Accepted::Earlier(Vec::new())),
        "refused, had it not been accepted"
    );
    assert_eq!(path.book.usage(&demo()).await.unwrap().record.usage.unwrap().instances, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_was_lowered_elsewhere_is_obeyed() {
    let (cell, tasks) = (Cell::new(&[]).await, Tasks::new("test"));
    let path = Path::new(&cell, &tasks);
    let basis = path.book.remembered(&demo());
    let (request, keys) = (Request::new("Test", "demo", "", &pb::Instance::default()).unwrap(), &path.keys);
    let lower = pb::QuotaLimits { instances: 1, ..Default::default() };
    let lower = kilonova_proto::conductor::v1::QuotaRecord { limits: Some(lower) };
    let key = keys.quota(&request.project);
    cell.store.txn(Txn::new().put(key, prost::Message::encode_to_vec(&lower))).await.unwrap();
    let used = basis.with(&request.project, &pb::QuotaUsage { instances: 5, ..Default::default() }).unwrap();
    let late = cell.store.txn(basis.count(keys, &request.project, &used)).await.unwrap();
    assert_eq!(late.committed(), None, "judged on limits that are no longer");
    assert_eq!(path.ask("", 5).await, Err(Reason::QuotaExceeded));
}
