//! The counters of one method, under the names gRPC dashboards know.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use tonic::Code;

use super::descriptors::MethodType;
use crate::wire::code_name;

/// Registered once per method, so that counting a call is a handful of atomic additions.
#[derive(Debug)]
pub(super) struct MethodMetrics {
    labels: [(&'static str, String); 3],
    started: Counter,
    received: Counter,
    sent: Counter,
    seconds: OnceLock<Histogram>,
    handled: [OnceLock<Counter>; CODES],
}

const CODES: usize = 17;

impl MethodMetrics {
    pub fn new(service: &str, method: &str, shape: MethodType) -> Self {
        let labels = [
            ("grpc_type", shape.as_str().to_owned()),
            ("grpc_service", service.to_owned()),
            ("grpc_method", method.to_owned()),
        ];
        Self {
            started: counter!("grpc_server_started_total", &labels),
            received: counter!("grpc_server_msg_received_total", &labels),
            sent: counter!("grpc_server_msg_sent_total", &labels),
            // Made at the first call: a histogram is a dozen lines of output, and most methods are never called.
            seconds: OnceLock::new(),
            handled: [const { OnceLock::new() }; CODES],
            labels,
        }
    }

    pub fn started(&self) {
        self.started.increment(1);
    }

    pub fn received(&self, messages: u64) {
        self.received.increment(messages);
    }

    pub fn sent(&self, messages: u64) {
        self.sent.increment(messages);
    }

    pub fn handled(&self, code: Code, took: Duration) {
        let register = || {
            let [shape, service, method] = self.labels.clone();
            let labels = [shape, service, method, ("grpc_code", code_name(code).to_owned())];
            counter!("grpc_server_handled_total", &labels)
        };
        self.handled[code as usize].get_or_init(register).increment(1);
        let seconds = self.seconds.get_or_init(|| histogram!("grpc_server_handling_seconds", &self.labels));
        seconds.record(took.as_secs_f64());
    }
}
