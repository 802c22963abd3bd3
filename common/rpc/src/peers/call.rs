//! One call from its request to its reply, through as many attempts as it takes.
//!
//! ```text
//!   deadline ─► version ─► pick ─► send ─► reply ─┬─ OK ──────────────────────────► the caller
//!                           ▲                     ├─ failed for good ────────────► the caller
//!                           ├── nobody saw it ◄───┤
//!                           └── pause ◄───────────┴─ harmless, attempts and budget left
//! ```
//!
//! All of it runs against one timer. When that ends while an answer is awaited, the connection is suspected.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use kilonova_model::{Error, Reason, Version};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::body::Body;
use tonic::{Code, Status};

use super::body::{ReplyBody, Whole, connection_lost};
use super::channel::Channel;
use super::connection::{Connection, InFlight, SendError};
use super::http2;
use super::method::{self, CallMetrics, Method};
use super::outgoing::Outgoing;
use super::retry::{Failed, Pushback};
use crate::deadline::{self, Deadline};
use crate::outcome::{CallError, classify};
use crate::status::{never_sent, to_status};
use crate::wire::code_in;
use crate::wire::timeout::{self, GRPC_TIMEOUT};

/// How many members a call that no handler saw is offered to.
const OFFERS: u32 = 3;

/// By how much the clocks of the two ends of a deadline may differ. A tonic server says CANCELLED at its own end of it.
const CLOCKS: Duration = Duration::from_millis(10);

/// Makes a call and counts it.
pub(super) async fn dispatch(
    channel: Channel,
    request: Request<Body>,
) -> Result<Response<ReplyBody>, Status> {
    let method = method::lookup(request.uri().path());
    let asked = request.headers().get(GRPC_TIMEOUT).and_then(timeout::parse);
    let mut metrics = CallMetrics::start(method.clone());
    let left = Deadline::current().map(Deadline::remaining);
    let limit = deadline::allowed(Some(asked.unwrap_or(channel.deadline)), left, method.policy.timeout)
        .expect("the first of the limits is there");
    let deadline = metrics.started() + limit;
    let mut call = Call {
        channel: &channel,
        method: &method,
        timer: pin!(sleep_until(deadline)),
        deadline,
        limit,
        tells_limit: method.is_unary() || asked.is_some(),
    };
    match call.run(request).await {
        Ok(Reply::Whole(whole)) => {
            metrics.received(whole.messages());
            metrics.finish(code_in(whole.ending()).unwrap_or(Code::Unknown));
            Ok(whole.into_response())
        }
        Ok(Reply::Stream(response, in_flight)) => {
            let ends = asked.map(|_| Box::pin(sleep_until(deadline)));
            Ok(ReplyBody::stream(response, in_flight, metrics, ends))
        }
        Err(status) => {
            metrics.finish(status.code());
            Err(status)
        }
    }
}

/// What came of an attempt that got an answer.
enum Reply {
    Whole(Whole),
    Stream(Response<http2::Body>, InFlight),
}

impl Reply {
    /// Where a status stands, if the answer has one yet.
    fn ending(&self) -> &HeaderMap {
        match self {
            Self::Whole(whole) => whole.ending(),
            Self::Stream(response, _) => response.headers(),
        }
    }
}

/// Why an attempt got none.
enum Broken {
    /// The timer ended first.
    OutOfTime,
    NeverWritten(Status),
    /// The callee's end of the connection says that no handler saw it.
    NotProcessed(Status),
    Failed(Status),
}

struct Call<'a> {
    channel: &'a Channel,
    method: &'a Arc<Method>,
    timer: Pin<&'a mut Sleep>,
    deadline: Instant,
    limit: Duration,
    /// Whether the callee hears of the deadline: it would end a stream that is only to begin by then.
    tells_limit: bool,
}

