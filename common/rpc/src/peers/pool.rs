//! The members of one service as one callee: who is ready, who is picked, and why nobody is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Error, HostName, Reason, ServiceKind};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::connection::Connection;
use super::dialer::Dialer;
use super::endpoint::{Endpoint, Phase, State};
use super::subset::Subset;
use super::{PeerState, PeersOptions, pick};
use crate::backoff::BackoffPolicy;
use crate::registry::{Member, MemberSet, Members};
use crate::status::never_sent;

/// How many members a message names before it stops.
const NAMED_IN_MESSAGES: usize = 5;

/// The members of one service.
pub(crate) struct Pool {
    service: ServiceKind,
    connect_timeout: Duration,
    backoff: BackoffPolicy,
    dialer: Arc<Dialer>,
    members: Members,
    /// Which of them are used; all where it is none.
    subset: Option<Subset>,
    slots: Mutex<Slots>,
    ready: RwLock<Arc<[Arc<Connection>]>>,
    /// Counts changes of the ready set, for those who wait.
    changes: watch::Sender<u64>,
    /// An endpoint changed. Many that change together are looked at once.
    stirred: Arc<Notify>,
}

#[derive(Default)]
struct Slots {
    by_host: BTreeMap<HostName, Slot>,
    tasks: JoinSet<()>,
}

struct Slot {
    member: watch::Sender<Arc<Member>>,
    state: watch::Receiver<State>,
    /// No longer in the registry, not even held. It is used as long as it serves: who leaves says so by its
    /// health, and a registry that lost its leases must not take anybody down.
    absent: bool,
    task: AbortHandle,
}

impl Slot {
    /// Whether it can be used neither now nor soon.
    fn is_hopeless(&self) -> bool {
        matches!(self.state.borrow().phase, Phase::Failed(_) | Phase::NotServing)
    }

    fn usable(&self) -> Option<Arc<Connection>> {
        let draining = self.member.borrow().draining;
        if draining { None } else { self.state.borrow().ready().cloned() }
    }

    fn why_not_ready(&self) -> String {
        if self.member.borrow().draining {
            "draining".to_owned()
        } else {
            self.state.borrow().why_not_ready()
        }
    }
}

impl Pool {
    /// A pool, and the work that keeps it current.
    pub(crate) fn new(
        members: Members,
        dialer: Arc<Dialer>,
        options: &PeersOptions,
        subset: Option<Subset>,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let mut sets = members.subscribe();
        let pool = Arc::new(Self {
            service: members.service(),
            connect_timeout: options.connect_timeout,
            backoff: options.backoff,
            dialer,
            members,
            subset,
            slots: Mutex::default(),
            ready: RwLock::new(Arc::new([])),
            changes: watch::Sender::new(0),
            stirred: Arc::default(),
        });
        let (weak, stirred) = (Arc::downgrade(&pool), pool.stirred.clone());
        let work = async move {
            let mut registry_changed = true;
            loop {
                let Some(pool) = weak.upgrade() else { return };
                if registry_changed || pool.subset.is_some() {
                    // Of a subset, another may have to stand in for the one that changed, or may go again.
                    let set = sets.borrow_and_update().clone();
                    pool.reconcile(&set);
                } else {
                    pool.refresh();
                }
                drop(pool);
                registry_changed = tokio::select! {
                    changed = sets.changed() => match changed {
                        Ok(()) => true,
                        Err(_) => return,
                    },
                    () = stirred.notified() => false,
                };
            }
        };
        (pool, work)
    }

    /// Makes the endpoints those of the registry, or of the subset of them that this process uses.
    fn reconcile(self: &Arc<Self>, set: &MemberSet) {
        let mut slots = self.slots.lock();
        while slots.tasks.try_join_next().is_some() {}
        let used = self.used(&slots, set);
        for (host, member) in &used {
            if let Some(slot) = slots.by_host.get_mut(host) {
                slot.absent = false;
                slot.member.send_if_modified(|known| {
                    let changed = known != member;
                    *known = member.clone();
                    changed
                });
            } else {
                let slot = self.start(&mut slots.tasks, member.clone());
                slots.by_host.insert(host.clone(), slot);
            }
        }
        slots.by_host.retain(|host, slot| {
            slot.absent = set.callable(host).is_none();
            // One that stood in for another and is no longer needed: calls on its connection end in peace.
            let keep = slot.absent || used.contains_key(host);
            if !keep {
                slot.task.abort();
            }
            keep
        });
        drop(slots);
        self.refresh();
    }

    /// The members to keep connected: all of them, held ones too, or the subset that is this process's.
    fn used(&self, slots: &Slots, set: &MemberSet) -> BTreeMap<HostName, Arc<Member>> {
        let callable = set.members.iter().chain(&set.held);
        let used = match &self.subset {
            None => callable.collect(),
            Some(subset) => {
                let is_hopeless = |host: &HostName| slots.by_host.get(host).is_some_and(Slot::is_hopeless);
                subset.choose(callable.filter(|(_, member)| !member.draining), is_hopeless)
            }
        };
        used.into_iter().map(|(host, member)| (host.clone(), member.clone())).collect()
    }

    fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>, member: Arc<Member>) -> Slot {
        let (member_sender, member_receiver) = watch::channel(member.clone());
        let (state_sender, state) = watch::channel(State::new(member));
        let stirred = self.stirred.clone();
        let endpoint = Endpoint {
            service: self.service,
            dialer: self.dialer.clone(),
            backoff: self.backoff,
            member: member_receiver,
            state: state_sender,
            on_change: Box::new(move || stirred.notify_one()),
        };
        Slot { member: member_sender, state, absent: false, task: tasks.spawn(endpoint.run()) }
    }

    /// Takes stock of who is ready; lets go of those who left and do not serve.
    fn refresh(&self) {
        let set = self.members.current();
        let mut slots = self.slots.lock();
        for (host, member) in &set.held {
            if slots.by_host.get(host).is_some_and(|slot| slot.state.borrow().does_not_answer(member)) {
                self.members.gone(host, member.epoch);
            }
        }
        slots.by_host.retain(|_, slot| {
            let keep = !slot.absent || slot.usable().is_some();
            if !keep {
                slot.task.abort();
            }
            keep
        });
        let ready: Arc<[_]> = slots.by_host.values().filter_map(Slot::usable).collect();
        metrics::gauge!("rpc_peers_ready", "service" => self.service.as_str()).set(ready.len() as f64);
        *self.ready.write() = ready;
        drop(slots);
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The less loaded of two ready members; not the one to `avoid` if there is another.
    fn pick(&self, avoid: Option<&Arc<Connection>>) -> Option<Arc<Connection>> {
        let ready = self.ready.read();
        let avoid = avoid.filter(|_| ready.len() > 1);
        let load = |i: usize| {
            let is_avoided = avoid.is_some_and(|avoid| avoid.is_with(&ready[i]));
            ready[i].load().map(|load| if is_avoided { usize::MAX } else { load })
        };
        pick::choose(ready.len(), rand::random(), rand::random(), load).map(|i| ready[i].clone())
    }

    /// A member to call. With `until`, waits that long for one. Without, waits only while nobody can yet say that
    /// there is none: until the registry has been read and every member was tried once, and not longer than
    /// connecting may take.
    pub(crate) async fn acquire(
        &self,
        until: Option<Instant>,
        avoid: Option<&Arc<Connection>>,
    ) -> Result<Arc<Connection>, Status> {
        match (self.pick(avoid), until) {
            (Some(connection), _) => Ok(connection),
            (None, Some(until)) => self.wait(until, || false).await,
            (None, None) => self.wait(Instant::now() + self.connect_timeout, || self.is_settled()).await,
        }
    }

    async fn wait(&self, until: Instant, give_up: impl Fn() -> bool) -> Result<Arc<Connection>, Status> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(connection) = self.pick(None) {
                return Ok(connection);
            }
            if give_up() || timeout_at(until, changes.changed()).await.is_err() {
                return Err(self.no_endpoint());
            }
        }
    }

    /// Whether nobody is on the way to being called: neither connecting, nor connected and about to be listed as ready.
    fn is_settled(&self) -> bool {
        let connecting = |slot: &Slot| matches!(slot.state.borrow().phase, Phase::Connecting);
        let trying = |slot: &Slot| connecting(slot) || slot.usable().is_some();
        let set = self.members.current();
        let slots = self.slots.lock();
        set.is_known()
            && self.used(&slots, &set).keys().all(|host| slots.by_host.contains_key(host))
            && !slots.by_host.values().any(trying)
    }

    fn no_endpoint(&self) -> Status {
        let service = self.service;
        let known = self.members.current().is_known();
        let slots = self.slots.lock();
        let total = slots.by_host.len();
        let mut message = format!("no ready {service}; {total} known");
        if !known {
            message.push_str(" (the registry has not been read yet)");
        }
        for (i, (host, slot)) in slots.by_host.iter().take(NAMED_IN_MESSAGES).enumerate() {
            message.push_str(if i == 0 { ": " } else { "; " });
            message.push_str(&format!("{host} ({}) {}", slot.member.borrow().addr, slot.why_not_ready()));
        }
        if total > NAMED_IN_MESSAGES {
            message.push_str(&format!("; and {} more", total - NAMED_IN_MESSAGES));
        }
        never_sent(&Error::new(Reason::NoEndpoint, message).with("service", service).with("known", total))
    }

    /// Every member and where it stands.
    pub(crate) fn states(&self) -> Vec<PeerState> {
        let slots = self.slots.lock();
        let state = |(host, slot): (&HostName, &Slot)| {
            let usable = slot.usable();
            PeerState {
                service: self.service,
                host: host.clone(),
                addr: slot.member.borrow().addr.clone(),
                directed: false,
                ready: usable.is_some(),
                detail: if usable.is_some() { "ready".to_owned() } else { slot.why_not_ready() },
                in_flight: usable.map_or(0, |connection| connection.in_flight()),
            }
        };
        slots.by_host.iter().map(state).collect()
    }
}
