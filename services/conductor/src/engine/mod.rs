//! Drives records to what is wanted of them.
//!
//! One pass over one record: read it from memory, let [`plan`](crate::plan::plan) decide, write the intent, make the one call it asks for,
//! write what came of it; again until there is nothing to do now. Every write compares the record's revision and
//! the shard's fence. A pass is started by a change of the record, by a change of a host's registration, by a
//! shard that became this conductor's, or by the slow scan; it takes nothing from what started it.

pub(crate) mod behind;
mod build;
mod clock;
mod decision;
mod finish;
mod operate;
mod place;
mod reach;
mod slots;
mod steps;
mod store;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Epoch, HostName, ServiceKind};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_rpc::backoff::BackoffPolicy;
use kilonova_runtime::reconcile::{Next, Priority, Queue, Reconcile, ReconcileOptions};
use kilonova_runtime::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::accept::Lanes;
use crate::agents::Agents;
use crate::config::Config;
use crate::groups::Groups;
use crate::history::Actor;
use crate::placed::Placed;
use crate::plan::Sent;
use crate::reach::Reach;
use crate::records::Records;
use crate::shards::Shards;
pub(crate) use build::leave_host;
use clock::Clock;
use slots::Slots;
use store::Stepped;

/// Most steps of one pass: a record that needs more goes back into the queue, so that others get their turn.
const STEPS_PER_PASS: usize = 8;

/// Drives the records of one type.
pub struct Engine<P: Placed, A> {
    records: Records<P>,
    agents: A,
    reach: Reach,
    shards: Shards,
    config: Arc<Config>,
    conductor: HostName,
    /// What was sent and accepted, by record. Lost in a crash, and forgotten when the store went back, which only means that it is
    /// sent again.
    sent: Mutex<HashMap<P::Id, Vec<Sent>>>,
    /// Since when the host of an attempt cannot be connected to.
    unreachable: Mutex<HashMap<(P::Id, u32), Instant>>,
    /// One transaction on a project's usage at a time.
    lanes: Arc<Lanes>,
    /// The server groups that records are members of.
    groups: Groups,
    /// Since when it drives, over the store as it is.
    since: Mutex<Instant>,
    /// The commands under way.
    slots: Slots,
    /// Since when it sees what is under way.
    clock: Clock<P::Id>,
    /// Since when hosts that were registered are not.
    gone: Mutex<HashMap<HostName, Instant>>,
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// Drives `records` with `agents`.
    #[expect(clippy::too_many_arguments, reason = "each is a part that it works with")]
    pub fn new(
        records: Records<P>,
        agents: A,
        reach: Reach,
        shards: Shards,
        config: Arc<Config>,
        conductor: HostName,
        lanes: Arc<Lanes>,
        groups: Groups,
    ) -> Arc<Self> {
        let (sent, unreachable) = (Mutex::default(), Mutex::default());
        let slots = Slots::new(config.host_concurrency);
        Arc::new(Self {
            records,
            agents,
            reach,
            shards,
            config,
            conductor,
            sent,
            unreachable,
            lanes,
            groups,
            since: Mutex::new(Instant::now()),
            slots,
            clock: Clock::default(),
            gone: Mutex::default(),
        })
    }

    /// Starts driving in tasks of `tasks`.
    pub fn run(self: &Arc<Self>, tasks: &Tasks) -> Queue<P::Id> {
        let queue = Queue::new();
        let options =
            ReconcileOptions { concurrency: self.config.concurrency, backoff: BackoffPolicy::retry() };
        queue.run(P::NOUN, tasks, self.clone(), options);
        tasks.spawn(format!("{} changes", P::NOUN), self.clone().follow_changes(queue.clone()));
        tasks.spawn(format!("{} hosts", P::NOUN), self.clone().follow_hosts(queue.clone()));
        tasks.spawn(format!("{} scan", P::NOUN), self.clone().scan(queue.clone()));
        tasks.spawn(format!("{} memory", P::NOUN), self.clone().forget());
        queue
    }

