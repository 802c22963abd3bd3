//! What tools are told about the server.

use futures::{StreamExt, stream};
use prost::Message;
use prost_types::FileDescriptorProto;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient as AlphaClient;

use crate::setup::*;

const EXPECTED: [&str; 5] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    BASE,
    CAPABILITY,
];

async fn ask(server: &kilonova_rpc::server::Server, request: MessageRequest) -> Option<MessageResponse> {
    let mut client = ServerReflectionClient::new(channel(server));
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer: ServerReflectionResponse = answers.next().await.unwrap().ok()?;
    answer.message_response
}

async fn file_of(server: &kilonova_rpc::server::Server, symbol: &str) -> Option<FileDescriptorProto> {
    let answer = ask(server, MessageRequest::FileContainingSymbol(symbol.to_owned())).await?;
    let MessageResponse::FileDescriptorResponse(files) = answer else { return None };
    Some(FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap())
}

#[tokio::test]
async fn lists_what_is_served_and_nothing_else() {
    let (server, _) = start().await;
    let listed = ask(&server, MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, EXPECTED);

    let mut alpha = AlphaClient::new(channel(&server));
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            v1alpha::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut answers = alpha.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    use v1alpha::server_reflection_response::MessageResponse as AlphaResponse;
    let AlphaResponse::ListServicesResponse(listed) = answer else { panic!("{answer:?}") };
    assert_eq!(listed.service.len(), EXPECTED.len());
}

#[tokio::test]
async fn describes_served_methods_with_their_comments() {
    let (server, _) = start().await;
    let file = file_of(&server, BASE).await.expect("the service is described");
    let methods: Vec<_> = file.service[0].method.iter().map(|method| method.name()).collect();
    assert_eq!(methods, ["Ping"]);
    let locations = file.source_code_info.unwrap().location;
    let comment_at = |path: &[i32]| {
        locations.iter().find(|location| location.path == path).map(|location| location.leading_comments())
    };
    assert!(comment_at(&[6, 0]).unwrap().trim().starts_with("BaseService is"));
    assert!(comment_at(&[6, 0, 2, 0]).unwrap().trim().starts_with("Ping answers"));
    assert_eq!(comment_at(&[6, 0, 2, 1]), None);
}

#[tokio::test]
async fn knows_the_types_of_error_details_and_not_what_is_unserved() {
    let (server, _) = start().await;
    assert!(file_of(&server, "google.rpc.ErrorInfo").await.is_some());
    assert!(file_of(&server, "grpc.health.v1.Health").await.is_some());
    assert!(file_of(&server, "kilonova.volume.v1.VolumeService").await.is_none());
    assert!(file_of(&server, "kilonova.base.v1.BaseService.GetDiagnostics").await.is_none());
}

#[tokio::test]
async fn can_be_turned_off() {
    let server = serve(builder(&Echo::default()).reflection(false)).await;
    let mut client = ServerReflectionClient::new(channel(&server));
    let none = stream::empty::<ServerReflectionRequest>();
    let status = client.server_reflection_info(none).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
}
