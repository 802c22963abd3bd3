//! The calls of this benchmark, over any channel: a flat one, and one of nested messages.
//!
//! Both are answered with the very message that came, as the peer's are. No method of ours answers with its own request,
//! so client and server of the nested call, under the name of `SchedulerService/SelectHosts`, are put together here
//! from tonic's parts, as generated code does it.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use http_body::Body;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::BaseService;
use kilonova_proto::base::v1::{PingRequest, PingResponse};
use kilonova_proto::codec::MessageCodec;
use tokio::time::Instant;
use tonic::body::Body as TonicBody;
use tonic::client::{Grpc as ClientGrpc, GrpcService};
use tonic::codegen::StdError;
use tonic::server::{Grpc as ServerGrpc, NamedService};
use tonic::{Request, Response, Status};
use tower::{Service, service_fn};

use crate::messages;

/// Answers a flat call.
pub struct Flat;

#[tonic::async_trait]
impl BaseService for Flat {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let payload = request.into_inner().payload;
        Ok(Response::new(PingResponse { payload, host: String::new() }))
    }
}

/// Answers a nested call.
#[derive(Clone)]
pub struct Nested;

impl NamedService for Nested {
    const NAME: &'static str = "kilonova.scheduler.v1.SchedulerService";
}

impl<B> Service<http::Request<B>> for Nested
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<TonicBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let echo = service_fn(async |request: Request<messages::Nested>| {
                Ok::<_, Status>(Response::new(request.into_inner()))
            });
            let codec = MessageCodec::<messages::Nested, messages::Nested>::default();
            Ok(ServerGrpc::new(codec).unary(echo, request).await)
        })
    }
}

/// A channel these calls can go over.
pub trait Calls:
    GrpcService<
        TonicBody,
        Error: Into<StdError> + Send,
        ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        Future: Send,
    > + Clone
    + Send
    + 'static
{
}

impl<C> Calls for C where
    C: GrpcService<
            TonicBody,
            Error: Into<StdError> + Send,
            ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
            Future: Send,
        > + Clone
        + Send
        + 'static
{
}

/// Flat calls until this moment, and how long each took.
pub async fn flat<C: Calls>(channel: C, end: Instant) -> Vec<Duration> {
    let mut client = BaseServiceClient::new(channel);
    let request = messages::flat();
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let answer = client.ping(request.clone()).await.expect("an answer");
        times.push(start.elapsed());
        assert_eq!(answer.get_ref().payload, request.payload);
    }
    times
}

/// Nested calls until this moment, and how long each took.
pub async fn nested<C: Calls>(channel: C, end: Instant) -> Vec<Duration> {
    let mut client = ClientGrpc::new(channel);
    let request = messages::nested();
    let path = PathAndQuery::from_static("/kilonova.scheduler.v1.SchedulerService/SelectHosts");
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        client.ready().await.map_err(Into::into).expect("a ready channel");
        let codec = MessageCodec::<messages::Nested, messages::Nested>::default();
        let answer = client.unary(Request::new(request.clone()), path.clone(), codec).await;
        let answer = answer.expect("an answer").into_inner();
        times.push(start.elapsed());
        assert_eq!(answer.retry, request.retry);
    }
    times
}
