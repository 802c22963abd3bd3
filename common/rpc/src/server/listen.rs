//! The listening socket, its connections, and their end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::admission::AdmissionLimits;
use super::call::{Core, Ends};
use super::health::Health;
use super::quiet::{Quiet, hear_out};
use crate::transport::{BoxIo, Listen};

/// How much one peer may take, and how soon a silent one is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls at once on one connection.
    pub max_concurrent_streams: u32,
    /// Connections at once; further ones wait in the listener's backlog.
    pub max_connections: usize,
    /// Calls and streams at once, in all and of one peer.
    pub admission: AdmissionLimits,
    /// How long a unary call may take whose caller sets no deadline.
    pub longest_call: Duration,
    /// The longest message, either way.
    pub max_message_bytes: usize,
    /// How often a silent peer is asked whether it is there.
    pub keepalive_interval: Duration,
    /// How long it may take to answer.
    pub keepalive_timeout: Duration,
    /// How long a new connection may take to say anything.
    pub first_byte_timeout: Duration,
    /// What may be under way on one stream.
    pub stream_window: u32,
    /// What may be under way on one connection.
    pub connection_window: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 4096,
            max_connections: 32_768,
            admission: AdmissionLimits::default(),
            longest_call: Duration::from_secs(60),
            max_message_bytes: 4 << 20,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            first_byte_timeout: Duration::from_secs(10),
            stream_window: 1 << 20,
            connection_window: 4 << 20,
        }
    }
}

/// How a server stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Every call ended first.
    Drained,
    /// The bound was over: this many calls were cut.
    Cut {
        /// How many.
        calls: usize,
    },
}

/// How long a peer is heard out that was told of the end.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long connections may take to close once nothing runs on them. A peer that is there closes its own at once.
const LINGER: Duration = Duration::from_secs(1);

/// What a server is doing; outlives it.
#[derive(Clone, Debug)]
pub struct Load {
    calls: TaskTracker,
    connections: Arc<AtomicUsize>,
}

impl Load {
    /// Calls in progress, streams among them.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// A server that serves. Dropping it cuts everything at once. Its calls log in the span in which it was started.
#[derive(Debug)]
pub struct Server {
    load: Load,
    address: SocketAddr,
    health: Health,
    streams_end: CancellationToken,
    stop: CancellationToken,
    accepting: JoinSet<()>,
    _cut: DropGuard,
}

impl Server {
    pub(super) fn start(
        core: Arc<Core>,
        listener: Box<dyn Listen>,
        address: SocketAddr,
        limits: Limits,
        health: Health,
        streams_end: CancellationToken,
    ) -> Self {
        let stop = CancellationToken::new();
        let load = Load { calls: core.calls.clone(), connections: Arc::default() };
        let cut = core.cut.clone();
        let mut accepting = JoinSet::new();
        let acceptor = Acceptor {
            core,
            address,
            limits: Arc::new(limits),
            stop: stop.clone(),
            open: load.connections.clone(),
        };
        accepting.spawn(acceptor.run(listener).in_current_span());
        Self { load, address, health, streams_end, stop, accepting, _cut: cut.drop_guard() }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the health service says.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Cancel this to end streams before the server stops.
    #[must_use]
    pub fn streams_end(&self) -> &CancellationToken {
        &self.streams_end
    }

    /// What it is doing.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load.clone()
    }

    /// Stops: says NOT_SERVING, ends streams, takes no new connections, lets calls end, cuts what has not ended by
    /// `bound`.
    pub async fn stop(mut self, bound: Duration) -> Stopped {
        self.health.set_serving(false);
        self.streams_end.cancel();
        self.stop.cancel();
        self.load.calls.close();
        // What counts is whether calls are left, not whether idle peers took note.
        let _ = timeout(bound, self.quiet()).await;
        let stopped = match self.load.calls() {
            0 => Stopped::Drained,
            calls => Stopped::Cut { calls },
        };
        self.accepting.shutdown().await;
        stopped
    }

    /// Waits until nothing runs and every connection is closed. A connection whose peer is idle need not be waited
    /// for; but a call may be on its way that was sent before its caller heard of the end, so that it takes a while
    /// without any call to tell.
    async fn quiet(&mut self) {
        loop {
            self.load.calls.wait().await;
            let closed = timeout(LINGER, self.accepting.join_next()).await.is_ok();
            if closed || self.load.calls() == 0 {
                return;
            }
        }
    }
}

struct Acceptor {
    core: Arc<Core>,
    address: SocketAddr,
    limits: Arc<Limits>,
    stop: CancellationToken,
    open: Arc<AtomicUsize>,
}

impl Acceptor {
    async fn run(self, mut listener: Box<dyn Listen>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept(), if connections.len() < self.limits.max_connections => match accepted {
                    Ok((stream, peer)) => { connections.spawn(self.connection(stream, peer).in_current_span()); }
                    Err(error) => self.pause(error).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    /// Out of file descriptors, mostly. Connections wait in the backlog meanwhile.
    async fn pause(&self, error: io::Error) {
        tracing::warn!(%error, "a connection could not be accepted");
        let _ = timeout(Duration::from_millis(100), self.stop.cancelled()).await;
    }

    fn connection(&self, stream: BoxIo, peer: SocketAddr) -> impl Future<Output = ()> + use<> {
        let (core, limits, stop) = (self.core.clone(), self.limits.clone(), self.stop.clone());
        let ends = Ends { peer, local: self.address, load: core.admission.peer(peer.ip()) };
        let open = Open::count(self.open.clone());
        async move {
            let _open = open;
            if let Err(error) = serve_connection(core, &limits, stop, stream, ends).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
        }
    }
}

async fn serve_connection(
    core: Arc<Core>,
    limits: &Limits,
    stop: CancellationToken,
    stream: BoxIo,
    ends: Ends,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // A peer that connects and says nothing would otherwise keep its connection for ever: keep-alive begins only
    // after the preface.
    let (stream, mut let_go) = Quiet::new(stream, limits.first_byte_timeout);
    let ends = Arc::new(ends);
    let service = service_fn(move |request| {
        let (core, ends) = (core.clone(), ends.clone());
        async move { Ok::<_, Infallible>(core.call(&ends, request).await) }.in_current_span()
    });
    let mut connection = Box::pin(http2(limits).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.as_mut().await?;
    drop(connection);
    if let Ok(stream) = let_go.try_recv() {
        hear_out(stream, LAST_WORDS).await;
    }
    Ok(())
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// One open connection, counted while it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
