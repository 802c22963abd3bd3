//! `grpc.health.v1.Health/List` (gRFC A90), which the library's generated health service lacks: the messages, the
//! handler, and the descriptors of the whole service with it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use kilonova_proto::codec::MessageCodec;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MessageOptions, MethodDescriptorProto,
};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic_health::pb::HealthCheckResponse;
use tower::Service;

use super::health::HealthService;

/// The path of the method.
pub(super) const PATH: &str = "/grpc.health.v1.Health/List";

/// Asks for every service.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthListRequest {}

/// Every service with its health.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthListResponse {
    /// By the name of the service.
    #[prost(map = "string, message", tag = "1")]
    pub statuses: HashMap<String, HealthCheckResponse>,
}

/// Answers the one method.
#[derive(Clone)]
pub(super) struct ListService(pub HealthService);

impl UnaryService<HealthListRequest> for ListService {
    type Response = HealthListResponse;
    type Future = std::future::Ready<Result<tonic::Response<HealthListResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<HealthListRequest>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(HealthListResponse { statuses: self.0.list() })))
    }
}

impl Service<Request<Body>> for ListService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(Grpc::new(MessageCodec::default()).unary(service, request).await) })
    }
}

/// The library's descriptors of the health service with this method added.
pub(super) fn descriptors() -> Vec<u8> {
    let mut set =
        FileDescriptorSet::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).expect("the library's own");
    let file =
        set.file.iter_mut().find(|file| file.package() == "grpc.health.v1").expect("the library's own");
    let name = |name: &str| Some(name.to_owned());
    let field = |field: &str, number, kind: Type| FieldDescriptorProto {
        name: name(field),
        json_name: name(field),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        ..FieldDescriptorProto::default()
    };
    let message = |kind: &str| name(&format!(".grpc.health.v1.{kind}"));
    let value = FieldDescriptorProto {
        type_name: message("HealthCheckResponse"),
        ..field("value", 2, Type::Message)
    };
    let entry = DescriptorProto {
        name: name("StatusesEntry"),
        field: vec![field("key", 1, Type::String), value],
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    };
    let statuses = FieldDescriptorProto {
        label: Some(Label::Repeated.into()),
        type_name: message("HealthListResponse.StatusesEntry"),
        ..field("statuses", 1, Type::Message)
    };
    file.message_type.push(DescriptorProto { name: name("HealthListRequest"), ..DescriptorProto::default() });
    file.message_type.push(DescriptorProto {
        name: name("HealthListResponse"),
        field: vec![statuses],
        nested_type: vec![entry],
        ..DescriptorProto::default()
    });
    file.service[0].method.push(MethodDescriptorProto {
        name: name("List"),
        input_type: message("HealthListRequest"),
        output_type: message("HealthListResponse"),
        ..MethodDescriptorProto::default()
    });
    set.encode_to_vec()
}
