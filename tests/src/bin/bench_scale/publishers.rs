//! Very many publishers and a few schedulers, each kind in processes of its own.

use std::time::Duration;

use kilonova_model::ServiceKind;
use kilonova_store::SharedStore;
use kilonova_store::keys::Keys;
use kilonova_tests::Backing;
use kilonova_tests::measure::{cpu_of, line, millis, quantile, resident_of, rounded};
use kilonova_tests::publishers::{self, Known, Publisher};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use crate::children::{Scheduler, cell, set_rate, start_publishing};

/// Processes that publish.
const PROCESSES: usize = 5;
/// Changes a second, of all together.
const RATE: u32 = 1_000;
/// Hosts of this process, whose changes are timed.
const TIMED: usize = 10;
/// How often it is looked whether one is known.
const LOOK: Duration = Duration::from_micros(500);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

struct Size {
    each: usize,
    window: Duration,
    idle: Duration,
}

pub async fn measure(quick: bool) {
    let seconds = Duration::from_secs;
    let size = if quick {
        Size { each: 200, window: seconds(3), idle: seconds(3) }
    } else {
        Size { each: 2_000, window: seconds(20), idle: seconds(20) }
    };
    let Some((store, Some(etcd))) = Backing::Etcd.open().await else { return };
    let etcd = etcd.endpoint();
    let empty = {
        let alone = Scheduler::start(&etcd, "alone", None).await;
        until("it is ready", async || ready(&alone.channel).await).await;
        resident_of(alone.pid)
    };

    let start = Instant::now();
    let children = start_publishing(&etcd, PROCESSES, size.each).await;
    let timed = publishers::start(&store, &cell(), 90_000..90_000 + TIMED).await.expect("registered");
    let all = PROCESSES * size.each + TIMED;
    until("all are registered", async || registered(&store).await == all).await;
    line(
        "publishers register in etcd",
        json!({ "publishers": all, "seconds": rounded(start.elapsed().as_secs_f64()) }),
    );

    let one = first(&etcd, "scheduler-1", None, all).await;
    let two = first(&etcd, "scheduler-2", None, all).await;
    idle(&one, all, empty, size.idle).await;
    sustained(&store, &timed, &one, all, size.window).await;

    let address = two.address();
    two.process.kill().await.expect("it is killed");
    let two = first(&etcd, "scheduler-2", Some(address), all).await;
    two.process.kill().await.expect("it is killed");

    let frozen = children.last().expect("one of them");
    frozen.pause().expect("it is frozen");
    missing(&etcd, all, size.each).await;
    frozen.resume().expect("it goes on");
}

/// A scheduler starts, or starts again: until it is ready, and until it knows all.
async fn first(etcd: &str, host: &str, address: Option<std::net::SocketAddr>, all: usize) -> Scheduler {
    let start = Instant::now();
    let scheduler = Scheduler::start(etcd, host, address).await;
    let serves = start.elapsed();
    until("it is ready", async || ready(&scheduler.channel).await).await;
    let is_ready = start.elapsed();
    let known = async || publishers::known(&scheduler.channel).await.is_ok_and(|known| known.up == all);
    until("it knows all", known).await;
    line(
        "a scheduler starts, from its process's start",
        json!({
            "again_after_kill": address.is_some(),
            "publishers": all,
            "serves_ms": millis(serves),
            "ready_ms": millis(is_ready),
            "knows_all_ms": millis(start.elapsed()),
            "cpu_ms": millis(cpu_of(scheduler.pid)),
        }),
    );
    scheduler
}

