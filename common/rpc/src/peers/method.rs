//! Every method that can be called: what the descriptors and the service config say of it, and its counters.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::Instant;
use tonic::Code;

use crate::service_config::{MethodPolicy, ServiceConfig, Throttling};
use crate::wire::method::{Idempotency, MethodFacts, MethodType, services};
use crate::wire::metrics::{CLIENT, MethodMetrics};

/// One method.
pub(crate) struct Method {
    /// As in `kilonova.base.v1.BaseService/Ping`.
    pub(crate) name: String,
    /// None for a method no descriptor here describes.
    pub(crate) shape: Option<MethodType>,
    pub(crate) idempotency: Idempotency,
    pub(crate) policy: MethodPolicy,
    metrics: MethodMetrics,
}

impl Method {
    fn new(service: &str, method: &str, facts: Option<&MethodFacts>, policy: MethodPolicy) -> Arc<Self> {
        let shape = facts.map(|facts| facts.shape);
        let metrics = MethodMetrics::new(&CLIENT, service, method, shape.unwrap_or(MethodType::Unary));
        let idempotency = facts.map_or(Idempotency::Unknown, |facts| facts.idempotency);
        Arc::new(Self { name: format!("{service}/{method}"), shape, idempotency, policy, metrics })
    }

    /// Whether one message goes each way. A method nobody describes is taken to stream: nothing is lost by it.
    pub(crate) fn is_unary(&self) -> bool {
        self.shape == Some(MethodType::Unary)
    }
}

struct Methods {
    by_path: HashMap<String, Arc<Method>>,
    throttling: Throttling,
}

static METHODS: LazyLock<Methods> = LazyLock::new(|| {
    let config = ServiceConfig::parse(kilonova_proto::SERVICE_CONFIG).expect("a test reads it");
    let sets = [kilonova_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let mut by_path = HashMap::new();
    for set in sets {
        let set = FileDescriptorSet::decode(set).expect("descriptors made by this build");
        for (service, methods) in services(&set) {
            for facts in methods {
                let policy = config.of(&service, &facts.name);
                let method = Method::new(&service, &facts.name, Some(&facts), policy);
                by_path.insert(format!("/{service}/{}", facts.name), method);
            }
        }
    }
    Methods { by_path, throttling: config.throttling }
});

/// Reads descriptors and service config now, so that the first call does not have to; gives the limits of retries.
pub(crate) fn prepare() -> Throttling {
    METHODS.throttling
}

/// The method a request's path names.
pub(crate) fn lookup(path: &str) -> Arc<Method> {
    if let Some(method) = METHODS.by_path.get(path) {
        return method.clone();
    }
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    Method::new(service, method, None, MethodPolicy::default())
}

/// One call being counted. A call that is dropped before it ends counts as cancelled.
pub(crate) struct CallMetrics {
    method: Arc<Method>,
    started: Instant,
    finished: bool,
}

impl CallMetrics {
    pub(crate) fn start(method: Arc<Method>) -> Self {
        method.metrics.started();
        method.metrics.sent(1);
        Self { method, started: Instant::now(), finished: false }
    }

    pub(crate) fn method(&self) -> &Arc<Method> {
        &self.method
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn received(&self, messages: u64) {
        if messages > 0 {
            self.method.metrics.received(messages);
        }
    }

    pub(crate) fn finish(&mut self, code: Code) {
        if !std::mem::replace(&mut self.finished, true) {
            self.method.metrics.handled(code, self.started.elapsed());
        }
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_and_promises_come_from_the_descriptors() {
        let facts = |path| {
            let method = lookup(path);
            (method.shape, method.idempotency)
        };
        let reads = Idempotency::NoSideEffects;
        assert_eq!(facts("/grpc.health.v1.Health/Check"), (Some(MethodType::Unary), reads));
        assert_eq!(facts("/grpc.health.v1.Health/Watch"), (Some(MethodType::ServerStream), reads));
        assert_eq!(facts("/kilonova.base.v1.BaseService/Ping"), (Some(MethodType::Unary), reads));
        let build = facts("/kilonova.compute.v1.ComputeService/BuildInstance");
        assert_eq!(build, (Some(MethodType::Unary), Idempotency::Idempotent));
        assert_eq!(facts("/a.B/C"), (None, Idempotency::Unknown));
        assert_eq!(lookup("/a.B/C").name, "a.B/C");
    }

    #[test]
    fn every_request_is_one_message() {
        for method in METHODS.by_path.values() {
            let one = [MethodType::Unary, MethodType::ServerStream].map(Some);
            assert!(one.contains(&method.shape), "{}", method.name);
        }
    }
}
