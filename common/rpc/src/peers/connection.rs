//! One HTTP/2 connection to one member, and sending a request on it.
//!
//! Connections are h2's, not tonic's: of a failed request it is known whether any of it was written, which is
//! what decides between `NotExecuted` and `MaybeExecuted`, and a connection that has ended says so at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, header};
use kilonova_model::{HostName, ServiceKind};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::body::drop_broken_details;
use super::clock::Clock;
use super::http2::{Body, Sender, Unsent};
use super::lanes::Lanes;
use crate::registry::Member;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("kilonova/", env!("CARGO_PKG_VERSION")));

/// One connection to one member.
pub(crate) struct Connection {
    pub(crate) service: ServiceKind,
    pub(crate) host: HostName,
    pub(crate) addr: String,
    authority: Authority,
    sender: Sender,
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
    clock: Clock,
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
        sender: Sender,
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
        !self.closed.is_cancelled()
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
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, SendError> {
        let sent = self.shared.clock.is_due().then(SystemTime::now);
        match self.sender.send(self.address(request)).await {
            Ok(mut response) => {
                if let Some(sent) = sent {
                    self.shared.clock.judge(self.service, &self.host, response.headers(), sent);
                }
                drop_broken_details(response.headers_mut());
                Ok(response)
            }
            Err(Unsent::NotWritten(error)) => {
                self.closed.cancel();
                Err(SendError::NotSent(error.to_string()))
            }
            Err(Unsent::Failed(error)) => Err(self.failed(&error)),
        }
    }

    /// Reads an error of a stream on this connection; one that is not of the stream alone closes the
    /// connection for new calls.
    pub(super) fn failed(&self, error: &h2::Error) -> SendError {
        if !error.is_reset() {
            self.closed.cancel();
        }
        let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        // A refused stream, and one above the last that the peer named when it went away, were not processed.
        let is_unprocessed = error.is_remote() && (is_refused || error.is_go_away());
        let kind = if is_unprocessed { SendError::NotProcessed } else { SendError::Lost };
        kind(error.to_string())
    }

    fn address(&self, request: Request<Bytes>) -> Request<Bytes> {
        let (mut head, body) = request.into_parts();
        let mut uri = head.uri.into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        head.uri = Uri::from_parts(uri).expect("scheme, authority and the path of a generated client");
        head.headers.insert(header::USER_AGENT, USER_AGENT);
        Request::from_parts(head, body)
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
