//! Connections to named hosts: made on demand, kept while used, closed when idle.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use kilonova_model::{Error, HostName, Reason, ServiceKind};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tonic::Status;

use super::connection::Connection;
use super::dialer::Dialer;
use super::endpoint::{Endpoint, Phase, State};
use super::{PeerState, PeersOptions};
use crate::backoff::BackoffPolicy;
use crate::registry::{Member, Registry};
use crate::status::never_sent;

/// The connections to named hosts of all services.
pub(crate) struct Directed {
    registry: Registry,
    dialer: Arc<Dialer>,
    options: Options,
    entries: Mutex<Entries>,
}

/// Of [`PeersOptions`], what matters here.
struct Options {
    connect_timeout: Duration,
    backoff: BackoffPolicy,
    idle_timeout: Duration,
    max_directed: usize,
}

#[derive(Default)]
struct Entries {
    by_host: HashMap<(ServiceKind, HostName), Entry>,
    tasks: JoinSet<()>,
}

struct Entry {
    member: watch::Sender<Arc<Member>>,
    state: watch::Receiver<State>,
    used: Instant,
    task: AbortHandle,
}

impl Entry {
    fn in_flight(&self) -> usize {
        self.state.borrow().ready().map_or(0, |connection| connection.in_flight())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Directed {
    /// The map, and the work that closes what is idle.
    pub(crate) fn new(
        registry: Registry,
        dialer: Arc<Dialer>,
        options: &PeersOptions,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let options = Options {
            connect_timeout: options.connect_timeout,
            backoff: options.backoff,
            idle_timeout: options.idle_timeout,
            max_directed: options.max_directed,
        };
        let tick = options.idle_timeout / 4;
        let directed = Arc::new(Self { registry, dialer, options, entries: Mutex::default() });
        let weak: Weak<Self> = Arc::downgrade(&directed);
        let work = async move {
            let mut tick = interval(tick);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                match weak.upgrade() {
                    Some(directed) => directed.close_idle(),
                    None => return,
                }
            }
        };
        (directed, work)
    }

    /// The connection to a host, made if there is none. With `until`, waits that long for the host to be ready.
    /// Without, waits for an attempt under way, but not longer than connecting may take; fails at once while the host
    /// is known not to answer.
    pub(crate) async fn acquire(
        &self,
        service: ServiceKind,
        host: &HostName,
        until: Option<Instant>,
    ) -> Result<Arc<Connection>, Status> {
        let patience = Instant::now() + self.options.connect_timeout;
        self.wait(service, host, until.unwrap_or(patience), until.is_some()).await
    }

    async fn wait(
        &self,
        service: ServiceKind,
        host: &HostName,
        until: Instant,
        stubborn: bool,
    ) -> Result<Arc<Connection>, Status> {
        let members = self.registry.routes(service);
        let mut sets = members.subscribe();
        // Not read in time: the set is empty and the answer below says so.
        let _ = timeout_at(until, sets.wait_for(|set| set.is_known())).await;
        loop {
            let member = sets.borrow_and_update().route(host);
            let Some(mut state) = self.entry(service, host, member.as_ref()) else {
                if stubborn && matches!(timeout_at(until, sets.changed()).await, Ok(Ok(()))) {
                    continue;
                }
                return Err(no_such_host(service, host, members.current().is_known()));
            };
            let now = state.borrow_and_update().clone();
            if let Some(member) = member.as_deref().filter(|member| now.does_not_answer(member)) {
                members.gone(host, member.epoch);
            }
            match verdict(&now, member.as_deref()) {
                Verdict::Use(connection) => return Ok(connection),
                Verdict::Fail if !stubborn => return Err(unreachable(service, &now)),
                Verdict::Fail | Verdict::Wait => {}
            }
            let changed = async {
                tokio::select! {
                    _ = state.changed() => {}
                    Ok(()) = sets.changed() => {}
                }
            };
            if timeout_at(until, changed).await.is_err() {
                return Err(unreachable(service, &now));
            }
        }
    }

    /// The state of a host's entry, made if the host is registered. A host that left the registry keeps its
    /// entry while it is connected and serves.
    fn entry(
        &self,
        service: ServiceKind,
        host: &HostName,
        member: Option<&Arc<Member>>,
    ) -> Option<watch::Receiver<State>> {
        let key = (service, host.clone());
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.by_host.get_mut(&key) {
            let Some(member) = member else {
                if entry.state.borrow().ready().is_some() {
                    entry.used = Instant::now();
                    return Some(entry.state.clone());
                }
                entries.by_host.remove(&key);
                return None;
            };
            entry.used = Instant::now();
            entry.member.send_if_modified(|known| {
                let changed = known != member;
                *known = member.clone();
                changed
            });
            return Some(entry.state.clone());
        }
        let member = member?;
        while entries.tasks.try_join_next().is_some() {}
        make_room(&mut entries.by_host, self.options.max_directed);
        let (member_sender, member_receiver) = watch::channel(member.clone());
        let (state_sender, state) = watch::channel(State::new(member.clone()));
        let endpoint = Endpoint {
            service,
            dialer: self.dialer.clone(),
            backoff: self.options.backoff,
            member: member_receiver,
            state: state_sender,
            on_change: Box::new(|| {}),
        };
        let task = entries.tasks.spawn(endpoint.run());
        let entry = Entry { member: member_sender, state: state.clone(), used: Instant::now(), task };
        entries.by_host.insert(key, entry);
        Some(state)
    }

    fn close_idle(&self) {
        let idle = self.options.idle_timeout;
        let mut entries = self.entries.lock();
        while entries.tasks.try_join_next().is_some() {}
        entries.by_host.retain(|_, entry| {
            let busy = entry.in_flight() > 0;
            if busy {
                entry.used = Instant::now();
            }
            busy || entry.used.elapsed() < idle
        });
        metrics::gauge!("rpc_directed_connections").set(entries.by_host.len() as f64);
    }

    /// Every host with an entry and where it stands.
    pub(crate) fn states(&self) -> Vec<PeerState> {
        let entries = self.entries.lock();
        let state = |((service, host), entry): (&(ServiceKind, HostName), &Entry)| {
            let state = entry.state.borrow();
            PeerState {
                service: *service,
                host: host.clone(),
                addr: state.member.addr.clone(),
                directed: true,
                ready: state.ready().is_some(),
                detail: state.why_not_ready(),
                in_flight: state.ready().map_or(0, |connection| connection.in_flight()),
            }
        };
        entries.by_host.iter().map(state).collect()
    }
}

/// Closes the connection that was not used for the longest time, if there are as many as there may be. One in
/// use is closed only when all are; its calls still end in peace.
fn make_room(by_host: &mut HashMap<(ServiceKind, HostName), Entry>, max: usize) {
    if by_host.len() < max {
        return;
    }
    let oldest = by_host.iter().min_by_key(|(_, entry)| (entry.in_flight() > 0, entry.used));
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        by_host.remove(&key);
    }
}

