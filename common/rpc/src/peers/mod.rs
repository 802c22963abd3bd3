//! Calling other services: channels over the members that are up.
//!
//! ```text
//!   registry ──members──► pool ──one task each──► endpoint: connect, watch health, connect again
//!                          │ ready set               (the same for a named host, made on demand)
//!   generated client ──► channel: deadline, pick, send, try again ──► connection
//! ```
//!
//! The verbs: [`Peers::call`] any member, [`Peers::call_host`] one of them, [`Peers::cast`] and
//! [`Peers::cast_host`] for work whose OK means that it is accepted durably, [`Peers::fan_out`] to all of them, and
//! [`subscribe`](crate::subscribe::subscribe) to a stream of one of them.
//!
//! A member is called only while it is connected *and* says that it serves. When nobody is, a call fails at
//! once and says why each is not, unless it is told to wait; only while the very first attempts are under way does it
//! wait for them anyway.

mod body;
mod call;
mod channel;
mod clock;
mod connection;
mod dialer;
mod directed;
mod endpoint;
mod fan_out;
mod health;
mod http2;
mod lanes;
mod method;
mod outgoing;
mod pick;
mod pool;
mod retry;
mod subset;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{HostName, ServiceKind};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::backoff::BackoffPolicy;
use crate::caller::Caller;
use crate::registry::Registry;
use crate::service_config::Throttling;
use crate::transport::{Connect, Tcp};

pub use body::ReplyBody;
pub use channel::Channel;
pub use fan_out::FannedOut;
pub(crate) use retry::PUSHBACK;

/// How peers are reached.
#[derive(Clone)]
pub struct PeersOptions {
    /// How long connecting, and then the first health answer, may take.
    pub connect_timeout: Duration,
    /// How often an HTTP/2 ping proves that a connection lives.
    pub keep_alive_interval: Duration,
    /// How long the answer to that ping may take.
    pub keep_alive_timeout: Duration,
    /// How long a member may take to say that it is there after a call to it got no answer.
    pub probe_timeout: Duration,
    /// The deadline of calls that set none.
    pub default_deadline: Duration,
    /// The delays between attempts to connect to one member.
    pub backoff: BackoffPolicy,
    /// After how long without a call the connection to a named host is closed.
    pub idle_timeout: Duration,
    /// How many connections to named hosts are kept at most.
    pub max_directed: usize,
    /// How many streams go over one connection before another is made for more.
    pub streams_per_connection: usize,
    /// How many calls may be in flight on one connection before another is made for more.
    pub calls_per_connection: usize,
    /// How many connections to one member share its calls at most.
    pub call_connections: usize,
    /// Of how many members of a service each process calls any; of all where none is given.
    pub subset: HashMap<ServiceKind, usize>,
    /// What connections are made of.
    pub transport: Arc<dyn Connect>,
}

impl Default for PeersOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(1),
            default_deadline: Duration::from_secs(10),
            backoff: BackoffPolicy::reconnect(),
            idle_timeout: Duration::from_secs(300),
            max_directed: 4096,
            streams_per_connection: 100,
            calls_per_connection: 16,
            call_connections: 4,
            subset: HashMap::new(),
            transport: Arc::new(Tcp),
        }
    }
}

/// Of how many conductors each agent calls any: agents are many and conductors few (gRFC A68).
pub const AGENT_SUBSET: usize = 3;

impl PeersOptions {
    /// These, with the subsets that suit a member of a service where none are given: the many side calls a few of
    /// the few side.
    #[must_use]
    pub fn suiting(mut self, service: ServiceKind) -> Self {
        if matches!(service, ServiceKind::Compute | ServiceKind::Volume) {
            self.subset.entry(ServiceKind::Conductor).or_insert(AGENT_SUBSET);
        }
        self
    }
}

impl std::fmt::Debug for PeersOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeersOptions")
            .field("connect_timeout", &self.connect_timeout)
            .field("default_deadline", &self.default_deadline)
            .field("subset", &self.subset)
            .finish_non_exhaustive()
    }
}

/// One peer and where it stands, for diagnostics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Its service.
    pub service: ServiceKind,
    /// Its name.
    pub host: HostName,
    /// Its address.
    pub addr: String,
    /// Whether it is called by name (a directed channel) or as one of many.
    pub directed: bool,
    /// Whether calls may go to it.
    pub ready: bool,
    /// Why not, in words.
    pub detail: String,
    /// Calls and streams in flight.
    pub in_flight: usize,
}

