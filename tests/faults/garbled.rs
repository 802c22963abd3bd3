//! Error details that cannot be read, in every place where a status can stand.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Ready, ready};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::StreamBody;
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::instance_service_client::InstanceServiceClient;
use kilonova_proto::api::v1::quota_service_client::QuotaServiceClient;
use kilonova_rpc::peers::Peers;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::support::{Cell, SERVICE, ready as members_ready};

/// Where the status stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Headers,
    Trailers,
    AfterAMessage,
}

/// Answers every call with the same status and details that are not base64.
#[derive(Clone)]
struct Garbler<const QUOTAS: bool> {
    place: Place,
    code: Code,
    calls: Arc<AtomicU32>,
}

impl NamedService for Garbler<true> {
    const NAME: &'static str = "kilonova.api.v1.QuotaService";
}

impl NamedService for Garbler<false> {
    const NAME: &'static str = "kilonova.api.v1.InstanceService";
}

impl<const QUOTAS: bool> tower::Service<http::Request<Body>> for Garbler<QUOTAS> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut status = HeaderMap::new();
        status.insert("grpc-status", HeaderValue::from(self.code as i32));
        status.insert("grpc-message", HeaderValue::from_static("garbled"));
        status.insert("grpc-status-details-bin", HeaderValue::from_static("!!! not base64 !!!"));
        let mut frames: Vec<Result<Frame<Bytes>, tonic::Status>> = Vec::new();
        if self.place == Place::AfterAMessage {
            frames.push(Ok(Frame::data(Bytes::from_static(&[0; 5]))));
        }
        let mut response = if self.place == Place::Headers {
            let mut response = http::Response::new(Body::empty());
            *response.headers_mut() = status;
            response
        } else {
            frames.push(Ok(Frame::trailers(status)));
            http::Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))))
        };
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        ready(Ok(response))
    }
}

/// A member that garbles, and who calls it.
struct Garbled {
    calls: Arc<AtomicU32>,
    peers: Peers,
    _cell: Cell,
    _registration: kilonova_rpc::registry::Registration,
    _server: JoinSet<()>,
}

async fn garbled(place: Place, code: Code) -> Garbled {
    let calls = Arc::<AtomicU32>::default();
    let quotas = Garbler::<true> { place, code, calls: calls.clone() };
    let instances = Garbler::<false> { place, code, calls: calls.clone() };
    let (_reporter, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(quotas).add_service(instances).add_service(health);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming).await.unwrap();
    });
    let cell = Cell::new();
    let registration = cell.register("garbler", &addr).await;
    let peers = cell.peers();
    drop(peers.call(SERVICE));
    members_ready(&peers, 1).await;
    Garbled { calls, peers, _cell: cell, _registration: registration, _server: server }
}

#[tokio::test]
async fn a_call_that_is_tried_again_survives_it_every_time() {
    for place in [Place::Headers, Place::Trailers] {
        let garbled = garbled(place, Code::Unavailable).await;
        let channel = garbled.peers.call(SERVICE).within(Duration::from_secs(10));
        let asked = QuotaServiceClient::new(channel).get_quota(api::GetQuotaRequest::default()).await;
        let status = asked.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "garbled"), "{place:?}");
        assert!(status.details().is_empty());
        assert_eq!(garbled.calls.load(Ordering::Relaxed), 3, "it was tried as often as it may: {place:?}");
    }
}

#[tokio::test]
async fn a_stream_survives_it_at_its_beginning_and_at_its_end() {
    for place in [Place::Headers, Place::Trailers, Place::AfterAMessage] {
        let garbled = garbled(place, Code::FailedPrecondition).await;
        let mut client = InstanceServiceClient::new(garbled.peers.call(SERVICE));
        let opened = client.watch_instances(api::WatchInstancesRequest::default()).await;
        let status = match opened {
            Err(status) => status,
            Ok(stream) => {
                let mut stream = stream.into_inner();
                if place == Place::AfterAMessage {
                    assert!(stream.message().await.unwrap().is_some());
                }
                stream.message().await.unwrap_err()
            }
        };
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "garbled"), "{place:?}");
        assert!(status.details().is_empty());
    }
}
