//! What generated clients call through. A channel says who is to be called and how; [`call`](super::call) does it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use kilonova_model::{Epoch, HostName, ServiceKind, Version};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::body::ReplyBody;
use super::connection::Connection;
use super::directed::Directed;
use super::outgoing::Addressed;
use super::pool::Pool;
use super::retry::Budget;

/// A callee for generated clients: any ready member of a service, or one named host. Cheap to clone.
///
/// A unary call ends, one way or the other, by its deadline: that of `Request::set_timeout`, else the default, but
/// never later than the service config allows for the method, nor than what is left of the request that is being
/// handled. A streaming call must begin by then; only one with `set_timeout` must also end by then.
///
/// A call that provably was not executed is made again, at another member where there is one; so is an idempotent
/// one that came back `UNAVAILABLE` or lost its connection. What still fails is a status that
/// [`classify`](crate::outcome::classify) sorts.
#[derive(Clone)]
pub struct Channel {
    pub(super) target: Target,
    pub(super) peers: Arc<super::Inner>,
    pub(super) budget: Arc<Budget>,
    pub(super) addressed: Addressed,
    pub(super) version: Option<Version>,
    pub(super) wait_for_ready: bool,
    /// The deadline of calls that set none.
    pub(super) deadline: Duration,
    /// Whether only what may be repeated is let through.
    pub(super) cast: bool,
}

#[derive(Clone)]
pub(super) enum Target {
    Any(ServiceKind, Arc<Pool>),
    Host(ServiceKind, HostName, Arc<Directed>),
}

impl Target {
    pub(super) fn service(&self) -> ServiceKind {
        match self {
            Self::Any(service, _) | Self::Host(service, _, _) => *service,
        }
    }

    /// A connection to call on; not the one to `avoid` if there is another. With `until`, waits for one that long.
    pub(super) async fn acquire(
        &self,
        until: Option<Instant>,
        avoid: Option<&Arc<Connection>>,
    ) -> Result<Arc<Connection>, Status> {
        match self {
            Self::Any(_, pool) => pool.acquire(until, avoid).await,
            Self::Host(service, host, directed) => directed.acquire(*service, host, until).await,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any(service, _) => write!(f, "any {service}"),
            Self::Host(service, host, _) => write!(f, "{service} {host}"),
        }
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({})", self.target)
    }
}

impl Channel {
    /// Calls wait until there is somebody to call, up to their deadline, instead of failing at once: gRPC's
    /// `wait_for_ready`.
    #[must_use]
    pub fn wait_for_ready(mut self) -> Self {
        self.wait_for_ready = true;
        self
    }

    /// Sets the deadline of calls that set none themselves.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Calls are meant for this incarnation of the host; another refuses them with `STALE_EPOCH`.
    #[must_use]
    pub fn at(mut self, epoch: Epoch) -> Self {
        self.addressed.set_epoch(epoch);
        self
    }

    /// Calls need this version of the interface. They are refused with `UNSUPPORTED_VERSION`, here while a member
    /// lives that does not implement it, and there by one that does not.
    #[must_use]
    pub fn needs(mut self, version: Version) -> Self {
        self.addressed.set_version(version);
        self.version = Some(version);
        self
    }

    /// Waits until there is somebody to call; at the deadline, fails as a call would.
    pub async fn wait_ready(&self, deadline: Instant) -> Result<(), Status> {
        self.target.acquire(Some(deadline), None).await.map(drop)
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<ReplyBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(super::call::dispatch(self.clone(), request))
    }
}
