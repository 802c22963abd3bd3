//! What the descriptors say of each method: its names, its shape, and whether it may be repeated.

use prost_types::method_options::IdempotencyLevel;
use prost_types::{FileDescriptorProto, FileDescriptorSet, ServiceDescriptorProto};

/// The four shapes of a method, named as metrics name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodType {
    /// One message each way.
    Unary,
    /// Many to the server.
    ClientStream,
    /// Many from the server.
    ServerStream,
    /// Many each way.
    BidiStream,
}

impl MethodType {
    /// The name in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            MethodType::Unary => "unary",
            MethodType::ClientStream => "client_stream",
            MethodType::ServerStream => "server_stream",
            MethodType::BidiStream => "bidi_stream",
        }
    }

    /// Whether the server sends many messages.
    #[must_use]
    pub fn server_streams(self) -> bool {
        matches!(self, MethodType::ServerStream | MethodType::BidiStream)
    }
}

/// What the `idempotency_level` of a method promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Nothing.
    Unknown,
    /// The same request again has no further effect.
    Idempotent,
    /// It changes nothing at all.
    NoSideEffects,
}

impl Idempotency {
    /// Whether a request that may have been executed may be sent again.
    #[must_use]
    pub fn may_repeat(self) -> bool {
        self != Self::Unknown
    }
}

/// One method, as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodFacts {
    /// Its name within the service.
    pub name: String,
    /// Its shape.
    pub shape: MethodType,
    /// Its promise.
    pub idempotency: Idempotency,
}

/// Every service in these descriptors with its methods.
pub(crate) fn services(set: &FileDescriptorSet) -> impl Iterator<Item = (String, Vec<MethodFacts>)> {
    set.file.iter().flat_map(|file| file.service.iter().map(|service| described(file, service)))
}

/// `package.Service`.
pub(crate) fn full_name(file: &FileDescriptorProto, service: &ServiceDescriptorProto) -> String {
    match file.package() {
        "" => service.name().to_owned(),
        package => format!("{package}.{}", service.name()),
    }
}

fn described(file: &FileDescriptorProto, service: &ServiceDescriptorProto) -> (String, Vec<MethodFacts>) {
    // gRPC's own services (health, reflection) only answer questions, and their protos do not say so.
    let only_answers = file.package().starts_with("grpc.");
    let facts = service.method.iter().map(|method| {
        let shape = match (method.client_streaming(), method.server_streaming()) {
            (false, false) => MethodType::Unary,
            (true, false) => MethodType::ClientStream,
            (false, true) => MethodType::ServerStream,
            (true, true) => MethodType::BidiStream,
        };
        let level = method
            .options
            .as_ref()
            .map_or(IdempotencyLevel::IdempotencyUnknown, |options| options.idempotency_level());
        let idempotency = match level {
            _ if only_answers => Idempotency::NoSideEffects,
            IdempotencyLevel::NoSideEffects => Idempotency::NoSideEffects,
            IdempotencyLevel::Idempotent => Idempotency::Idempotent,
            IdempotencyLevel::IdempotencyUnknown => Idempotency::Unknown,
        };
        MethodFacts { name: method.name().to_owned(), shape, idempotency }
    });
    (full_name(file, service), facts.collect())
}
