//! The `grpc_client_*` metrics, under the names and labels that dashboards for go-grpc-middleware expect.

use std::sync::Arc;

use metrics::{Key, Label, Level, Metadata, with_recorder};
use tokio::time::Instant;
use tonic::Code;

use super::method::{Kind, Method};
use crate::wire::code_name;

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// The metric keys of one method, made once.
pub(crate) struct MethodKeys {
    started: Key,
    sent: Key,
    received: Key,
    seconds: Key,
    handled: Vec<Key>,
}

impl MethodKeys {
    pub(crate) fn new(service: &str, method: &str, kind: Kind) -> Self {
        let labels = || {
            vec![
                Label::new("grpc_type", kind.as_str()),
                Label::new("grpc_service", service.to_owned()),
                Label::new("grpc_method", method.to_owned()),
            ]
        };
        let with_code = |code: i32| {
            let mut labels = labels();
            labels.push(Label::new("grpc_code", code_name(Code::from_i32(code))));
            Key::from_parts("grpc_client_handled_total", labels)
        };
        Self {
            started: Key::from_parts("grpc_client_started_total", labels()),
            sent: Key::from_parts("grpc_client_msg_sent_total", labels()),
            received: Key::from_parts("grpc_client_msg_received_total", labels()),
            seconds: Key::from_parts("grpc_client_handling_seconds", labels()),
            handled: (0..=16).map(with_code).collect(),
        }
    }
}

fn count(key: &Key, n: u64) {
    with_recorder(|recorder| recorder.register_counter(key, &METADATA)).increment(n);
}

/// One call being counted. A call that is dropped before it ends counts as cancelled.
pub(crate) struct CallMetrics {
    method: Arc<Method>,
    started: Instant,
    finished: bool,
}

impl CallMetrics {
    pub(crate) fn start(method: Arc<Method>) -> Self {
        count(&method.keys.started, 1);
        if matches!(method.kind, Some(Kind::Unary | Kind::ServerStream)) {
            count(&method.keys.sent, 1);
        }
        Self { method, started: Instant::now(), finished: false }
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn received(&self, messages: u64) {
        if messages > 0 {
            count(&self.method.keys.received, messages);
        }
    }

    pub(crate) fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        let keys = &self.method.keys;
        if let Some(key) = keys.handled.get(code as usize) {
            count(key, 1);
        }
        with_recorder(|recorder| recorder.register_histogram(&keys.seconds, &METADATA))
            .record(self.started.elapsed().as_secs_f64());
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
    fn names_and_labels_are_those_of_the_go_middleware() {
        let keys = MethodKeys::new("a.B", "C", Kind::ServerStream);
        let labels = |key: &Key| {
            let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
            format!("{}{{{}}}", key.name(), labels.collect::<Vec<_>>().join(","))
        };
        let common = "grpc_type=server_stream,grpc_service=a.B,grpc_method=C";
        assert_eq!(labels(&keys.started), format!("grpc_client_started_total{{{common}}}"));
        assert_eq!(labels(&keys.sent), format!("grpc_client_msg_sent_total{{{common}}}"));
        assert_eq!(labels(&keys.received), format!("grpc_client_msg_received_total{{{common}}}"));
        assert_eq!(labels(&keys.seconds), format!("grpc_client_handling_seconds{{{common}}}"));
        let handled = &keys.handled[Code::DeadlineExceeded as usize];
        assert_eq!(
            labels(handled),
            format!("grpc_client_handled_total{{{common},grpc_code=DeadlineExceeded}}")
        );
    }
}
