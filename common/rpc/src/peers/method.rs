//! What the descriptors say of each method: its names, and whether it streams.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;

use super::metrics::MethodKeys;

/// The four kinds of method, as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ClientStream,
    ServerStream,
    BidiStream,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ClientStream => "client_stream",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// One method.
pub(crate) struct Method {
    /// As in `kilonova.base.v1.BaseService/Ping`.
    pub(crate) name: String,
    /// None for a method no descriptor here describes.
    pub(crate) kind: Option<Kind>,
    pub(crate) keys: MethodKeys,
}

impl Method {
    fn new(service: &str, method: &str, kind: Option<Kind>) -> Arc<Self> {
        let keys = MethodKeys::new(service, method, kind.unwrap_or(Kind::Unary));
        Arc::new(Self { name: format!("{service}/{method}"), kind, keys })
    }
}

static METHODS: LazyLock<HashMap<String, Arc<Method>>> = LazyLock::new(|| {
    let sets = [kilonova_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let mut methods = HashMap::new();
    for set in sets {
        let set = FileDescriptorSet::decode(set).expect("descriptors made by this build");
        for file in &set.file {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let kind = match (method.client_streaming(), method.server_streaming()) {
                        (false, false) => Kind::Unary,
                        (true, false) => Kind::ClientStream,
                        (false, true) => Kind::ServerStream,
                        (true, true) => Kind::BidiStream,
                    };
                    let path = format!("/{service_name}/{}", method.name());
                    methods.insert(path, Method::new(&service_name, method.name(), Some(kind)));
                }
            }
        }
    }
    methods
});

/// Reads the descriptors now, so that the first call does not have to.
pub(crate) fn prepare() {
    LazyLock::force(&METHODS);
}

/// The method a request's path names.
pub(crate) fn lookup(path: &str) -> Arc<Method> {
    if let Some(method) = METHODS.get(path) {
        return method.clone();
    }
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    Method::new(service, method, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_come_from_the_descriptors() {
        assert_eq!(lookup("/grpc.health.v1.Health/Check").kind, Some(Kind::Unary));
        assert_eq!(lookup("/grpc.health.v1.Health/Watch").kind, Some(Kind::ServerStream));
        assert_eq!(lookup("/kilonova.base.v1.BaseService/Ping").kind, Some(Kind::Unary));
        let unknown = lookup("/a.B/C");
        assert_eq!((unknown.name.as_str(), unknown.kind), ("a.B/C", None));
    }
}
