//! What is told about a call: metrics and one access line, once, however the call ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Code;
use tracing::Level;

use super::builder::Identity;
use super::gate::Method;
use crate::caller::{CALLER_HOST, CALLER_SERVICE};
use crate::wire::code_name;

/// The target of access lines, for log filters.
const TARGET: &str = "kilonova::access";

/// One call in progress. Dropped without a code, it was cancelled by the caller.
pub(super) struct Observer {
    method: Arc<Method>,
    started: Instant,
    line: Option<Box<Line>>,
    finished: bool,
    /// Held while the call runs: the drain waits for all of them.
    _running: TaskTrackerToken,
}

/// What the access line says beside the outcome; gathered only if somebody logs it.
struct Line {
    identity: Arc<Identity>,
    peer: SocketAddr,
    caller_service: String,
    caller_host: String,
    trace: String,
    timeout: Option<Duration>,
}

impl Observer {
    pub fn start(
        method: Arc<Method>,
        identity: &Arc<Identity>,
        peer: SocketAddr,
        headers: &HeaderMap,
        timeout: Option<Duration>,
        running: TaskTrackerToken,
    ) -> Self {
        method.metrics.started();
        let logged = if method.quiet {
            tracing::enabled!(target: TARGET, Level::DEBUG)
        } else {
            tracing::enabled!(target: TARGET, Level::INFO)
        };
        let line = logged.then(|| {
            let text = |name: &str| {
                headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            Box::new(Line {
                identity: identity.clone(),
                peer,
                caller_service: text(CALLER_SERVICE),
                caller_host: text(CALLER_HOST),
                trace: trace_id(&text("traceparent")).to_owned(),
                timeout,
            })
        });
        Self { method, started: Instant::now(), line, finished: false, _running: running }
    }

    pub fn method(&self) -> &Arc<Method> {
        &self.method
    }

    pub fn finish(&mut self, code: Code) {
        if self.finished {
            return;
        }
        self.finished = true;
        let took = self.started.elapsed();
        self.method.metrics.handled(code, took);
        if let Some(line) = self.line.take() {
            line.write(&self.method, code, took);
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

impl Line {
    fn write(&self, method: &Method, code: Code, took: Duration) {
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: TARGET,
                    $level,
                    service = self.identity.service.as_str(),
                    host = %self.identity.host,
                    method = %method.path,
                    code = code_name(code),
                    seconds = took.as_secs_f64(),
                    timeout_seconds = self.timeout.map(|timeout| timeout.as_secs_f64()),
                    peer = %self.peer,
                    caller_service = said(&self.caller_service),
                    caller_host = said(&self.caller_host),
                    trace_id = said(&self.trace),
                    "rpc"
                )
            };
        }
        if method.quiet { line!(Level::DEBUG) } else { line!(Level::INFO) }
    }
}

/// Fields nobody filled are left out of the line.
fn said(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The trace id in a W3C `traceparent`: version, trace, parent, flags.
fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).filter(|id| id.len() == 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_is_read_from_traceparent() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(parent), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace_id("00-short-x-01"), "");
        assert_eq!(trace_id(""), "");
    }
}