enum Verdict {
    Use(Arc<Connection>),
    Wait,
    Fail,
}

/// What an entry's state means for a call to `member`: a state of another incarnation means nothing yet,
/// except a connection to the same address.
fn verdict(state: &State, member: Option<&Member>) -> Verdict {
    if let Some(connection) = state.ready()
        && member.is_none_or(|member| member.addr == connection.addr)
    {
        return Verdict::Use(connection.clone());
    }
    let current = member.is_none_or(|member| {
        (member.addr.as_str(), member.epoch) == (state.member.addr.as_str(), state.member.epoch)
    });
    match &state.phase {
        Phase::NotServing | Phase::Failed(_) if current => Verdict::Fail,
        _ => Verdict::Wait,
    }
}

fn no_such_host(service: ServiceKind, host: &HostName, registry_read: bool) -> Status {
    let message = if registry_read {
        format!("no {service} is registered as {host}")
    } else {
        format!("{service} {host} cannot be found: the registry has not been read yet")
    };
    never_sent(&Error::new(Reason::NoSuchHost, message).with("service", service).with("host", host))
}

fn unreachable(service: ServiceKind, state: &State) -> Status {
    let (host, addr, why) = (&state.member.host, &state.member.addr, state.why_not_ready());
    let message = format!("{service} {host} at {addr} cannot be reached: {why}");
    never_sent(&Error::new(Reason::ConnectFailed, message).with("service", service).with("host", host))
}