/// All that this process calls. Cheap to clone; its tasks end with the last clone and the last channel.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    options: PeersOptions,
    identity: outgoing::Identity,
    /// Ranks the members of a service for this process, differently from other processes.
    own_name: String,
    dialer: Arc<dialer::Dialer>,
    directed: Arc<directed::Directed>,
    throttling: Throttling,
    pools: Mutex<Pools>,
    budgets: Mutex<HashMap<ServiceKind, Arc<retry::Budget>>>,
}

#[derive(Default)]
struct Pools {
    by_service: HashMap<ServiceKind, Arc<pool::Pool>>,
    tasks: JoinSet<()>,
}

impl Peers {
    /// The peers of `caller`. Must be called within a runtime.
    #[must_use]
    pub fn new(registry: Registry, caller: Caller, options: PeersOptions) -> Self {
        let throttling = method::prepare();
        let dial = dialer::DialOptions {
            connect_timeout: options.connect_timeout,
            keep_alive_interval: options.keep_alive_interval,
            keep_alive_timeout: options.keep_alive_timeout,
            probe_timeout: options.probe_timeout,
            streams_per_connection: options.streams_per_connection,
            calls_per_connection: options.calls_per_connection,
            call_connections: options.call_connections,
        };
        let dialer = Arc::new(dialer::Dialer::new(dial, options.transport.clone()));
        let identity = outgoing::Identity::new(&caller, registry.cell());
        let own_name = format!("{}/{}", caller.service, caller.host);
        let (directed, work) = directed::Directed::new(registry.clone(), dialer.clone(), &options);
        let mut pools = Pools::default();
        pools.tasks.spawn(work);
        let (pools, budgets) = (Mutex::new(pools), Mutex::default());
        let inner =
            Inner { registry, options, identity, own_name, dialer, directed, throttling, pools, budgets };
        Self { inner: Arc::new(inner) }
    }

    /// A channel to any ready member of a service, the less loaded of two.
    #[must_use]
    pub fn call(&self, service: ServiceKind) -> Channel {
        let pool = self.inner.pool(service);
        self.channel(channel::Target::Any(service, pool), outgoing::Addressed::default())
    }

    /// A channel to one named member of a service, wherever it is registered at the time of each call. The member
    /// checks that it is the one; [`Channel::at`] also names its incarnation.
    #[must_use]
    pub fn call_host(&self, service: ServiceKind, host: &HostName) -> Channel {
        let target = channel::Target::Host(service, host.clone(), self.inner.directed.clone());
        self.channel(target, outgoing::Addressed::to(host))
    }

    /// Like [`call`](Self::call), for work: OK means that the callee has accepted it durably and does it after the
    /// reply. Lets through only methods that may be repeated, as an answer can be lost: who gets none still holds the
    /// work, and sends it again under the same request id.
    #[must_use]
    pub fn cast(&self, service: ServiceKind) -> Channel {
        Channel { cast: true, ..self.call(service) }
    }

    /// Like [`cast`](Self::cast), to one named member.
    #[must_use]
    pub fn cast_host(&self, service: ServiceKind, host: &HostName) -> Channel {
        Channel { cast: true, ..self.call_host(service, host) }
    }

    fn channel(&self, target: channel::Target, addressed: outgoing::Addressed) -> Channel {
        let (peers, deadline) = (self.inner.clone(), self.inner.options.default_deadline);
        let budget = peers.budget(target.service());
        Channel {
            target,
            peers,
            budget,
            addressed,
            version: None,
            wait_for_ready: false,
            deadline,
            cast: false,
        }
    }

    /// The registry behind it.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Every peer known and where it stands, for diagnostics.
    #[must_use]
    pub fn states(&self) -> Vec<PeerState> {
        let pools: Vec<_> = self.inner.pools.lock().by_service.values().cloned().collect();
        let mut states: Vec<_> = pools.iter().flat_map(|pool| pool.states()).collect();
        states.extend(self.inner.directed.states());
        states.sort_by(|a, b| (a.service, &a.host, a.directed).cmp(&(b.service, &b.host, b.directed)));
        states
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("registry", &self.inner.registry).finish_non_exhaustive()
    }
}

impl Inner {
    fn pool(&self, service: ServiceKind) -> Arc<pool::Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.by_service.get(&service) {
            return pool.clone();
        }
        let members = self.registry.routes(service);
        let subset = self.options.subset.get(&service).copied();
        let subset = subset.map(|size| subset::Subset::new(&self.own_name, size));
        let (pool, work) = pool::Pool::new(members, self.dialer.clone(), &self.options, subset);
        pools.tasks.spawn(work);
        pools.by_service.insert(service, pool.clone());
        pool
    }

    fn budget(&self, service: ServiceKind) -> Arc<retry::Budget> {
        let mut budgets = self.budgets.lock();
        budgets.entry(service).or_insert_with(|| Arc::new(retry::Budget::new(self.throttling))).clone()
    }
}
