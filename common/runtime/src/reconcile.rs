//! The reconcile loop: a set of keys, each brought one step further at a time.
//!
//! Work arrives as a key, never as a message: a key is nudged when something about it may have changed, and the
//! reconciler looks at what is there. So a lost nudge costs time (the next scan finds the key), a doubled one
//! costs nothing, and the queue never holds a key twice.
//!
//! ```text
//!            nudge                     slot free                 Done
//!   (absent) ─────► Ready ◄─────┐   ┌──────────► Running ─────────────────► (absent)
//!                     ▲         │   │               │  │
//!                     │ time    │nudge              │  └── nudged while running, or Again ──► Ready
//!                     │ comes   │   │               │
//!                     └──── Delayed ◄───────────────┘ After(d), or Retry with backoff
//! ```
//!
//! Bounded: by the number of keys there are, and by `concurrency` running at once. Of the keys that are ready, what a user waits for goes
//! first, then what mends something, then what only looks around; but every eighth goes to the last of these, so that none waits
//! for ever.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_rpc::backoff::BackoffPolicy;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::tasks::Tasks;

/// Why a key is to be looked at: what comes first goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    User,
    /// Something changed that may have to be mended.
    Repair,
    /// It is time to look.
    Housekeeping,
}

/// Of so many keys, one goes by the reverse of the priorities.
const FAIR_SHARE: u64 = 8;

/// What to do with a key after one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until it is nudged.
    Done,
    /// Look again at once.
    Again,
    /// Look again after this time, or when nudged.
    After(Duration),
    /// It failed: look again after a backoff that grows with every failure in a row.
    Retry,
}

/// Brings one key closer to what is wanted of it.
#[async_trait]
pub trait Reconcile: Send + Sync + 'static {
    /// What names a thing to be reconciled.
    type Key: Clone + Ord + Hash + Debug + Send + Sync + 'static;

    /// One pass. Never runs twice at once for one key.
    async fn reconcile(&self, key: &Self::Key) -> Next;
}

/// How many at once, and how long between failures.
#[derive(Debug, Clone, Copy)]
pub struct ReconcileOptions {
    /// Most passes running at once.
    pub concurrency: usize,
    /// Time between failed passes of one key.
    pub backoff: BackoffPolicy,
}

/// Figures of a loop, for diagnostics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct QueueStats {
    /// Keys waiting for a slot.
    pub ready: usize,
    /// Keys waiting for their time.
    pub delayed: usize,
    /// Keys in a pass.
    pub running: usize,
    /// Keys whose last pass failed.
    pub failing: usize,
}

/// The set of keys. Clones share it.
#[derive(Debug)]
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    keys: HashMap<K, Slot>,
    /// By priority and then by the order in which they came.
    ready: BTreeSet<(Priority, u64, K)>,
    /// How many came.
    arrivals: u64,
    /// How many were taken.
    taken: u64,
    delayed: BTreeSet<(Instant, K)>,
    running: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    phase: Phase,
    failures: u32,
    priority: Priority,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// As the how manieth it came.
    Ready(u64),
    Delayed(Instant),
    /// And why it was nudged meanwhile.
    Running(Option<Priority>),
}

impl<K: Clone + Ord + Hash + Debug + Send + Sync + 'static> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Ord + Hash + Debug + Send + Sync + 'static> Queue<K> {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            arrivals: 0,
            taken: 0,
            delayed: BTreeSet::new(),
            running: 0,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Has the key looked at soon. A key that waits out a backoff keeps waiting only if `nudge` is not called:
    /// call it when something changed.
    pub fn nudge(&self, key: K, priority: Priority) {
        self.shared.state.lock().nudge(key, priority);
        self.shared.wake.notify_one();
    }

    /// Figures for diagnostics.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        let state = self.shared.state.lock();
        QueueStats {
            ready: state.ready.len(),
            delayed: state.delayed.len(),
            running: state.running,
            failing: state.keys.values().filter(|slot| slot.failures > 0).count(),
        }
    }

    /// Runs the loop in `tasks` until they are stopped.
    pub fn run<R>(&self, name: &'static str, tasks: &Tasks, reconciler: Arc<R>, options: ReconcileOptions)
    where
        R: Reconcile<Key = K>,
    {
        let queue = self.clone();
        let passes = tasks.clone();
        tasks.spawn(name, async move {
            loop {
                let wait = loop {
                    match queue.shared.state.lock().take(Instant::now(), options.concurrency) {
                        Take::Key(key) => {
                            let queue = queue.clone();
                            let reconciler = reconciler.clone();
                            passes.spawn(name, async move {
                                let mut pass = Pass { queue, key, options, next: Next::Retry };
                                pass.next = reconciler.reconcile(&pass.key).await;
                            });
                        }
                        Take::Wait(until) => break until,
                    }
                };
                match wait {
                    Some(until) => {
                        tokio::select! {
                            () = queue.shared.wake.notified() => {}
                            () = tokio::time::sleep_until(until) => {}
                        }
                    }
                    None => queue.shared.wake.notified().await,
                }
            }
        });
    }
}

