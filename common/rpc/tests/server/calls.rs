//! One call at a time: what is refused, what runs out of time, what fails.

use kilonova_model::Reason;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::{GetServiceInfoRequest, PingRequest};
use kilonova_proto::capability::v1::WatchCapabilitiesRequest;
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::server::Served;
use kilonova_rpc::status::{from_status, reason_of};
use tonic::Code;

use crate::setup::*;

#[tokio::test]
async fn served_methods_answer() {
    let (server, _) = start().await;
    let mut client = BaseServiceClient::new(channel(&server));
    let answer = client.ping(ping("hello")).await.unwrap();
    assert!(answer.metadata().contains_key("date"), "clients compare clocks by it");
    assert_eq!(answer.into_inner().payload, "hello");
}

#[tokio::test]
async fn what_is_not_served_says_so() {
    let (server, _) = start().await;
    let mut unserved_method = BaseServiceClient::new(channel(&server));
    let mut unserved_service = VolumeServiceClient::new(channel(&server));
    let refusals = [
        (
            "kilonova.base.v1.BaseService/GetServiceInfo",
            unserved_method.get_service_info(GetServiceInfoRequest {}).await.unwrap_err(),
        ),
        (
            "kilonova.volume.v1.VolumeService/DeleteVolume",
            unserved_service
                .delete_volume(kilonova_proto::volume::v1::DeleteVolumeRequest::default())
                .await
                .unwrap_err(),
        ),
    ];
    for (method, status) in refusals {
        let error = from_status(&status).expect("ErrorInfo");
        assert_eq!((status.code(), error.reason), (Code::Unimplemented, Reason::MethodNotImplemented));
        assert_eq!(error.metadata["method"], method);
        assert_eq!(error.metadata["known_to_this_version"], "true");
    }
    for path in ["/kilonova.base.v1.BaseService/Pong", "/x.Y/Z", "/", "/nonsense"] {
        let answer = Raw::connect(&server).await.call(path, &[], &ping("")).await;
        let error = from_status(&answer.status()).expect("ErrorInfo");
        assert_eq!(error.reason, Reason::MethodNotImplemented, "{path}");
        assert_eq!(error.metadata["known_to_this_version"], "false", "{path}");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_handler_with_deadline_exceeded() {
    let (server, echo) = start().await;
    let mut stuck = echo.stuck.subscribe();
    let mut raw = Raw::connect(&server).await;
    let path = "/kilonova.base.v1.BaseService/Ping";
    let answer = raw.call(path, &[("grpc-timeout", "100m")], &ping("stuck")).await;
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    assert_eq!(reason_of(&answer.status()), Some(Reason::DeadlineExceeded));
    stuck.wait_for(|stuck| *stuck == 0).await.unwrap();
    assert_eq!(raw.call(path, &[("grpc-timeout", "10S")], &ping("x")).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_deadline_ends_a_stream() {
    let (server, _) = start().await;
    let path = "/kilonova.capability.v1.CapabilityService/WatchCapabilities";
    let request = WatchCapabilitiesRequest::default();
    let answer = Raw::connect(&server).await.call(path, &[("grpc-timeout", "100m")], &request).await;
    assert!(answer.length > 0, "the first message came");
    assert_eq!(reason_of(&answer.status()), Some(Reason::DeadlineExceeded));
}

#[tokio::test]
async fn bad_and_expired_deadlines_are_refused_before_the_work() {
    let (server, echo) = start().await;
    let mut raw = Raw::connect(&server).await;
    let path = "/kilonova.base.v1.BaseService/Ping";
    let expired = raw.call(path, &[("grpc-timeout", "0n")], &ping("stuck")).await.status();
    assert_eq!(from_status(&expired).unwrap().metadata["executed"], "no");
    assert_eq!(expired.code(), Code::DeadlineExceeded);
    let bad = raw.call(path, &[("grpc-timeout", "soon")], &ping("stuck")).await.status();
    assert_eq!(reason_of(&bad), Some(Reason::ValidationFailed));
    assert_eq!(*echo.stuck.borrow(), 0);
}

#[tokio::test]
async fn a_panic_is_that_calls_internal_error() {
    let (server, _) = start().await;
    let mut client = BaseServiceClient::new(channel(&server));
    let status = client.ping(ping("panic")).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::Internal, Some(Reason::Internal)));
    assert!(!status.message().contains("on purpose"));

    let mut client_of_streams = CapabilityServiceClient::new(channel(&server));
    let request = WatchCapabilitiesRequest { resume_token: "panic".into(), ..Default::default() };
    let mut stream = client_of_streams.watch_capabilities(request).await.unwrap().into_inner();
    let end = loop {
        if let Err(status) = stream.message().await {
            break status;
        }
    };
    assert_eq!(reason_of(&end), Some(Reason::Internal));

    assert!(client.ping(ping("still there")).await.is_ok());
}

#[tokio::test]
async fn messages_have_a_limit_either_way() {
    let server = serve(builder(&Echo::default()).limits(small_messages())).await;
    let mut raw = Raw::connect(&server).await;
    let path = "/kilonova.base.v1.BaseService/Ping";
    let request = raw.call(path, &[], &ping(&"x".repeat(63))).await.status();
    assert_eq!(reason_of(&request), Some(Reason::ValidationFailed));
    // The echo adds the host's name and so crosses the limit.
    let answer = raw.call(path, &[], &ping(&"x".repeat(61))).await.status();
    assert_eq!(reason_of(&answer), Some(Reason::Internal));
    assert_eq!(raw.call(path, &[], &ping("x")).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn other_protocols_are_turned_away() {
    let (server, _) = start().await;
    let mut raw = Raw::connect(&server).await;
    for content_type in ["application/json", "application/grpc-web"] {
        let headers = [("content-type", content_type)];
        let answer = raw.call("/kilonova.base.v1.BaseService/Ping", &headers, &PingRequest::default()).await;
        assert_eq!(answer.http, 415);
    }
}

#[tokio::test]
async fn a_server_that_cannot_work_is_not_built() {
    use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
    let echo = Echo::default();
    for (served, complaint) in [
        (Served::all(CAPABILITY), "kilonova.base.v1.BaseService was added as"),
        (Served::only(BASE, &["Pong"]), "no descriptor defines kilonova.base.v1.BaseService/Pong"),
    ] {
        let builder = kilonova_rpc::server::ServerBuilder::new(identity())
            .add(BaseServiceServer::new(echo.clone()), served);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = builder.serve(listener).unwrap_err().to_string();
        assert!(error.starts_with(complaint), "{error}");
    }
}