impl Call<'_> {
    async fn run(&mut self, mut request: Request<Body>) -> Result<Reply, Status> {
        if self.limit.is_zero() {
            return Err(self.out_of_time(false));
        }
        self.check()?;
        self.channel.addressed.mark(request.headers_mut(), &self.channel.peers.identity);
        let Some(outgoing) = self.in_time(Outgoing::read(request)).await else {
            return Err(self.out_of_time(false));
        };
        self.until_answered(&outgoing?).await
    }

    /// Sends it as often as is harmless. If one attempt may have been executed and no later one says more, that
    /// attempt's status is the outcome: "not executed" would be a lie.
    async fn until_answered(&mut self, outgoing: &Outgoing) -> Result<Reply, Status> {
        let mut unclear = None;
        let result = self.attempts(outgoing, &mut unclear).await;
        let (Some(unclear), Some(status)) = (unclear, failure(&result)) else { return result };
        match classify(status) {
            CallError::NotExecuted(_) => Err(unclear),
            CallError::MaybeExecuted(_) | CallError::Refused(_) => result,
        }
    }

    async fn attempts(&mut self, outgoing: &Outgoing, unclear: &mut Option<Status>) -> Result<Reply, Status> {
        let budget = &self.channel.budget;
        let (mut made, mut offers) = (0, 0);
        let mut last: Option<Arc<Connection>> = None;
        loop {
            let connection = self.acquire(last.as_ref()).await?;
            made += 1;
            let limit = self.tells_limit.then(|| self.left());
            let result = self.attempt(&connection, outgoing.attempt(made, limit)).await;
            last = Some(connection);
            let (status, pushback, result) = match result {
                Ok(reply) => {
                    let ending = reply.ending();
                    match code_in(ending) {
                        Some(Code::Unavailable | Code::ResourceExhausted | Code::Unknown) => {
                            let status = Status::from_header_map(ending).expect("it has a code");
                            (status, Pushback::of(ending), Ok(reply))
                        }
                        Some(Code::Cancelled) if self.left() < CLOCKS => return Err(self.out_of_time(true)),
                        _ => {
                            budget.succeeded();
                            return Ok(reply);
                        }
                    }
                }
                Err(Broken::OutOfTime) => return Err(self.out_of_time(true)),
                Err(Broken::NeverWritten(status)) => {
                    // It takes no part in the count of attempts: nobody has seen it.
                    made -= 1;
                    offers += 1;
                    if offers < OFFERS {
                        continue;
                    }
                    return Err(status);
                }
                // Mostly a member that is leaving: another takes it, whatever the method promises (gRFC A6).
                Err(Broken::NotProcessed(_)) if offers + 1 < OFFERS => {
                    made -= 1;
                    offers += 1;
                    continue;
                }
                Err(Broken::NotProcessed(status) | Broken::Failed(status)) => {
                    (status.clone(), Pushback::None, Err(status))
                }
            };
            if let CallError::MaybeExecuted(status) = classify(status.clone()) {
                *unclear = Some(status);
            }
            let failed = Failed { method: self.method, status: &status, pushback, made, left: self.left() };
            let Some(pause) = failed.again(budget, rand::random()) else { return result };
            metrics::counter!("rpc_retries_total", "service" => self.channel.target.service().as_str())
                .increment(1);
            sleep(pause).await;
        }
    }

    async fn acquire(&mut self, avoid: Option<&Arc<Connection>>) -> Result<Arc<Connection>, Status> {
        let until = self.channel.wait_for_ready.then_some(self.deadline);
        let channel = self.channel;
        let is_unary = self.method.is_unary();
        let acquiring = async {
            let connection = channel.target.acquire(until, avoid).await?;
            Ok(if is_unary { connection.for_call() } else { connection.for_stream().await })
        };
        self.in_time(acquiring).await.unwrap_or_else(|| Err(self.out_of_time(false)))
    }

    async fn attempt(
        &mut self,
        connection: &Arc<Connection>,
        request: Request<Bytes>,
    ) -> Result<Reply, Broken> {
        let in_flight = connection.begin();
        let whole = self.method.is_unary();
        let exchange = async {
            let response = connection.send(request).await.map_err(|error| broken(connection, error))?;
            if whole {
                Whole::read(response, connection).await.map(Reply::Whole).map_err(Broken::Failed)
            } else {
                Ok(Reply::Stream(response, in_flight))
            }
        };
        self.in_time(exchange).await.unwrap_or_else(|| {
            connection.suspect();
            Err(Broken::OutOfTime)
        })
    }

    /// What a future gives, or none if the timer ends first.
    async fn in_time<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.timer.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Refuses what must not be sent at all.
    fn check(&self) -> Result<(), Status> {
        let Channel { target, version, cast, .. } = self.channel;
        if *cast && !self.method.idempotency.may_repeat() {
            let message = format!("{} cannot be cast: it may not be repeated", self.method.name);
            return Err(never_sent(&Error::new(Reason::Internal, message)));
        }
        let Some(needed) = *version else { return Ok(()) };
        match self.channel.peers.registry.members(target.service()).cap() {
            Some(cap) if !Version::v1(cap).understands(needed) => {
                let message = format!(
                    "{} needs version {needed}; {target} implements {}",
                    self.method.name,
                    Version::v1(cap)
                );
                let error = Error::new(Reason::UnsupportedVersion, message);
                Err(never_sent(&error.with("needed", needed).with("cap", Version::v1(cap))))
            }
            _ => Ok(()),
        }
    }

    fn out_of_time(&self, sent: bool) -> Status {
        let (name, target, limit) = (&self.method.name, &self.channel.target, self.limit);
        if sent {
            let message = format!("{name}: no answer from {target} within {limit:?}");
            to_status(&Error::new(Reason::DeadlineExceeded, message))
        } else {
            let message = format!("{name}: not sent to {target} within {limit:?}");
            never_sent(&Error::new(Reason::DeadlineExceeded, message))
        }
    }
}

/// The status of an attempt that did not go well.
fn failure(result: &Result<Reply, Status>) -> Option<Status> {
    match result {
        Err(status) => Some(status.clone()),
        Ok(reply) => match code_in(reply.ending()) {
            None | Some(Code::Ok) => None,
            Some(_) => Status::from_header_map(reply.ending()),
        },
    }
}

fn broken(connection: &Connection, error: SendError) -> Broken {
    let failed = |why: &str| {
        let Connection { service, host, addr, .. } = connection;
        let message = format!("{service} {host} at {addr} did not take the call: {why}");
        Error::new(Reason::ConnectFailed, message).with("service", service).with("host", host)
    };
    match error {
        SendError::NotSent(why) => Broken::NeverWritten(never_sent(&failed(&why))),
        SendError::NotProcessed(why) => Broken::NotProcessed(to_status(&failed(&why))),
        SendError::Lost(why) => Broken::Failed(connection_lost(connection, &why)),
    }
}
