//! What the api shows of itself.

use kilonova_model::Reason;
use kilonova_proto::api::v1::GetConsoleOutputRequest;
use kilonova_rpc::status::reason_of;
use tonic::Code;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::setup::Edge;

#[tokio::test]
async fn what_is_not_served_says_so() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let status = edge.instances().get_console_output(GetConsoleOutputRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(reason_of(&status), Some(Reason::MethodNotImplemented));
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let mut client = ServerReflectionClient::new(edge.channel());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let mut names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "kilonova.api.v1.AggregateService",
            "kilonova.api.v1.AuditService",
            "kilonova.api.v1.FlavorService",
            "kilonova.api.v1.HostService",
            "kilonova.api.v1.ImageService",
            "kilonova.api.v1.InstanceService",
            "kilonova.api.v1.PlacementService",
            "kilonova.api.v1.QuotaService",
            "kilonova.api.v1.ServerGroupService",
            "kilonova.api.v1.SnapshotService",
            "kilonova.api.v1.StoreService",
            "kilonova.api.v1.VolumeService",
            "kilonova.base.v1.BaseService",
        ]
    );
}
