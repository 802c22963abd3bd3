//! Health, and the end of a server: in order, and within its bound whatever is open.

use std::time::Duration;

use kilonova_model::Reason;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::capability::v1::WatchCapabilitiesRequest;
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_rpc::server::Stopped;
use kilonova_rpc::status::{from_status, reason_of};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::setup::*;

const SOON: Duration = Duration::from_secs(60);

fn health_of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn health_is_not_serving_until_told_and_from_the_stop_on() {
    let (server, _) = start().await;
    let mut client = HealthClient::new(channel(&server));
    for name in ["", BASE, CAPABILITY] {
        let answer = client.check(health_of(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::NotServing, "{name}");
    }
    let mut watched = client.watch(health_of(BASE)).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);

    server.health().set_serving(true);
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(client.check(health_of("")).await.unwrap().into_inner().status(), ServingStatus::Serving);

    assert_eq!(server.stop(SOON).await, Stopped::Drained);
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(reason_of(&watched.message().await.unwrap_err()), Some(Reason::Draining));
}

#[tokio::test]
async fn an_unknown_service_is_watched_and_not_refused() {
    let (server, _) = start().await;
    let mut client = HealthClient::new(channel(&server));
    assert_eq!(client.check(health_of("x.Y")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = client.watch(health_of("x.Y")).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    let next = timeout(Duration::from_millis(50), watched.message()).await;
    assert!(next.is_err(), "the stream stays open: {next:?}");
}

#[tokio::test]
async fn open_streams_end_with_draining_and_a_pause() {
    let (server, _) = start().await;
    let mut client = CapabilityServiceClient::new(channel(&server));
    let request = WatchCapabilitiesRequest::default();
    let mut stream = client.watch_capabilities(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());

    let begun = Instant::now();
    assert_eq!(server.stop(SOON).await, Stopped::Drained);
    assert!(begun.elapsed() < SOON / 2, "took {:?}", begun.elapsed());
    let status = stream.message().await.unwrap_err();
    let error = from_status(&status).expect("ErrorInfo");
    assert_eq!((status.code(), error.reason), (Code::Unavailable, Reason::Draining));
    assert!(error.retry_after.is_some());
}

#[tokio::test]
async fn streams_that_have_not_begun_end_too() {
    let (server, echo) = start().await;
    let mut stuck = echo.stuck.subscribe();
    let mut client = CapabilityServiceClient::new(channel(&server));
    let request = WatchCapabilitiesRequest { resume_token: "stuck".into(), ..Default::default() };
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.watch_capabilities(request).await.map(|_| ()) });
    stuck.wait_for(|stuck| *stuck == 1).await.unwrap();

    assert_eq!(server.stop(SOON).await, Stopped::Drained);
    let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::Draining));
}

#[tokio::test]
async fn calls_that_do_not_end_are_cut_at_the_bound() {
    let (server, echo) = start().await;
    let mut stuck = echo.stuck.subscribe();
    let mut client = BaseServiceClient::new(channel(&server));
    let mut calls = JoinSet::new();
    calls.spawn(async move { client.ping(ping("stuck")).await });
    stuck.wait_for(|stuck| *stuck == 1).await.unwrap();

    assert_eq!(server.stop(Duration::from_millis(200)).await, Stopped::Cut { calls: 1 });
    timeout(SOON, stuck.wait_for(|stuck| *stuck == 0)).await.expect("the handler is dropped").unwrap();
    assert!(calls.join_next().await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn half_open_connections_do_not_hold_the_stop_up() {
    let (server, _) = start().await;
    let silent = TcpStream::connect(server.address()).await.unwrap();
    let mut halfway = TcpStream::connect(server.address()).await.unwrap();
    halfway.write_all(b"PRI * HTTP/2.0").await.unwrap();
    let idle = Raw::connect(&server).await;
    // A call on a later connection: the earlier ones have been accepted by then.
    BaseServiceClient::new(channel(&server)).ping(ping("x")).await.unwrap();
    assert_eq!(server.load().connections(), 4);

    let load = server.load();
    let begun = Instant::now();
    assert_eq!(server.stop(SOON).await, Stopped::Drained);
    assert!(begun.elapsed() < SOON / 2, "took {:?}", begun.elapsed());
    assert_eq!(load.connections(), 0);
    drop((silent, halfway, idle));
}

#[tokio::test]
async fn every_service_is_listed_with_its_health() {
    let (server, _) = start().await;
    server.health().set_serving(true);
    let answer = Raw::connect(&server).await.call("/grpc.health.v1.Health/List", &[], &health_of("")).await;
    assert_eq!(answer.status().code(), Code::Ok);
    // Three names, each with SERVING: a map entry of the name and a message of one varint.
    let entry = |name: &str| 2 + if name.is_empty() { 0 } else { 2 + name.len() } + 4;
    let expected: usize = ["", BASE, CAPABILITY].into_iter().map(entry).sum();
    assert_eq!(answer.length, 5 + expected);
}
