//! What generated clients call through: picks a connection, puts a deadline on the call, says who calls,
//! counts, and turns whatever fails into a typed status.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use kilonova_model::{Error, HostName, Reason, ServiceKind};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;

use super::body::{ReplyBody, connection_lost};
use super::connection::{Connection, SendError};
use super::directed::Directed;
use super::method::{self, Kind};
use super::metrics::CallMetrics;
use super::pool::Pool;
use crate::caller::{CALLER_HOST, CALLER_SERVICE};
use crate::status::{never_sent, to_status};
use crate::wire::timeout::{self, GRPC_TIMEOUT};

/// How many members a call that never left is offered to.
const OFFERS: u32 = 3;

/// A callee for generated clients: any ready member of a service, or one named host. Cheap to clone.
///
/// A unary call ends, one way or the other, by its deadline: that of `Request::set_timeout`, else the default.
/// A streaming call must begin by then; only one with `set_timeout` must also end by then.
#[derive(Clone)]
pub struct Channel {
    pub(super) target: Target,
    pub(super) peers: Arc<super::Inner>,
}

/// What every call of this process carries.
pub(super) struct Identity {
    pub(super) service: HeaderValue,
    pub(super) host: HeaderValue,
    pub(super) default_deadline: Duration,
}

#[derive(Clone)]
pub(super) enum Target {
    Any(ServiceKind, Arc<Pool>),
    Host(ServiceKind, HostName, Arc<Directed>),
}

impl Target {
    async fn acquire(&self) -> Result<Arc<Connection>, Status> {
        match self {
            Self::Any(_, pool) => pool.acquire().await,
            Self::Host(service, host, directed) => directed.acquire(*service, host).await,
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

/// The deadline of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    after: Duration,
    /// It goes over the wire, and covers the body.
    whole_call: bool,
}

/// The deadline of a call: the caller's, or the default.
fn limit_of(asked: Option<Duration>, kind: Option<Kind>, default: Duration) -> Limit {
    match asked {
        Some(after) => Limit { after, whole_call: true },
        None => Limit { after: default, whole_call: kind == Some(Kind::Unary) },
    }
}

impl Channel {
    /// Waits until there is somebody to call; at the deadline, fails as a call would.
    pub async fn wait_ready(&self, deadline: Instant) -> Result<(), Status> {
        match &self.target {
            Target::Any(_, pool) => pool.wait_ready(deadline).await,
            Target::Host(service, host, directed) => directed.wait_ready(*service, host, deadline).await,
        }
    }

    async fn dispatch(self, mut request: Request<Body>) -> Result<Response<ReplyBody>, Status> {
        let method = method::lookup(request.uri().path());
        let identity = &self.peers.identity;
        let asked = request.headers().get(GRPC_TIMEOUT).and_then(timeout::parse);
        let limit = limit_of(asked, method.kind, identity.default_deadline);
        let mut metrics = CallMetrics::start(method);
        let result = if limit.after.is_zero() {
            Err(self.deadline_exceeded(&metrics, limit, false))
        } else {
            let headers = request.headers_mut();
            headers.insert(CALLER_SERVICE, identity.service.clone());
            headers.insert(CALLER_HOST, identity.host.clone());
            if limit.whole_call && asked.is_none() {
                headers.insert(GRPC_TIMEOUT, timeout::format(limit.after));
            }
            let mut timer = Box::pin(sleep_until(Instant::now() + limit.after));
            let sent = AtomicBool::new(false);
            let exchange = tokio::select! {
                biased;
                exchange = self.exchange(request, &sent) => exchange,
                () = timer.as_mut() => {
                    Err(self.deadline_exceeded(&metrics, limit, sent.load(Ordering::Relaxed)))
                }
            };
            exchange.map(|(response, in_flight)| (response, in_flight, limit.whole_call.then_some(timer)))
        };
        match result {
            Ok((response, in_flight, timer)) => Ok(ReplyBody::counted(response, in_flight, metrics, timer)),
            Err(status) => {
                metrics.finish(status.code());
                Err(status)
            }
        }
    }

    /// Sends the request to one member; to another if it never left for the first.
    async fn exchange(
        &self,
        mut request: Request<Body>,
        sent: &AtomicBool,
    ) -> Result<(Response<hyper::body::Incoming>, super::connection::InFlight), Status> {
        let mut offers = 0;
        loop {
            let connection = self.target.acquire().await?;
            let in_flight = connection.begin();
            sent.store(true, Ordering::Relaxed);
            match connection.send(request).await {
                Ok(response) => return Ok((response, in_flight)),
                Err(SendError::NotSent(returned, why)) => {
                    sent.store(false, Ordering::Relaxed);
                    offers += 1;
                    if offers >= OFFERS {
                        return Err(never_sent(&connect_failed(&connection, &why)));
                    }
                    request = *returned;
                }
                Err(SendError::NotProcessed(why)) => {
                    return Err(to_status(&connect_failed(&connection, &why)));
                }
                Err(SendError::Lost(why)) => return Err(connection_lost(&connection, &why)),
            }
        }
    }

    fn deadline_exceeded(&self, metrics: &CallMetrics, limit: Limit, sent: bool) -> Status {
        let (name, target, after) = (&metrics.method().name, &self.target, limit.after);
        if sent {
            let message = format!("{name}: no answer from {target} within {after:?}");
            to_status(&Error::new(Reason::DeadlineExceeded, message))
        } else {
            let message = format!("{name}: not sent to {target} within {after:?}");
            never_sent(&Error::new(Reason::DeadlineExceeded, message))
        }
    }
}

fn connect_failed(connection: &Connection, why: &str) -> Error {
    let Connection { service, host, addr, .. } = connection;
    let message = format!("{service} {host} at {addr} did not take the call: {why}");
    Error::new(Reason::ConnectFailed, message).with("service", service).with("host", host)
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<ReplyBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().dispatch(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_deadline_covers_unary_calls_and_the_start_of_streams() {
        let (default, asked) = (Duration::from_secs(10), Duration::from_secs(1));
        let whole = |asked, kind| limit_of(asked, kind, default);
        assert_eq!(whole(None, Some(Kind::Unary)), Limit { after: default, whole_call: true });
        assert_eq!(whole(None, Some(Kind::ServerStream)), Limit { after: default, whole_call: false });
        assert_eq!(whole(None, None), Limit { after: default, whole_call: false });
        assert_eq!(whole(Some(asked), Some(Kind::ServerStream)), Limit { after: asked, whole_call: true });
    }
}
