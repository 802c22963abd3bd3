//! The executor against a driver whose every answer the test gives.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use async_trait::async_trait;
use kilonova_model::{Attempt, Generation, HostName, ServiceKind};
use kilonova_proto::types::v1::action::Kind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::*;
use crate::agent::reconcile::{Record, Standing};
use crate::agent::reporter::{Report, Sink};
use crate::agent::work::Verbs;

type Answer = oneshot::Sender<Result<(), Error>>;

/// What the driver was asked.
#[derive(Debug)]
enum Ask {
    Make(u32, Answer),
    Unmake(u32, Answer),
    Act(u32, Answer),
}

struct Hand {
    asks: mpsc::UnboundedSender<Ask>,
    /// Whether a make ends when it is cancelled.
    yields: bool,
    witness: Arc<Witness>,
}

/// Sees of every report whether it is made while nobody else can change the book.
#[derive(Default)]
struct Witness {
    executor: OnceLock<Executor<Hand>>,
    locked: Mutex<Vec<bool>>,
}

#[derive(Default)]
struct Room {
    left: u32,
    held: BTreeMap<u32, u32>,
}

impl Claims for Room {
    type Id = u32;
    type Order = u32;

    fn claim(&mut self, id: u32, order: &mut u32) -> Result<String, Error> {
        if *order > self.left {
            return Err(Error::new(Reason::ClaimRefused, "full"));
        }
        assert!(self.held.insert(id, *order).is_none(), "claimed twice");
        self.left -= *order;
        Ok(order.to_string())
    }

    fn release(&mut self, id: u32) {
        self.left += self.held.remove(&id).unwrap_or_default();
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Told(u32, Stamp, &'static str, Vec<String>);

impl Report for Told {
    type Key = u32;
    fn key(&self) -> u32 {
        self.0
    }
}

#[async_trait]
impl Work for Hand {
    type Id = u32;
    type Order = u32;
    type Made = ();
    type Act = Kind;
    type Claims = Room;
    type Report = Told;

    const VERBS: Verbs = Verbs {
        noun: "thing",
        make: "build",
        driver_make: "spawn",
        unmake: "terminate",
        driver_unmake: "destroy",
    };
    const NOT_FOUND: Reason = Reason::InstanceNotFound;

    fn kind(act: &Kind) -> Kind {
        *act
    }

    fn act_name(_: &Kind) -> &'static str {
        "power_off"
    }

    async fn make(&self, id: u32, _: Stamp, _: &u32, cancel: &CancellationToken) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Make(id, answer)).unwrap();
        tokio::select! {
            result = answered => result.expect("the test answers"),
            () = cancel.cancelled(), if self.yields => Err(Error::new(Reason::DriverFailed, "cancelled")),
        }
    }

    async fn unmake(&self, id: u32, _: Stamp) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Unmake(id, answer)).unwrap();
        answered.await.expect("the test answers")
    }

    async fn act(&self, id: u32, _: Stamp, _: &Kind, cancel: &CancellationToken) -> Result<(), Error> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Act(id, answer)).unwrap();
        tokio::select! {
            result = answered => result.expect("the test answers"),
            () = cancel.cancelled(), if self.yields => Err(Error::new(Reason::DriverFailed, "cancelled")),
        }
    }

    fn report(&self, id: u32, end: &Conclusion<()>) -> Told {
        let executor = self.witness.executor.get().expect("set before any work");
        self.witness.locked.lock().push(executor.shared.book.is_locked());
        let outcome = match end.outcome {
            Outcome::Ready(()) => match &end.act {
                None => "ready",
                Some(act) if act.fault.is_none() => "acted",
                Some(_) => "not acted",
            },
            Outcome::Failed(_) => "failed",
            Outcome::Gone => "gone",
        };
        Told(id, end.stamp, outcome, end.steps.iter().map(|step| step.name.clone()).collect())
    }
}

struct Reports(mpsc::UnboundedSender<Told>);

#[async_trait]
impl Sink<Told> for Reports {
    async fn send(&self, reports: Vec<Told>) -> Result<(), tonic::Status> {
        reports.into_iter().for_each(|report| self.0.send(report).unwrap());
        Ok(())
    }
}

struct Bench {
    executor: Executor<Hand>,
    asks: mpsc::UnboundedReceiver<Ask>,
    reports: mpsc::UnboundedReceiver<Told>,
    tasks: Tasks,
    witness: Arc<Witness>,
}

