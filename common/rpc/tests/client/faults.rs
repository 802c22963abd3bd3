//! Deadlines and peers that answer what they should not.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Ready, ready};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::status::reason_of;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request};

use crate::support::{Cell, Server, ping, ping_with, soon};

const SERVICE: ServiceKind = ServiceKind::Scheduler;

#[tokio::test]
async fn a_deadline_is_deadline_exceeded() {
    let cell = Cell::new();
    let server = Server::echo("s").await;
    let _s = cell.register(SERVICE, "s", &server.addr).await;
    let peers = cell.peers_with(|options| options.default_deadline = Duration::from_millis(400));
    let channel = peers.call(SERVICE);
    channel.wait_ready(soon()).await.unwrap();

    let by_default = ping_with(&channel, "hang").await.unwrap_err();
    let mut request = Request::new(base::PingRequest { payload: "hang".into() });
    request.set_timeout(Duration::from_millis(300));
    let asked = BaseServiceClient::new(channel.clone()).ping(request).await.unwrap_err();
    for status in [by_default, asked] {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(matches!(classify(status), CallError::MaybeExecuted(_)));
    }

    let mut request = Request::new(base::PingRequest::default());
    request.set_timeout(Duration::ZERO);
    let over = BaseServiceClient::new(channel.clone()).ping(request).await.unwrap_err();
    assert_eq!(reason_of(&over), Some(Reason::DeadlineExceeded));
    assert!(matches!(classify(over), CallError::NotExecuted(_)));
    assert_eq!(ping(&channel).await.unwrap(), "s");
}

/// Answers every call with details that are not base64.
#[derive(Clone)]
struct Garbler {
    in_trailers: bool,
}

impl NamedService for Garbler {
    const NAME: &'static str = "kilonova.base.v1.BaseService";
}

impl tower::Service<http::Request<Body>> for Garbler {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from_static("9"));
        status.insert("grpc-message", HeaderValue::from_static("garbled"));
        status.insert("grpc-status-details-bin", HeaderValue::from_static("!!! not base64 !!!"));
        let mut response = if self.in_trailers {
            let trailers = Ok::<_, tonic::Status>(Frame::<Bytes>::trailers(status));
            http::Response::new(Body::new(StreamBody::new(tokio_stream::once(trailers))))
        } else {
            let mut response = http::Response::new(Body::empty());
            *response.headers_mut() = status;
            response
        };
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

#[tokio::test]
async fn malformed_error_details_do_not_panic() {
    for in_trailers in [false, true] {
        let cell = Cell::new();
        let server = Server::start(Routes::new(Garbler { in_trailers }), true).await;
        server.set_serving(true).await;
        let _s = cell.register(SERVICE, "s", &server.addr).await;
        let channel = cell.peers().call(SERVICE);
        channel.wait_ready(soon()).await.unwrap();
        let status = ping(&channel).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "garbled"));
        assert!(status.details().is_empty());
    }
}