/// Nothing but heartbeats.
async fn idle(scheduler: &Scheduler, all: usize, empty: u64, window: Duration) {
    // What was needed for the start is given back.
    sleep(window).await;
    let used = cpu_of(scheduler.pid);
    sleep(window).await;
    let used = cpu_of(scheduler.pid) - used;
    let resident = resident_of(scheduler.pid);
    line(
        "a scheduler that hears only heartbeats, one every 2 s from each publisher",
        json!({
            "publishers": all,
            "resident_mib": rounded(resident as f64 / f64::from(1 << 20)),
            "resident_mib_without_publishers": rounded(empty as f64 / f64::from(1 << 20)),
            "bytes_per_publisher": (resident.saturating_sub(empty)) / all as u64,
            "cpu_cores": rounded(used.as_secs_f64() / window.as_secs_f64()),
            "must": "bytes_per_publisher <= 40960",
            "aim": "bytes_per_publisher <= 10240",
        }),
    );
}

/// Changes by all hosts, and how soon those of a few are known.
async fn sustained(store: &SharedStore, timed: &[Publisher], one: &Scheduler, all: usize, window: Duration) {
    set_rate(store, RATE / PROCESSES as u32).await;
    let (before, start) = (known(&one.channel).await, Instant::now());
    let used = cpu_of(one.pid);
    let mut times = Vec::new();
    for publisher in timed.iter().cycle().take_while(|_| start.elapsed() < window) {
        sleep(Duration::from_millis(20)).await;
        publisher.claim();
        let (asked, published) = (Instant::now(), publisher.generation());
        let names = [publisher.host.clone()];
        let seen = async || {
            let states = publishers::states(&one.channel, &names).await.unwrap_or_default();
            let told = states.first().and_then(|state| state.capabilities.as_ref());
            told.is_some_and(|told| told.generation >= published)
        };
        until("the change is known", seen).await;
        times.push(asked.elapsed());
    }
    let (used, took) = (cpu_of(one.pid) - used, start.elapsed());
    let applied = known(&one.channel).await.changes - before.changes;
    line(
        "changes published all the time, to two schedulers, and from a change to its being seen in ListHostStates",
        json!({
            "publishers": all,
            "changes_per_s_asked": RATE,
            "applied_per_s": (applied as f64 / took.as_secs_f64()).round(),
            "timed": times.len(),
            "p50_ms": millis(quantile(&mut times, 0.5)),
            "p99_ms": millis(quantile(&mut times, 0.99)),
            "max_ms": millis(quantile(&mut times, 1.0)),
            "scheduler_cpu_cores": rounded(used.as_secs_f64() / took.as_secs_f64()),
            "must": "applied_per_s >= 1000, p99_ms <= 200",
            "aim": "p99_ms <= 20",
        }),
    );
    set_rate(store, 0).await;
}

/// Some are frozen: a scheduler that starts waits for them, names them, and goes on without them.
async fn missing(etcd: &str, all: usize, frozen: usize) {
    let start = Instant::now();
    let scheduler = Scheduler::start(etcd, "scheduler-3", None).await;
    let mut said = String::new();
    until("it is ready", async || match publishers::not_ready(&scheduler.channel).await {
        Ok(Some(reason)) => {
            said = reason;
            false
        }
        answer => answer.is_ok(),
    })
    .await;
    line(
        "a scheduler starts while some publishers do not answer",
        json!({
            "publishers": all,
            "frozen": frozen,
            "ready_ms": millis(start.elapsed()),
            "said_last": said,
            "up": known(&scheduler.channel).await.up,
        }),
    );
}

/// How many hosts the registry shows.
async fn registered(store: &SharedStore) -> usize {
    let prefix = Keys::new(&cell()).endpoints(ServiceKind::Compute);
    let (mut count, mut after) = (0, None);
    loop {
        let page = store.list(&prefix, after.as_deref(), 1_000).await.expect("the store answers");
        count += page.items.len();
        match page.next {
            Some(next) => after = Some(next),
            None => return count,
        }
    }
}

async fn known(scheduler: &Channel) -> Known {
    publishers::known(scheduler).await.expect("the scheduler answers")
}

async fn ready(scheduler: &Channel) -> bool {
    matches!(publishers::not_ready(scheduler).await, Ok(None))
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !look().await {
            sleep(LOOK).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "not within {PATIENCE:?}: {what}");
}