fn bench(room: u32, yields: bool) -> Bench {
    let (asks, asked) = mpsc::unbounded_channel();
    let (sender, reports) = mpsc::unbounded_channel();
    let tasks = Tasks::new("test");
    let reporter = Reporter::new(metrics::Gauge::noop());
    tasks.spawn("reports", reporter.clone().run(Reports(sender)));
    let site = Site { service: ServiceKind::Compute, host: HostName::parse("node1").unwrap() };
    let options = ExecutorOptions {
        max_concurrent: 2,
        make_timeout: Duration::from_secs(60),
        unmake_timeout: Duration::from_secs(5),
        act_timeout: Duration::from_secs(5),
        orphans: OrphanOptions { remove: true, grace: Duration::ZERO, share_per_hour: 1.0 },
    };
    let claims = Room { left: room, held: BTreeMap::new() };
    let witness = Arc::new(Witness::default());
    let hand = Hand { asks, yields, witness: witness.clone() };
    let executor = Executor::new(hand, claims, site, tasks.clone(), reporter, options);
    assert!(witness.executor.set(executor.clone()).is_ok());
    Bench { executor, asks: asked, reports, tasks, witness }
}

fn at(generation: u64, attempt: u32) -> Stamp {
    Stamp { generation: Generation(generation), attempt: Attempt(attempt) }
}

impl Bench {
    /// Compares with these records what is there, in a task of its own.
    fn reconcile(&self, records: Vec<Record<u32>>) -> JoinSet<()> {
        let executor = self.executor.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let found = executor.read(|book| book.ledger.idle());
            executor.reconcile(records, &found, async |_| Ok(BTreeMap::new())).await.unwrap();
        });
        task
    }

    fn make(&self, id: u32, stamp: Stamp) -> Result<(), Error> {
        self.executor.make(id, stamp, 1, || Ok(()))
    }

    async fn asked(&mut self) -> Ask {
        self.asks.recv().await.unwrap()
    }

    async fn asked_to_make(&mut self) -> (u32, Answer) {
        match self.asked().await {
            Ask::Make(id, answer) => (id, answer),
            other => panic!("{other:?}"),
        }
    }

    async fn asked_to_unmake(&mut self) -> (u32, Answer) {
        match self.asked().await {
            Ask::Unmake(id, answer) => (id, answer),
            other => panic!("{other:?}"),
        }
    }

    async fn told(&mut self) -> (u32, Stamp, &'static str) {
        let Told(id, stamp, outcome, _) = self.reports.recv().await.unwrap();
        (id, stamp, outcome)
    }

    fn held(&self) -> usize {
        self.executor.read(|book| book.claims.held.len())
    }

    /// Nothing is under way and the driver was asked nothing more.
    fn assert_quiet(&mut self) {
        assert_eq!(self.executor.read(|book| book.ledger.busy()), 0);
        assert!(self.asks.try_recv().is_err());
        assert_eq!(self.tasks.list().len(), 1, "only the reporter runs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_make_is_done_once_however_often_it_is_sent() {
    let mut bench = bench(1, true);
    bench.make(7, at(1, 1)).unwrap();
    bench.make(7, at(1, 1)).unwrap();
    let (_, answer) = bench.asked_to_make().await;
    bench.make(7, at(1, 1)).unwrap();
    answer.send(Ok(())).unwrap();
    let told = bench.reports.recv().await.unwrap();
    assert_eq!(told, Told(7, at(1, 1), "ready", vec!["claim".into(), "spawn".into()]));
    bench.make(7, at(1, 1)).unwrap();
    assert_eq!(bench.told().await, (7, at(1, 1), "ready"));
    assert_eq!(bench.held(), 1);
    bench.assert_quiet();
}

#[tokio::test(start_paused = true)]
async fn a_failed_make_leaves_nothing_behind() {
    let mut bench = bench(1, true);
    bench.make(7, at(1, 1)).unwrap();
    let (_, answer) = bench.asked_to_make().await;
    answer.send(Err(Error::new(Reason::DriverFailed, "broken"))).unwrap();
    let (_, answer) = bench.asked_to_unmake().await;
    assert_eq!(bench.held(), 1, "room is held until the driver confirms");
    answer.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (7, at(1, 1), "failed"));
    assert_eq!(bench.executor.read(|book| (book.claims.held.len(), book.failed_in_row)), (0, 1));
    bench.assert_quiet();
}

