//! One HTTP/2 connection to one member, and sending a request on it.
//!
//! Connections are hyper's, not tonic's: hyper says of a failed request whether it was ever written, which is
//! what decides between `NotExecuted` and `MaybeExecuted`, and tells at once when a connection has ended.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kilonova_model::{HostName, ServiceKind};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::registry::Member;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kilonova/", env!("CARGO_PKG_VERSION")));
const STREAM_WINDOW: u32 = 1 << 20;
/// The largest there is: every stream is bounded by its own window, and streams whose consumer is slow must not
/// use up what all calls of the connection share.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// How connections are made and watched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DialOptions {
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) keep_alive_timeout: Duration,
}

/// Makes connections and owns the tasks that drive them. A connection whose last user is gone finishes its
/// calls and closes.
pub(crate) struct Dialer {
    options: DialOptions,
    drivers: Mutex<JoinSet<()>>,
}

/// One connection to one member.
pub(crate) struct Connection {
    pub(crate) service: ServiceKind,
    pub(crate) host: HostName,
    pub(crate) addr: String,
    authority: Authority,
    sender: SendRequest<Body>,
    in_flight: AtomicUsize,
    closed: CancellationToken,
}

/// Why a request got no response.
pub(crate) enum SendError {
    /// It was never written; here it is back.
    NotSent(Box<Request<Body>>, String),
    /// The peer said that it did not process it.
    NotProcessed(String),
    /// The connection or the stream ended after it was written.
    Lost(String),
}

impl Dialer {
    pub(crate) fn new(options: DialOptions) -> Self {
        Self { options, drivers: Mutex::new(JoinSet::new()) }
    }

    pub(crate) fn options(&self) -> &DialOptions {
        &self.options
    }

    /// Connects within the connect timeout.
    pub(crate) async fn dial(
        &self,
        service: ServiceKind,
        member: &Member,
    ) -> Result<Arc<Connection>, String> {
        let authority = member
            .authority
            .parse::<Authority>()
            .map_err(|error| format!("authority {:?} is not valid: {error}", member.authority))?;
        let connecting = async {
            let failed = |error: std::io::Error| format!("cannot connect: {error}");
            let stream = TcpStream::connect(&member.addr).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .keep_alive_interval(self.options.keep_alive_interval)
                .keep_alive_timeout(self.options.keep_alive_timeout)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| describe(&error))
        };
        let (sender, driver) = match tokio::time::timeout(self.options.connect_timeout, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(format!("no connection within {:?}", self.options.connect_timeout)),
        };
        let closed = CancellationToken::new();
        let ended = closed.clone().drop_guard();
        let mut drivers = self.drivers.lock();
        while drivers.try_join_next().is_some() {}
        drivers.spawn(async move {
            let _ended = ended;
            if let Err(error) = driver.await {
                tracing::debug!(error = describe(&error), "connection ended");
            }
        });
        drop(drivers);
        Ok(Arc::new(Connection {
            service,
            host: member.host.clone(),
            addr: member.addr.clone(),
            authority,
            sender,
            in_flight: AtomicUsize::new(0),
            closed,
        }))
    }
}

impl Connection {
    /// Calls in flight, streams included.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether new calls may use it.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && !self.sender.is_closed()
    }

    /// Waits until it is closed or found broken.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Counts a call for as long as the guard lives.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { connection: self.clone() }
    }

    /// Sends a request whose URI is a path.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let request = self.address(request);
        let mut sender = self.sender.clone();
        let mut failure = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        if let Some(request) = failure.take_message() {
            self.closed.cancel();
            return Err(SendError::NotSent(Box::new(request), describe(failure.error())));
        }
        let text = describe(failure.error());
        Err(match self.fate(failure.error()) {
            Fate::NotProcessed => SendError::NotProcessed(text),
            Fate::Lost => SendError::Lost(text),
        })
    }

    /// Reads an error of a stream on this connection; one that is not of the stream alone closes the
    /// connection for new calls.
    fn fate(&self, error: &hyper::Error) -> Fate {
        let h2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        if !h2.is_some_and(h2::Error::is_reset) {
            self.closed.cancel();
        }
        fate_of(h2)
    }

    /// What to say of a response body that broke.
    pub(crate) fn body_failed(&self, error: &hyper::Error) -> String {
        self.fate(error);
        describe(error)
    }

    fn address(&self, request: Request<Body>) -> Request<Body> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        head.uri = Uri::from_parts(uri).expect("scheme, authority and the path of a generated client");
        head.headers.insert(header::USER_AGENT, USER_AGENT);
        Request::from_parts(head, body)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Fate {
    NotProcessed,
    Lost,
}

/// A refused stream, and one above the last the peer named when it went away, were not processed.
fn fate_of(error: Option<&h2::Error>) -> Fate {
    match error {
        Some(error) if error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_remote() => {
            Fate::NotProcessed
        }
        Some(error) if error.is_go_away() && error.is_remote() => Fate::NotProcessed,
        _ => Fate::Lost,
    }
}

/// Counts one call on its connection until dropped.
pub(crate) struct InFlight {
    pub(crate) connection: Arc<Connection>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An error with its causes, in one line.
pub(crate) fn describe(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
