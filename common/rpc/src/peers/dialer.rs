//! Making connections: the transport, HTTP/2 with keep-alive, and the tasks that drive them.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use kilonova_model::ServiceKind;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Shared};
use super::http2::{self, KeepAlive};
use super::lanes::Lanes;
use crate::registry::Member;
use crate::transport::Connect;

/// How connections are made and watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialOptions {
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) streams_per_connection: usize,
    pub(crate) calls_per_connection: usize,
    pub(crate) call_connections: usize,
}

/// Makes connections and owns the tasks that drive them. A connection whose last user is gone finishes its
/// calls and closes.
pub(crate) struct Dialer {
    pub(super) options: DialOptions,
    transport: Arc<dyn Connect>,
    drivers: Mutex<JoinSet<()>>,
}

impl Dialer {
    pub(crate) fn new(options: DialOptions, transport: Arc<dyn Connect>) -> Self {
        Self { options, transport, drivers: Mutex::new(JoinSet::new()) }
    }

    /// Connects within the connect timeout.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        service: ServiceKind,
        member: &Arc<Member>,
    ) -> Result<Arc<Connection>, String> {
        self.dial_further(service, member, Arc::default()).await
    }

    /// Connects once more to a member that others are connected to; they know of each other through what is `shared`.
    pub(super) async fn dial_further(
        self: &Arc<Self>,
        service: ServiceKind,
        member: &Arc<Member>,
        shared: Arc<Shared>,
    ) -> Result<Arc<Connection>, String> {
        let authority = member
            .authority
            .parse::<Authority>()
            .map_err(|error| format!("authority {:?} is not valid: {error}", member.authority))?;
        let connecting = async {
            let failed = |error: std::io::Error| format!("cannot connect: {error}");
            let stream = self.transport.connect(&member.addr).await.map_err(failed)?;
            let interval = self.options.keep_alive_interval;
            let keep_alive = KeepAlive { interval, timeout: self.options.keep_alive_timeout };
            http2::handshake(stream, keep_alive).await.map_err(|error| error.to_string())
        };
        let (sender, driver) = match tokio::time::timeout(self.options.connect_timeout, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(format!("no connection within {:?}", self.options.connect_timeout)),
        };
        let closed = CancellationToken::new();
        let ended = closed.clone().drop_guard();
        self.beside(async move {
            let _ended = ended;
            let why = driver.await;
            tracing::debug!(why, "connection ended");
        });
        let lanes = Lanes::new(Arc::downgrade(self), member.clone());
        Ok(Arc::new(Connection::new(service, member, authority, sender, closed, shared, lanes)))
    }

    /// Has work done that ends by itself, at the latest with the dialer.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut drivers = self.drivers.lock();
        while drivers.try_join_next().is_some() {}
        drivers.spawn(work);
    }
}
