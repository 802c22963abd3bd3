//! One call, from its headers to its body.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

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

use super::body::{RequestBody, ResponseBody, draining};
use super::builder::Identity;
use super::deadline::{self, Deadline};
use super::gate::{Gate, Method};
use super::observe::Observer;
use crate::status::to_status;
use crate::wire::code_in;

/// What all calls of a server share.
pub(super) struct Core {
    pub identity: Arc<Identity>,
    pub gate: Gate,
    pub longest_message: usize,
    pub streams_end: CancellationToken,
    /// The calls in progress.
    pub calls: TaskTracker,
}

/// Who is at the two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

impl Core {
    pub async fn call(&self, ends: Ends, request: Request<Incoming>) -> Response<ResponseBody> {
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
        let deadline = match timeout {
            Err(error) => return refuse(&error, observer),
            Ok(Some(left)) if left.is_zero() => return refuse(&deadline::expired(), observer),
            Ok(left) => left.map(|left| Deadline(Instant::now() + left)),
        };

        let request = self.prepare(request, ends, deadline, &observer);
        match self.answer(&method, handler(request), deadline).await {
            Ok(answer) => self.watch(answer, observer, deadline),
            Err(error) => refuse(&error, observer),
        }
    }

    /// The handler's answer, unless the handler panics, time runs out, or streams end before it has one.
    async fn answer(
        &self,
        method: &Method,
        handler: BoxFuture<'static, Response<Body>>,
        deadline: Option<Deadline>,
    ) -> Result<Response<Body>, Error> {
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
        tokio::select! {
            biased;
            answer = AssertUnwindSafe(handler).catch_unwind() => {
                answer.map_err(|panic| panicked(&method.path, &*panic))
            }
            () = out_of_time => Err(deadline::exceeded()),
            () = streams_end => Err(draining()),
        }
    }

    fn prepare(
        &self,
        request: Request<Incoming>,
        ends: Ends,
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
    ) -> Response<ResponseBody> {
        let (head, body) = answer.into_parts();
        if let Some(code) = code_in(&head.headers) {
            return Response::from_parts(head, ResponseBody::finished(code, observer));
        }
        let streams = observer.method().shape.server_streams();
        let streams_end = streams.then(|| self.streams_end.clone());
        let body = ResponseBody::new(body, observer, self.longest_message, deadline, streams_end);
        Response::from_parts(head, body)
    }
}

/// An answer of headers alone.
fn refuse(error: &Error, observer: Observer) -> Response<ResponseBody> {
    let status = to_status(error);
    let code = status.code();
    let (head, ()) = status.into_http::<()>().into_parts();
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
