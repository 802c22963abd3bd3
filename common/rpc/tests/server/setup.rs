//! A server of two services, and a client that can send what well-behaved clients would not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kilonova_model::{CellName, Epoch, HostName, ServiceKind, Version};
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_proto::base::v1::*;
use kilonova_proto::capability::v1::capability_service_server::{CapabilityService, CapabilityServiceServer};
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::*;
use kilonova_rpc::server::{Identity, Limits, Served, Server, ServerBuilder};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

pub const BASE: &str = "kilonova.base.v1.BaseService";
pub const CAPABILITY: &str = "kilonova.capability.v1.CapabilityService";

/// Echoes, or does what the payload says: `stuck` never answers, `panic` panics.
#[derive(Clone, Default)]
pub struct Echo {
    /// How many stuck handlers there are.
    pub stuck: Arc<watch::Sender<usize>>,
}

impl Echo {
    async fn get_stuck<T>(&self) -> T {
        self.stuck.send_modify(|stuck| *stuck += 1);
        let _stuck = Stuck(self.stuck.clone());
        std::future::pending().await
    }
}

struct Stuck(Arc<watch::Sender<usize>>);

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.send_modify(|stuck| *stuck -= 1);
    }
}

#[tonic::async_trait]
impl BaseService for Echo {
    async fn ping(&self, request: tonic::Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let payload = request.into_inner().payload;
        match payload.as_str() {
            "stuck" => self.get_stuck().await,
            "panic" => panic!("on purpose"),
            _ => Ok(Response::new(PingResponse { payload, host: "h".into() })),
        }
    }
}

/// Sends one heartbeat, then nothing; with the token `panic`, a panic; with `stuck`, never begins.
#[tonic::async_trait]
impl CapabilityService for Echo {
    async fn watch_capabilities(
        &self,
        request: tonic::Request<WatchCapabilitiesRequest>,
    ) -> Result<Response<BoxStream<WatchCapabilitiesResponse>>, Status> {
        let event = Some(Event::Heartbeat(Heartbeat {}));
        let first = WatchCapabilitiesResponse { event, ..Default::default() };
        let first = stream::once(async { Ok(first) });
        Ok(Response::new(match request.get_ref().resume_token.as_str() {
            "stuck" => self.get_stuck().await,
            "panic" => first.chain(stream::once(async { panic!("on purpose") })).boxed(),
            _ => first.chain(stream::pending()).boxed(),
        }))
    }

    async fn refresh_capabilities(
        &self,
        _: tonic::Request<RefreshCapabilitiesRequest>,
    ) -> Result<Response<RefreshCapabilitiesResponse>, Status> {
        Ok(Response::new(RefreshCapabilitiesResponse::default()))
    }
}

pub fn identity() -> Identity {
    Identity {
        service: ServiceKind::Compute,
        host: HostName::parse("h").unwrap(),
        cell: CellName::parse("test").unwrap(),
        version: Version::v1(0),
        epoch: watch::channel(Epoch(7)).1,
    }
}

pub fn builder(echo: &Echo) -> ServerBuilder {
    ServerBuilder::new(identity())
        .add(BaseServiceServer::new(echo.clone()), Served::only(BASE, &["Ping"]))
        .add(CapabilityServiceServer::new(echo.clone()), Served::all(CAPABILITY))
}

pub async fn serve(builder: ServerBuilder) -> Server {
    builder.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap()
}

pub async fn start() -> (Server, Echo) {
    let echo = Echo::default();
    (serve(builder(&echo)).await, echo)
}

pub fn small_messages() -> Limits {
    Limits { max_message_bytes: 64, ..Limits::default() }
}

pub fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
    endpoint.timeout(Duration::from_secs(20)).connect_lazy()
}

/// A client without manners.
pub struct Raw {
    sender: http2::SendRequest<Full<Bytes>>,
    _connection: JoinSet<()>,
}

/// What came back: the HTTP status, the body's length, and headers and trailers together.
pub struct Answer {
    pub http: u16,
    pub length: usize,
    pub headers: HeaderMap,
}

impl Answer {
    pub fn status(&self) -> Status {
        Status::from_header_map(&self.headers).expect("a gRPC status")
    }
}

impl Raw {
    pub async fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self { sender, _connection: driver }
    }

    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)], message: &impl Message) -> Answer {
        let mut body = vec![0];
        let encoded = message.encode_to_vec();
        body.extend((encoded.len() as u32).to_be_bytes());
        body.extend(encoded);
        let mut request = Request::post(format!("http://x{path}")).header("te", "trailers");
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap();
        let mut headers = head.headers;
        headers.extend(body.trailers().cloned().unwrap_or_default());
        Answer { http: head.status.as_u16(), length: body.to_bytes().len(), headers }
    }
}

pub fn ping(payload: &str) -> PingRequest {
    PingRequest { payload: payload.to_owned() }
}
