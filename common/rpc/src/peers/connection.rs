//! One HTTP/2 connection to one member, and sending a request on it.
//!
//! Connections are hyper's, not tonic's: hyper says of a failed request whether it was ever written, which is
//! what decides between `NotExecuted` and `MaybeExecuted`, and tells at once when a connection has ended.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use kilonova_model::{HostName, ServiceKind};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::body::drop_broken_details;
use super::lanes::Lanes;
use super::outgoing::RequestBody;
use crate::registry::Member;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kilonova/", env!("CARGO_PKG_VERSION")));

/// One connection to one member.
pub(crate) struct Connection {
    pub(crate) service: ServiceKind,
    pub(crate) host: HostName,
    pub(crate) addr: String,
    authority: Authority,
    sender: SendRequest<RequestBody>,
    in_flight: AtomicUsize,
    closed: CancellationToken,
    /// What all connections to the member share.
    shared: Arc<Shared>,
    pub(super) lanes: Lanes,
}

/// What is known of a member, whichever connection it was learnt on.
#[derive(Debug, Default)]
pub(super) struct Shared {
    in_flight: AtomicUsize,
    /// A call to it ran out of time: perhaps nobody is there any more.
    suspect: AtomicBool,
    suspected: Notify,
}

/// Why a request got no response.
pub(crate) enum SendError {
    /// It was never written.
    NotSent(String),
    /// The peer said that it did not process it.
    NotProcessed(String),
    /// The connection or the stream ended after it was written.
    Lost(String),
}

impl Connection {
    pub(super) fn new(
        service: ServiceKind,
        member: &Member,
        authority: Authority,
        sender: SendRequest<RequestBody>,
        closed: CancellationToken,
        shared: Arc<Shared>,
        lanes: Lanes,
    ) -> Self {
        Self {
            service,
            host: member.host.clone(),
            addr: member.addr.clone(),
            authority,
            sender,
            in_flight: AtomicUsize::new(0),
            closed,
            shared,
            lanes,
        }
    }

    /// Calls in flight to the member, on whichever connection, streams included.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Calls in flight on this connection, streams included.
    pub(super) fn carries(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What to weigh its member by when one of several is picked: all that is in flight to it. A suspect is taken only
    /// if all are; none if it may not be used.
    pub(crate) fn load(&self) -> Option<usize> {
        let penalty = if self.shared.suspect.load(Ordering::Relaxed) { usize::MAX / 2 } else { 0 };
        self.is_open().then(|| self.in_flight() + penalty)
    }

    /// Whether new calls may use it.
    pub(crate) fn is_open(&self) -> bool {
        !self.closed.is_cancelled() && !self.sender.is_closed()
    }

    /// Waits until it is closed or found broken.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether both go to the same member.
    pub(crate) fn is_with(&self, other: &Connection) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What further connections to the member share with this one.
    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// A call got no answer in time: whoever keeps the connection is to look whether the peer is still there.
    pub(crate) fn suspect(&self) {
        if !self.shared.suspect.swap(true, Ordering::Relaxed) {
            self.shared.suspected.notify_one();
        }
    }

    /// Waits until somebody suspects it.
    pub(crate) async fn suspected(&self) {
        self.shared.suspected.notified().await;
    }

    /// The peer answered.
    pub(crate) fn cleared(&self) {
        self.shared.suspect.store(false, Ordering::Relaxed);
    }

    /// Counts a call for as long as the guard lives.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { connection: self.clone() }
    }

    /// Sends a request whose URI is a path.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let request = self.address(request);
        let mut sender = self.sender.clone();
        let mut failure = match sender.try_send_request(request).await {
            Ok(mut response) => {
                drop_broken_details(response.headers_mut());
                return Ok(response);
            }
            Err(failure) => failure,
        };
        if failure.take_message().is_some() {
            self.closed.cancel();
            return Err(SendError::NotSent(describe(failure.error())));
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

    fn address(&self, request: Request<RequestBody>) -> Request<RequestBody> {
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
        self.connection.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
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
