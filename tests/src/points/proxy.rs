//! A gRPC proxy in front of one member, which sees the path of every call and spoils one. It knows nothing of the
//! messages: bodies pass as they are, so that streams pass too.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kilonova_model::ServiceKind;
use kilonova_rpc::caller::{CALLER_HOST, CALLER_SERVICE};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Fault, Place, Points};
use crate::cluster::MemberId;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type Upstream = SendRequest<Body>;

/// Stands in front of one member. Its connections end with those behind it, as the member's own would.
#[derive(Debug)]
pub struct PointProxy {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _task: JoinSet<()>,
}

impl PointProxy {
    /// Listens for a member's callers, and leads them nowhere yet.
    pub async fn start(member: MemberId, points: Arc<Points>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (target, way) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, way, Arc::new(Behind { member, points, late: Mutex::default() })));
        Ok(Self { address, target, _task: task })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Where the member listens now; none while it is dead.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

/// Who is behind a proxy.
struct Behind {
    member: MemberId,
    points: Arc<Points>,
    late: Mutex<JoinSet<()>>,
}

async fn accept(listener: TcpListener, way: watch::Receiver<Option<SocketAddr>>, behind: Arc<Behind>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(serve(connection, way.clone(), behind.clone()));
    }
}

async fn serve(connection: TcpStream, mut way: watch::Receiver<Option<SocketAddr>>, behind: Arc<Behind>) {
    let Some(target) = *way.borrow_and_update() else { return };
    let Ok(onward) = TcpStream::connect(target).await else { return };
    let _ = (connection.set_nodelay(true), onward.set_nodelay(true));
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(onward));
    let Ok((upstream, driver)) = client.await else { return };
    let service = service_fn(move |request| {
        let (behind, upstream) = (behind.clone(), upstream.clone());
        async move { behind.pass(request, upstream).await }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ = server.serve_connection(TokioIo::new(connection), service) => {}
        _ = driver => {}
        _ = way.changed() => {}
    }
}

/// What a call is counted as.
fn place(path: &str) -> Option<Place> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    let reads = method.starts_with("Get") || method == "SetHostEnabled";
    match service {
        "kilonova.compute.v1.ComputeService" | "kilonova.volume.v1.VolumeService" if !reads => {
            Some(Place::Command)
        }
        "kilonova.scheduler.v1.SchedulerService" if method.starts_with("Select") => Some(Place::Command),
        "kilonova.conductor.v1.ReportService" if method.starts_with("Report") => Some(Place::Report),
        _ => None,
    }
}

/// The member that calls.
fn caller(request: &Request<Incoming>) -> Option<MemberId> {
    let text = |key| request.headers().get(key).and_then(|value: &HeaderValue| value.to_str().ok());
    Some((text(CALLER_SERVICE)?.parse::<ServiceKind>().ok()?, text(CALLER_HOST)?.to_owned()))
}

impl Behind {
    async fn pass(
        &self,
        request: Request<Incoming>,
        upstream: Upstream,
    ) -> Result<Response<Body>, hyper::Error> {
        let path = request.uri().path().to_owned();
        let Some(place) = place(&path) else {
            return forward(upstream, request.map(BodyExt::boxed_unsync)).await;
        };
        let caller = caller(&request);
        let who = caller.as_ref().map_or("?", |(_, host)| host.as_str()).to_owned();
        let (_, me) = &self.member;
        let due = self.points.next(place, || format!("{who} -> {me} {path}"));
        let Some(fault) = due else { return forward(upstream, request.map(BodyExt::boxed_unsync)).await };
        // Of a report, the agent is the one who calls.
        let agent = match place {
            Place::Report => caller.clone().unwrap_or_else(|| self.member.clone()),
            _ => self.member.clone(),
        };
        let conductor = match place {
            Place::Report => self.member.clone(),
            _ => caller.unwrap_or_else(|| self.member.clone()),
        };
        match fault {
            Fault::Refuse => return Ok(unavailable()),
            Fault::CrashBefore => return self.points.crash(agent).await,
            _ => {}
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let whole = || Request::from_parts(parts.clone(), full(body.clone()));
        if fault == Fault::Late {
            let (points, request) = (self.points.clone(), whole());
            self.late.lock().spawn(async move {
                // The member may have died meanwhile, and it never arrives.
                let _ = points.be_late(forward(upstream, request)).await;
            });
            return Ok(lost());
        }
        let mut answer = forward(upstream.clone(), whole()).await?;
        match fault {
            Fault::Twice => {
                // The first answer is read to its end: a call that its caller leaves is cut.
                answer.body_mut().collect().await?;
                forward(upstream, whole()).await
            }
            Fault::CrashAfter => {
                answer.body_mut().collect().await?;
                self.points.crash(agent).await
            }
            Fault::CrashCaller => {
                answer.body_mut().collect().await?;
                self.points.crash(conductor).await
            }
            _ => {
                answer.body_mut().collect().await?;
                Ok(lost())
            }
        }
    }
}

async fn forward(mut upstream: Upstream, request: Request<Body>) -> Result<Response<Body>, hyper::Error> {
    upstream.ready().await?;
    let answer = upstream.send_request(request).await?;
    Ok(answer.map(BodyExt::boxed_unsync))
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(never).boxed_unsync()
}

fn empty() -> Body {
    Empty::new().map_err(never).boxed_unsync()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

/// As a member that cannot take it says.
fn unavailable() -> Response<Body> {
    let mut response = Response::new(empty());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("grpc-status", HeaderValue::from_static("14"));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static("made to fail"));
    response
}

/// An answer that ends before it says how the call ended: to its caller the stream was cut.
fn lost() -> Response<Body> {
    let mut response = Response::new(empty());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}