#[tokio::test(start_paused = true)]
async fn an_unmake_while_making_waits_for_the_driver_and_unmakes_once() {
    for yields in [true, false] {
        let mut bench = bench(1, yields);
        bench.make(7, at(1, 1)).unwrap();
        let (_, answer) = bench.asked_to_make().await;
        bench.executor.unmake(7, at(2, 1)).unwrap();
        bench.executor.unmake(7, at(2, 1)).unwrap();
        assert_eq!(bench.held(), 1);
        if !yields {
            answer.send(Ok(())).unwrap();
        }
        let (_, answer) = bench.asked_to_unmake().await;
        assert_eq!(bench.make(7, at(1, 1)).unwrap_err().reason, Reason::StaleGeneration);
        answer.send(Ok(())).unwrap();
        let told = bench.reports.recv().await.unwrap();
        let steps = ["claim", "spawn", "destroy"].map(str::to_owned).to_vec();
        assert_eq!(told, Told(7, at(2, 1), "gone", steps));
        assert_eq!(bench.held(), 0);
        bench.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unmake_while_waiting_for_a_slot_never_reaches_the_drivers_make() {
    let mut bench = bench(3, true);
    for id in [1, 2, 3] {
        bench.make(id, at(1, 1)).unwrap();
    }
    let (first, _one) = bench.asked_to_make().await;
    let (second, _two) = bench.asked_to_make().await;
    let waiting = 6 - first - second;
    bench.executor.unmake(waiting, at(2, 1)).unwrap();
    let (id, answer) = bench.asked_to_unmake().await;
    assert_eq!(id, waiting);
    answer.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (waiting, at(2, 1), "gone"));
    assert_eq!(bench.held(), 2);
}

#[tokio::test(start_paused = true)]
async fn removing_is_tried_until_it_is_done() {
    let mut bench = bench(1, true);
    bench.executor.change(|book| {
        book.claims.claim(7, &mut 1).unwrap();
        book.ledger.restore(7, at(1, 1), (), None);
    });
    bench.executor.unmake(7, at(2, 1)).unwrap();
    let (_, refused) = bench.asked_to_unmake().await;
    refused.send(Err(Error::new(Reason::DriverFailed, "busy"))).unwrap();
    let (_, _silent) = bench.asked_to_unmake().await;
    let (_, dropped) = bench.asked_to_unmake().await;
    drop(dropped); // the driver panics
    let (_, done) = bench.asked_to_unmake().await;
    assert_eq!(bench.held(), 1);
    done.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (7, at(2, 1), "gone"));
    assert_eq!(bench.held(), 0);
    bench.assert_quiet();
}

fn built(room: u32, yields: bool) -> Bench {
    let bench = bench(room, yields);
    bench.executor.change(|book| {
        book.claims.claim(7, &mut 1).unwrap();
        book.ledger.restore(7, at(1, 1), (), None);
    });
    bench
}