    /// Looks at every record that is this conductor's and passes.
    pub fn nudge_all(&self, queue: &Queue<P::Id>, priority: Priority, pass: impl Fn(&P) -> bool) {
        for id in self.records.cache.ids(|id, record| pass(record) && self.shards.owns(id)) {
            queue.nudge(id, priority);
        }
    }

    fn me(&self) -> Actor<'_> {
        Actor { service: ServiceKind::Conductor, host: self.conductor.as_str() }
    }

    async fn follow_changes(self: Arc<Self>, queue: Queue<P::Id>) {
        self.records.cache.filled().await;
        loop {
            let Ok((_, mut changes)) = self.records.cache.subscribe(None) else { return };
            self.nudge_all(&queue, Priority::Repair, |_| true);
            loop {
                match changes.recv().await {
                    Ok(change) if self.shards.owns(&change.id) => queue.nudge(change.id, Priority::User),
                    Ok(_) => {}
                    // Too many at once, or the store went back: look at all.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                }
            }
        }
    }

    /// A host that came back or left concerns every record with a receipt there.
    async fn follow_hosts(self: Arc<Self>, queue: Queue<P::Id>) {
        let mut members = self.reach.members.subscribe();
        let mut known: HashMap<HostName, Epoch> = HashMap::new();
        loop {
            let now: HashMap<HostName, Epoch> = {
                let set = members.borrow_and_update().clone();
                let present = set.members.iter().chain(&set.held);
                present.map(|(host, member)| (host.clone(), member.epoch)).collect()
            };
            let changed: BTreeSet<&str> = now
                .keys()
                .chain(known.keys())
                .filter(|host| now.get(*host) != known.get(*host))
                .map(HostName::as_str)
                .collect();
            {
                let mut gone = self.gone.lock();
                gone.retain(|host, _| !now.contains_key(host));
                let left = known.keys().filter(|host| !now.contains_key(*host));
                left.for_each(|host| _ = gone.entry(host.clone()).or_insert_with(Instant::now));
            }
            if !changed.is_empty() {
                self.nudge_all(&queue, Priority::Repair, |record| {
                    record.receipts().iter().any(|receipt| changed.contains(receipt.host.as_str()))
                });
            }
            known = now;
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    /// Forgets what was of another history whenever the store went back: what was sent, and since when anything was seen. Hosts
    /// get as long to register as after a start.
    async fn forget(self: Arc<Self>) {
        let mut went_back = self.records.db.went_back();
        while went_back.changed().await.is_ok() {
            *self.since.lock() = Instant::now();
            self.gone.lock().clear();
            self.sent.lock().clear();
            self.unreachable.lock().clear();
            self.clock.retain(|_| false);
        }
    }

    async fn scan(self: Arc<Self>, queue: Queue<P::Id>) {
        loop {
            tokio::time::sleep(self.config.scan_interval.get()).await;
            self.sent.lock().retain(|id, _| self.records.cache.get(id).is_some());
            self.unreachable.lock().retain(|(id, attempt), _| {
                let there = |receipt: &Receipt| receipt.attempt == *attempt;
                self.records.cache.get(id).is_some_and(|entry| entry.record.receipts().iter().any(there))
            });
            self.clock.retain(|id| self.shards.owns(id) && self.records.cache.get(id).is_some());
            let late =
                self.records.cache.ids(|id, record| self.shards.owns(id) && self.is_late(*id, record)).len();
            metrics::gauge!("conductor_late", "resource" => P::NOUN).set(late as f64);
            self.nudge_all(&queue, Priority::Housekeeping, |_| true);
        }
    }
}

#[async_trait]
impl<P: Placed, A: Agents<P>> Reconcile for Engine<P, A> {
    type Key = P::Id;

    async fn reconcile(&self, id: &P::Id) -> Next {
        let Some(mut entry) = self.records.cache.get(id) else { return Next::Done };
        for _ in 0..STEPS_PER_PASS {
            let Some(fence) = self.shards.fence(id) else { return Next::Done };
            match self.step(*id, &entry, &fence).await {
                Stepped::On(now) => entry = now,
                Stepped::Stop(next) => return next,
            }
        }
        Next::Again
    }
}