/// Gives the key back however the pass ends: a panic counts as a failure.
struct Pass<K: Clone + Ord + Hash + Debug + Send + Sync + 'static> {
    queue: Queue<K>,
    key: K,
    options: ReconcileOptions,
    next: Next,
}

impl<K: Clone + Ord + Hash + Debug + Send + Sync + 'static> Drop for Pass<K> {
    fn drop(&mut self) {
        let sample = rand::random();
        self.queue.shared.state.lock().finish(
            &self.key,
            self.next,
            Instant::now(),
            self.options.backoff,
            sample,
        );
        self.queue.shared.wake.notify_one();
    }
}

enum Take<K> {
    Key(K),
    Wait(Option<Instant>),
}

impl<K: Clone + Ord + Hash> State<K> {
    fn nudge(&mut self, key: K, priority: Priority) {
        let Some(slot) = self.keys.get_mut(&key) else {
            self.keys.insert(key.clone(), Slot { phase: Phase::Ready(0), failures: 0, priority });
            return self.make_ready(key);
        };
        match slot.phase {
            Phase::Ready(_) if slot.priority <= priority => {}
            Phase::Ready(arrival) => {
                self.ready.remove(&(slot.priority, arrival, key.clone()));
                slot.priority = priority;
                self.make_ready(key);
            }
            Phase::Delayed(at) => {
                slot.priority = priority;
                self.delayed.remove(&(at, key.clone()));
                self.make_ready(key);
            }
            Phase::Running(before) => {
                let first = before.map_or(priority, |before| before.min(priority));
                slot.phase = Phase::Running(Some(first));
            }
        }
    }

    /// The last of those that are ready with its priority.
    fn make_ready(&mut self, key: K) {
        let Some(slot) = self.keys.get_mut(&key) else { return };
        self.arrivals += 1;
        slot.phase = Phase::Ready(self.arrivals);
        self.ready.insert((slot.priority, self.arrivals, key));
    }

    fn take(&mut self, now: Instant, concurrency: usize) -> Take<K> {
        while let Some((at, _)) = self.delayed.first() {
            if *at > now {
                break;
            }
            if let Some((_, key)) = self.delayed.pop_first() {
                self.make_ready(key);
            }
        }
        if self.running >= concurrency {
            return Take::Wait(None);
        }
        match self.next() {
            Some(key) => {
                if let Some(slot) = self.keys.get_mut(&key) {
                    slot.phase = Phase::Running(None);
                }
                self.running += 1;
                Take::Key(key)
            }
            None => Take::Wait(self.delayed.first().map(|(at, _)| *at)),
        }
    }

    fn next(&mut self) -> Option<K> {
        let last = self.ready.last().map(|(priority, _, _)| *priority)?;
        self.taken += 1;
        let entry = if self.taken.is_multiple_of(FAIR_SHARE) {
            self.ready.iter().find(|(priority, _, _)| *priority == last).cloned()
        } else {
            self.ready.first().cloned()
        }?;
        self.ready.remove(&entry);
        Some(entry.2)
    }

