//! Calling other services: channels over the members that are up.
//!
//! ```text
//!   registry ──members──► pool ──one task each──► endpoint: connect, watch health, connect again
//!                          │ ready set               (the same for a named host, made on demand)
//!   generated client ──► channel: pick, deadline, who calls, metrics ──► connection
//! ```
//!
//! A member is called only while it is connected *and* says that it serves. When nobody is, a call fails at
//! once and says why each is not; only while the very first attempts are under way does it wait for them.
//! The request is offered to another member only if it was never written to the first.

mod body;
mod channel;
mod connection;
mod directed;
mod endpoint;
mod health;
mod method;
mod metrics;
mod pick;
mod pool;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{HostName, ServiceKind};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::backoff::BackoffPolicy;
use crate::caller::Caller;
use crate::registry::Registry;

pub use body::ReplyBody;
pub use channel::Channel;

/// How peers are reached.
#[derive(Debug, Clone, Copy)]
pub struct PeersOptions {
    /// How long connecting, and then the first health answer, may take.
    pub connect_timeout: Duration,
    /// How often an HTTP/2 ping proves that a connection lives.
    pub keep_alive_interval: Duration,
    /// How long the answer to that ping may take.
    pub keep_alive_timeout: Duration,
    /// The deadline of calls that set none.
    pub default_deadline: Duration,
    /// The delays between attempts to connect to one member.
    pub backoff: BackoffPolicy,
    /// After how long without a call the connection to a named host is closed.
    pub idle_timeout: Duration,
    /// How many connections to named hosts are kept at most.
    pub max_directed: usize,
}

impl Default for PeersOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            default_deadline: Duration::from_secs(10),
            backoff: BackoffPolicy::reconnect(),
            idle_timeout: Duration::from_secs(300),
            max_directed: 4096,
        }
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
    identity: channel::Identity,
    dialer: Arc<connection::Dialer>,
    directed: Arc<directed::Directed>,
    pools: Mutex<Pools>,
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
        method::prepare();
        let dialer = Arc::new(connection::Dialer::new(connection::DialOptions {
            connect_timeout: options.connect_timeout,
            keep_alive_interval: options.keep_alive_interval,
            keep_alive_timeout: options.keep_alive_timeout,
        }));
        let (service, host) = caller.header_values();
        let identity = channel::Identity { service, host, default_deadline: options.default_deadline };
        let (directed, work) = directed::Directed::new(registry.clone(), dialer.clone(), options);
        let mut pools = Pools::default();
        pools.tasks.spawn(work);
        let pools = Mutex::new(pools);
        Self { inner: Arc::new(Inner { registry, options, identity, dialer, directed, pools }) }
    }

    /// A channel to any ready member of a service, the less loaded of two.
    #[must_use]
    pub fn call(&self, service: ServiceKind) -> Channel {
        let pool = self.inner.pool(service);
        self.channel(channel::Target::Any(service, pool))
    }

    /// A channel to one named member of a service, wherever it is registered at the time of each call.
    #[must_use]
    pub fn call_host(&self, service: ServiceKind, host: &HostName) -> Channel {
        self.channel(channel::Target::Host(service, host.clone(), self.inner.directed.clone()))
    }

    fn channel(&self, target: channel::Target) -> Channel {
        Channel { target, peers: self.inner.clone() }
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
        let (pool, work) = pool::Pool::new(members, self.dialer.clone(), self.options);
        pools.tasks.spawn(work);
        pools.by_service.insert(service, pool.clone());
        pool
    }
}
