//! One call, from its headers to its body.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use kilonova_model::{Error, Reason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tracing::Instrument;

use super::addressed;
use super::admission::{Admission, Peer, Permit};
use super::body::{RequestBody, ResponseBody, draining};
use super::builder::Identity;
use super::deadline;
use super::gate::{Gate, Method};
use super::observe::Observer;
use crate::deadline::{Deadline, scope};
use crate::peers::PUSHBACK;
use crate::status::to_status;
use crate::wire::code_in;
use crate::wire::method::MethodType;

/// What all calls of a server share.
pub(super) struct Core {
    pub identity: Arc<Identity>,
    pub gate: Gate,
    pub admission: Arc<Admission>,
    pub longest_message: usize,
    /// For unary calls whose callers set no deadline.
    pub longest_call: Duration,
    pub streams_end: CancellationToken,
    /// The calls in progress, and the handlers that outlive their callers.
    pub calls: TaskTracker,
    /// Ends those handlers when the time to drain is over.
    pub cut: CancellationToken,
}

/// Who is at the two ends of a connection.
#[derive(Debug)]
pub(super) struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// What the peer has in progress.
    pub load: Arc<Peer>,
}

impl Core {
    pub async fn call(&self, ends: &Ends, request: Request<Incoming>) -> Response<ResponseBody> {
        let method = self.gate.find(request.uri().path()).clone();
        let timeout = deadline::allowed(request.headers());
        let allowed = timeout.as_ref().ok().copied().flatten();
        let observer = Observer::start(
            method.clone(),
            &self.identity,
            ends.peer,
            request.headers(),
            allowed,
            self.calls.token(),
        );
        if !is_grpc(&request) {
            return not_grpc(observer);
        }
        let Some(handler) = &method.handler else {
            return refuse(&self.gate.refusal(request.uri().path()), observer);
        };
        let left = match timeout {
            Err(error) => return refuse(&error, observer),
            Ok(Some(left)) if left.is_zero() => return refuse(&deadline::expired(), observer),
            Ok(left) => left.or_else(|| (method.shape == MethodType::Unary).then_some(self.longest_call)),
        };
        let deadline = left.map(|left| Deadline(Instant::now() + left));
        let admitted = addressed::check(request.headers(), &self.identity)
            .and_then(|()| self.admission.admit(method.class, method.kind(), &ends.load));
        let permit = match admitted {
            Ok(permit) => permit,
            Err(error) => return refuse(&error, observer),
        };

        let request = self.prepare(request, ends, deadline, &observer);
        match self.answer(&method, handler(request), deadline, permit).await {
            Ok((answer, permit)) => self.watch(answer, observer, deadline, permit),
            Err(error) => refuse(&error, observer),
        }
    }

    /// The handler's answer, unless the handler panics, time runs out, or streams end before it has one. The permit
    /// stays with the handler for as long as it runs.
    async fn answer(
        &self,
        method: &Method,
        handler: BoxFuture<'static, Response<Body>>,
        deadline: Option<Deadline>,
        permit: Permit,
    ) -> Result<(Response<Body>, Permit), Error> {
        let out_of_time = async {
            match deadline {
                Some(Deadline(at)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let streams_end = async {
            match method.shape.server_streams() {
                true => self.streams_end.cancelled().await,
                false => std::future::pending().await,
            }
        };
        let handler = AssertUnwindSafe(scope(deadline, handler)).catch_unwind();
        let handling = async move { (handler.await, permit) };
        let answered =
            async { if method.outlives_caller { self.apart(handling).await } else { handling.await } };
        tokio::select! {
            biased;
            answered = answered => {
                let (answer, permit) = answered;
                answer.map(|answer| (answer, permit)).map_err(|panic| panicked(&method.path, &*panic))
            }
            () = out_of_time => Err(deadline::exceeded()),
            () = streams_end => Err(draining()),
        }
    }

    /// Runs a handler as a task of the server's, which goes on when nobody waits for it any longer. Where that task
    /// is cut, so is the connection: the caller hears that it broke, and asks another member what may be repeated.
    async fn apart<T: Send + 'static>(&self, handling: impl Future<Output = T> + Send + 'static) -> T {
        let cut = self.cut.clone();
        let work = async move {
            tokio::select! {
                biased;
                done = handling => Some(done),
                () = cut.cancelled() => None,
            }
        };
        match self.calls.spawn(work.in_current_span()).await {
            Ok(Some(done)) => done,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    fn prepare(
        &self,
        request: Request<Incoming>,
        ends: &Ends,
        deadline: Option<Deadline>,
        observer: &Observer,
    ) -> Request<Body> {
        let mut request = request
            .map(|body| Body::new(RequestBody::new(body, observer.method().clone(), self.longest_message)));
        let info = TcpConnectInfo { local_addr: Some(ends.local), remote_addr: Some(ends.peer) };
        request.extensions_mut().insert(info);
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        request
    }

    fn watch(
        &self,
        answer: Response<Body>,
        observer: Observer,
        deadline: Option<Deadline>,
        permit: Permit,
    ) -> Response<ResponseBody> {
        let (head, body) = answer.into_parts();
        if let Some(code) = code_in(&head.headers) {
            return Response::from_parts(head, ResponseBody::finished(code, observer));
        }
        let streams = observer.method().shape.server_streams();
        let streams_end = streams.then(|| self.streams_end.clone());
        let body =
            ResponseBody::new(body, observer, self.longest_message, deadline, streams_end, Some(permit));
        Response::from_parts(head, body)
    }
}

/// An answer of headers alone.
fn refuse(error: &Error, observer: Observer) -> Response<ResponseBody> {
    let status = to_status(error);
    let code = status.code();
    let (mut head, ()) = status.into_http::<()>().into_parts();
    if let (Reason::Overloaded, Some(pause)) = (error.reason, error.retry_after) {
        head.headers.insert(PUSHBACK, (pause.as_millis() as u64).into());
    }
    Response::from_parts(head, ResponseBody::finished(code, observer))
}

/// grpc-web shares the beginning of gRPC's content type and nothing of its framing.
fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

fn not_grpc(observer: Observer) -> Response<ResponseBody> {
    let body = ResponseBody::finished(tonic::Code::InvalidArgument, observer);
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    answer
}

/// What the caller of a handler that panicked hears; the log hears more.
pub(super) fn panicked(path: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)");
    tracing::error!(method = path, panic = text, "handler panicked");
    metrics::counter!("kilonova_rpc_panics_total", "grpc_method" => path.to_owned()).increment(1);
    Error::new(Reason::Internal, "the handler failed; the request may have been done").with("method", path)
}
