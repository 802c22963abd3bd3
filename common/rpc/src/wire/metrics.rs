//! The counters of one method at one end, under the names gRPC dashboards know (those of go-grpc-middleware).

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use tonic::Code;

use super::code_name;
use super::method::MethodType;

/// The two ends of a call.
#[derive(Debug)]
pub(crate) struct Side {
    started: &'static str,
    received: &'static str,
    sent: &'static str,
    handled: &'static str,
    seconds: &'static str,
}

/// The end that answers.
pub(crate) const SERVER: Side = Side {
    started: "grpc_server_started_total",
    received: "grpc_server_msg_received_total",
    sent: "grpc_server_msg_sent_total",
    handled: "grpc_server_handled_total",
    seconds: "grpc_server_handling_seconds",
};

/// The end that asks.
pub(crate) const CLIENT: Side = Side {
    started: "grpc_client_started_total",
    received: "grpc_client_msg_received_total",
    sent: "grpc_client_msg_sent_total",
    handled: "grpc_client_handled_total",
    seconds: "grpc_client_handling_seconds",
};

const CODES: usize = 17;

/// Each is registered once, at its first use, so that counting a call is a handful of atomic additions and methods
/// that are never called add nothing to the output.
#[derive(Debug)]
pub(crate) struct MethodMetrics {
    side: &'static Side,
    labels: [(&'static str, String); 3],
    started: OnceLock<Counter>,
    received: OnceLock<Counter>,
    sent: OnceLock<Counter>,
    seconds: OnceLock<Histogram>,
    handled: [OnceLock<Counter>; CODES],
}

impl MethodMetrics {
    pub fn new(side: &'static Side, service: &str, method: &str, shape: MethodType) -> Self {
        let labels = [
            ("grpc_type", shape.as_str().to_owned()),
            ("grpc_service", service.to_owned()),
            ("grpc_method", method.to_owned()),
        ];
        Self {
            side,
            labels,
            started: OnceLock::new(),
            received: OnceLock::new(),
            sent: OnceLock::new(),
            seconds: OnceLock::new(),
            handled: [const { OnceLock::new() }; CODES],
        }
    }

    /// Shows what is counted from zero on, so that a dashboard has a rate from the first call.
    pub fn show(&self) {
        for (cell, name) in self.counters() {
            self.counter(cell, name);
        }
    }

    fn counters(&self) -> [(&OnceLock<Counter>, &'static str); 3] {
        let side = self.side;
        [(&self.started, side.started), (&self.received, side.received), (&self.sent, side.sent)]
    }

    fn counter<'a>(&self, cell: &'a OnceLock<Counter>, name: &'static str) -> &'a Counter {
        cell.get_or_init(|| counter!(name, &self.labels))
    }

    pub fn started(&self) {
        self.counter(&self.started, self.side.started).increment(1);
    }

    pub fn received(&self, messages: u64) {
        self.counter(&self.received, self.side.received).increment(messages);
    }

    pub fn sent(&self, messages: u64) {
        self.counter(&self.sent, self.side.sent).increment(messages);
    }

    pub fn handled(&self, code: Code, took: Duration) {
        let register = || {
            let [shape, service, method] = self.labels.clone();
            let labels = [shape, service, method, ("grpc_code", code_name(code).to_owned())];
            counter!(self.side.handled, &labels)
        };
        self.handled[code as usize].get_or_init(register).increment(1);
        let seconds = self.seconds.get_or_init(|| histogram!(self.side.seconds, &self.labels));
        seconds.record(took.as_secs_f64());
    }
}
