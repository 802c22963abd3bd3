//! The health of one member, watched by `grpc.health.v1.Health/Watch` for the empty service name.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Request, Response};
use kilonova_proto::codec::MessageCodec;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::body::ReplyBody;
use super::connection::{Connection, SendError};
use super::outgoing::Outgoing;

/// What a member says of itself, followed.
pub(crate) enum HealthWatch {
    Stream(Box<Streaming<HealthCheckResponse>>),
    /// The member has no health service: it serves as long as it is connected.
    Unimplemented,
}

impl HealthWatch {
    /// Asks, and waits for the first answer.
    pub(crate) async fn open(connection: &Arc<Connection>) -> Result<(Self, bool), String> {
        // The library's own client would keep a buffer of 8 KiB for as long as the connection lives.
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Watch");
        let codec = MessageCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        let mut client = Grpc::new(Bare(connection.clone()));
        let mut stream = match client.server_streaming(question(), path, codec).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => return Ok((Self::Unimplemented, true)),
            Err(status) => return Err(format!("health check failed: {}", status.message())),
        };
        match stream.message().await {
            Ok(Some(answer)) => Ok((Self::Stream(Box::new(stream)), is_serving(&answer))),
            Ok(None) => Err("health check ended without an answer".to_owned()),
            Err(status) if status.code() == Code::Unimplemented => Ok((Self::Unimplemented, true)),
            Err(status) => Err(format!("health check failed: {}", status.message())),
        }
    }

    /// Waits for the next answer.
    pub(crate) async fn next(&mut self) -> Result<bool, String> {
        match self {
            Self::Stream(stream) => match stream.message().await {
                Ok(Some(answer)) => Ok(is_serving(&answer)),
                Ok(None) => Err("health watch ended".to_owned()),
                Err(status) => Err(format!("health watch ended: {}", status.message())),
            },
            Self::Unimplemented => std::future::pending().await,
        }
    }
}

/// Whether the member answers anything at all within `limit`.
pub(crate) async fn is_there(connection: &Arc<Connection>, limit: Duration) -> bool {
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = MessageCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let mut client = Grpc::new(Bare(connection.clone()));
    let asked = client.unary(question(), path, codec);
    match timeout(limit, asked).await {
        Ok(Ok(_)) => true,
        // Any status of the peer's own is an answer.
        Ok(Err(status)) => status.code() != Code::Unavailable,
        Err(_) => false,
    }
}

fn question() -> tonic::Request<HealthCheckRequest> {
    tonic::Request::new(HealthCheckRequest { service: String::new() })
}

fn is_serving(answer: &HealthCheckResponse) -> bool {
    answer.status == i32::from(ServingStatus::Serving)
}

/// Sends on one connection, whatever its health.
#[derive(Clone)]
struct Bare(Arc<Connection>);

impl tower::Service<Request<Body>> for Bare {
    type Response = Response<ReplyBody>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let connection = self.0.clone();
        Box::pin(async move {
            let request = Outgoing::read(request).await?.attempt(1, None);
            match connection.send(request).await {
                Ok(response) => Ok(ReplyBody::bare(response, connection)),
                Err(SendError::NotSent(text) | SendError::NotProcessed(text) | SendError::Lost(text)) => {
                    Err(Status::unavailable(text))
                }
            }
        })
    }
}