    fn finish(&mut self, key: &K, next: Next, now: Instant, backoff: BackoffPolicy, sample: f64) {
        let Some(slot) = self.keys.get_mut(key) else { return };
        let nudged = if let Phase::Running(nudged) = slot.phase { nudged } else { None };
        self.running -= 1;
        slot.failures = if next == Next::Retry { slot.failures + 1 } else { 0 };
        slot.priority = nudged.unwrap_or(slot.priority);
        let delay = match next {
            Next::Done if nudged.is_none() => {
                self.keys.remove(key);
                return;
            }
            Next::Retry => Some(backoff.delay(slot.failures, sample)),
            Next::After(delay) if nudged.is_none() => Some(delay),
            Next::Done | Next::Again | Next::After(_) => None,
        };
        match delay {
            Some(delay) => {
                slot.phase = Phase::Delayed(now + delay);
                self.delayed.insert((now + delay, key.clone()));
            }
            None => self.make_ready(key.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counter {
        passes: AtomicUsize,
        at_once: AtomicUsize,
        most_at_once: AtomicUsize,
        gate: tokio::sync::Semaphore,
        next: Mutex<VecDeque<Next>>,
    }

    impl Counter {
        fn new(gate: usize, next: impl IntoIterator<Item = Next>) -> Arc<Self> {
            Arc::new(Self {
                passes: AtomicUsize::new(0),
                at_once: AtomicUsize::new(0),
                most_at_once: AtomicUsize::new(0),
                gate: tokio::sync::Semaphore::new(gate),
                next: Mutex::new(next.into_iter().collect()),
            })
        }
    }

    #[async_trait]
    impl Reconcile for Counter {
        type Key = u32;
        async fn reconcile(&self, _key: &u32) -> Next {
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            self.gate.acquire().await.unwrap().forget();
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            self.passes.fetch_add(1, Ordering::SeqCst);
            self.next.lock().pop_front().unwrap_or(Next::Done)
        }
    }

    fn options(concurrency: usize) -> ReconcileOptions {
        ReconcileOptions { concurrency, backoff: BackoffPolicy::retry() }
    }

    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if condition() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the condition never held");
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_is_never_in_two_passes_and_a_nudge_meanwhile_is_not_lost() {
        let (queue, tasks, counter) = (Queue::new(), Tasks::new("test"), Counter::new(0, []));
        queue.run("loop", &tasks, counter.clone(), options(8));
        queue.nudge(1, Priority::User);
        until(|| counter.at_once.load(Ordering::SeqCst) == 1).await;
        queue.nudge(1, Priority::User);
        queue.nudge(1, Priority::User);
        counter.gate.add_permits(10);
        until(|| counter.passes.load(Ordering::SeqCst) == 2).await;
        until(|| queue.stats() == QueueStats::default()).await;
        assert_eq!(counter.most_at_once.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_run_at_once() {
        let (queue, tasks, counter) = (Queue::new(), Tasks::new("test"), Counter::new(0, []));
        queue.run("loop", &tasks, counter.clone(), options(3));
        (0..50).for_each(|key| queue.nudge(key, Priority::Repair));
        until(|| counter.at_once.load(Ordering::SeqCst) == 3).await;
        counter.gate.add_permits(50);
        until(|| counter.passes.load(Ordering::SeqCst) == 50).await;
        assert_eq!(counter.most_at_once.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_a_wait_comes_back_by_itself() {
        let plan = [Next::Retry, Next::Retry, Next::After(Duration::from_secs(60)), Next::Done];
        let (queue, tasks, counter) = (Queue::new(), Tasks::new("test"), Counter::new(100, plan));
        queue.run("loop", &tasks, counter.clone(), options(3));
        let start = Instant::now();
        queue.nudge(1, Priority::User);
        until(|| counter.passes.load(Ordering::SeqCst) == 3).await;
        tokio::time::sleep(Duration::from_secs(61)).await;
        until(|| counter.passes.load(Ordering::SeqCst) == 4).await;
        assert!(start.elapsed() >= Duration::from_secs(60));
        assert_eq!(queue.stats(), QueueStats::default());
    }

    /// Takes one after the other until nothing is ready.
    fn order(state: &mut State<u32>) -> Vec<u32> {
        let mut order = Vec::new();
        while let Take::Key(key) = state.take(Instant::now(), 1) {
            state.finish(&key, Next::Done, Instant::now(), BackoffPolicy::retry(), 0.5);
            order.push(key);
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_user_waits_for_goes_first_and_nothing_waits_for_ever() {
        let queue = Queue::<u32>::new();
        let mut state = queue.shared.state.lock();
        for key in 0..3 {
            state.nudge(key, Priority::Housekeeping);
        }
        state.nudge(10, Priority::Repair);
        state.nudge(2, Priority::User);
        state.nudge(20, Priority::User);
        state.nudge(20, Priority::Housekeeping);
        assert_eq!(order(&mut state), [2, 20, 10, 0, 1], "and one that is there already is moved up");

        state.nudge(99, Priority::Housekeeping);
        for key in 0..20 {
            state.nudge(key, Priority::User);
        }
        let place = order(&mut state).iter().position(|key| *key == 99).unwrap();
        assert!(place < 8, "{place}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_during_a_pass_says_how_urgent_the_next_is() {
        let queue = Queue::<u32>::new();
        let mut state = queue.shared.state.lock();
        state.nudge(1, Priority::Housekeeping);
        assert!(matches!(state.take(Instant::now(), 1), Take::Key(1)));
        state.nudge(1, Priority::Repair);
        state.nudge(1, Priority::User);
        state.nudge(2, Priority::Repair);
        state.finish(&1, Next::Done, Instant::now(), BackoffPolicy::retry(), 0.5);
        assert_eq!(order(&mut state), [1, 2]);
    }
}