#[tokio::test(start_paused = true)]
async fn an_act_is_done_once_and_its_end_told_whatever_it_is() {
    for (result, end) in [
        (Some(Ok(())), "acted"),
        (Some(Err(Error::new(Reason::DriverFailed, "broken"))), "not acted"),
        (None, "not acted"),
    ] {
        let mut bench = built(1, true);
        bench.executor.act(7, at(2, 1), Kind::Stop).unwrap();
        bench.executor.act(7, at(2, 1), Kind::Stop).unwrap();
        let Ask::Act(7, answer) = bench.asked().await else { panic!("an act is asked for") };
        // Without an answer it runs out of time.
        let _kept = match result {
            Some(result) => {
                answer.send(result).unwrap();
                None
            }
            None => Some(answer),
        };
        assert_eq!(bench.reports.recv().await.unwrap(), Told(7, at(2, 1), end, vec!["power_off".into()]));
        bench.executor.act(7, at(2, 1), Kind::Stop).unwrap();
        assert_eq!(bench.told().await, (7, at(2, 1), end));
        assert_eq!(bench.held(), 1);
        bench.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn an_unmake_while_acting_waits_for_the_driver_and_unmakes_once() {
    for yields in [true, false] {
        let mut bench = built(1, yields);
        bench.executor.act(7, at(2, 1), Kind::Stop).unwrap();
        let Ask::Act(7, answer) = bench.asked().await else { panic!("an act is asked for") };
        bench.executor.unmake(7, at(3, 1)).unwrap();
        assert!(bench.asks.try_recv().is_err(), "not while the driver is at it");
        if !yields {
            answer.send(Ok(())).unwrap();
        }
        let (_, answer) = bench.asked_to_unmake().await;
        answer.send(Ok(())).unwrap();
        assert_eq!(bench.told().await, (7, at(3, 1), "gone"));
        assert_eq!(bench.held(), 0);
        bench.assert_quiet();
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_never_answers_or_panics_has_failed() {
    for panics in [true, false] {
        let mut bench = bench(1, true);
        bench.make(7, at(1, 1)).unwrap();
        let (_, answer) = bench.asked_to_make().await;
        let _kept = (!panics).then_some(answer);
        let (_, answer) = bench.asked_to_unmake().await;
        answer.send(Ok(())).unwrap();
        assert_eq!(bench.told().await, (7, at(1, 1), "failed"));
        assert_eq!(bench.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_before_the_driver_hears_of_it() {
    let mut bench = bench(1, true);
    bench.make(1, at(1, 1)).unwrap();
    assert_eq!(bench.make(2, at(1, 1)).unwrap_err().reason, Reason::ClaimRefused);
    let refused = bench.executor.make(3, at(1, 1), 1, || Err(Error::new(Reason::HostDisabled, "disabled")));
    assert_eq!(refused.unwrap_err().reason, Reason::HostDisabled);
    bench.asked_to_make().await.1.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (1, at(1, 1), "ready"));
    bench.assert_quiet();
}

#[tokio::test(start_paused = true)]
async fn every_end_is_handed_over_before_the_book_can_change_again() {
    let mut bench = bench(1, true);
    bench.make(7, at(1, 1)).unwrap();
    bench.asked_to_make().await.1.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (7, at(1, 1), "ready"));
    bench.make(7, at(1, 2)).unwrap();
    assert_eq!(bench.told().await, (7, at(1, 2), "ready"));
    assert!(bench.executor.conclude(7, |book| book.ledger.adopt(7, at(1, 3))));
    assert_eq!(bench.told().await, (7, at(1, 3), "ready"));
    bench.executor.unmake(7, at(2, 3)).unwrap();
    bench.asked_to_unmake().await.1.send(Ok(())).unwrap();
    assert_eq!(bench.told().await, (7, at(2, 3), "gone"));
    bench.executor.unmake(7, at(2, 4)).unwrap();
    assert_eq!(bench.told().await, (7, at(2, 4), "gone"));
    assert_eq!(*bench.witness.locked.lock(), [true; 5]);
}

#[tokio::test]
async fn what_the_driver_has_and_nobody_asked_for_is_entered_once_and_removed_when_no_record_has_it() {
    let mut bench = bench(3, false);
    bench.make(1, at(1, 1)).unwrap();
    bench.asked_to_make().await.1.send(Ok(())).unwrap();
    bench.told().await;
    for _ in 0..2 {
        let list = async { Ok(vec![1, 2]) };
        let enter = |book: &mut Book<Hand>, id| book.ledger.restore(id, at(4, 1), (), None);
        let found = bench.executor.take_stock(list, |id| *id, enter).await.unwrap();
        assert_eq!(found, BTreeMap::from([(1, at(1, 1)), (2, at(4, 1))]));
    }
    let record = Record { id: 1, stamp: at(1, 1), standing: Standing::There };
    let _reconciled = bench.reconcile(vec![record]);
    let (id, answer) = bench.asked_to_unmake().await;
    answer.send(Ok(())).unwrap();
    assert_eq!((id, bench.told().await.2), (2, "gone"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_wanted_is_waited_for_and_what_a_newer_command_wants_is_not() {
    let mut bench = bench(2, true);
    for id in [7, 8] {
        bench.make(id, at(1, 1)).unwrap();
        let (_, answer) = bench.asked_to_make().await;
        answer.send(Ok(())).unwrap();
        bench.told().await;
    }
    bench.make(8, at(1, 2)).unwrap();
    let unwanted = |id| Record { id, stamp: at(1, 1), standing: Standing::Unwanted };
    let mut reconciled = bench.reconcile(vec![unwanted(7), unwanted(8)]);
    let (id, answer) = bench.asked_to_unmake().await;
    assert_eq!((id, reconciled.try_join_next().is_none()), (7, true));
    answer.send(Ok(())).unwrap();
    reconciled.join_next().await.unwrap().unwrap();
    assert!(!bench.executor.read(|book| book.ledger.is_there(7)));
    assert!(bench.executor.read(|book| book.ledger.is_there(8)));
}
