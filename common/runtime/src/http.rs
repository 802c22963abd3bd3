//! The HTTP side port: metrics for Prometheus, probes for Kubernetes, diagnostics for people.
//!
//! `/livez` says that the event loop turns and nothing more: a process that waits for something outside is not
//! cured by being restarted. `/readyz` says whether to send it requests.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::diagnostics::Diagnostics;
use crate::readiness::{Conditions, Readiness};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// What the side port answers from.
#[derive(Clone, Debug)]
pub struct SidePort {
    /// Behind `/readyz`.
    pub readiness: Readiness,
    /// Behind `/debug/diagnostics`.
    pub diagnostics: Diagnostics,
    /// Behind `/metrics`.
    pub metrics: Metrics,
}

impl SidePort {
    /// Serves until the tasks' group is stopped. Returns the address.
    pub fn serve(self, listener: TcpListener, tasks: &Tasks) -> io::Result<SocketAddr> {
        let address = listener.local_addr()?;
        let router = self.router();
        tasks.spawn_graceful("http side port", move |stop| async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the http side port ended");
            }
        });
        Ok(address)
    }

    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/debug/diagnostics", get(diagnostics))
            .with_state(self)
    }
}

async fn metrics(State(port): State<SidePort>) -> Response {
    let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (format, port.metrics.render()).into_response()
}

async fn diagnostics(State(port): State<SidePort>) -> Response {
    Json(port.diagnostics.collect()).into_response()
}

#[derive(serde::Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

async fn ready(State(port): State<SidePort>, Query(query): Query<Verbosity>) -> Response {
    let conditions = port.readiness.current();
    let code = if conditions.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, ready_text(&conditions, query.verbose.is_some())).into_response()
}

/// Lists every condition when asked to, else those that do not hold; in the manner of Kubernetes' own servers.
fn ready_text(conditions: &Conditions, verbose: bool) -> String {
    let mut text = String::new();
    for (name, reason) in conditions.iter() {
        let written = match reason {
            Some(reason) => writeln!(text, "[-] {name}: {reason}"),
            None if verbose => writeln!(text, "[+] {name}: ok"),
            None => Ok(()),
        };
        written.expect("writing to a string cannot fail");
    }
    text + if conditions.ready() { "ok\n" } else { "not ready\n" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let code = answer[9..12].parse().unwrap();
        (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn answers_probes_and_stops_with_its_group() {
        let port = SidePort {
            readiness: Readiness::new(),
            diagnostics: Diagnostics::default(),
            metrics: Metrics::install(),
        };
        let (readiness, diagnostics) = (port.readiness.clone(), port.diagnostics.clone());
        let tasks = Tasks::new("test");
        let address = port.serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), &tasks).unwrap();

        readiness.not("store", "not reached");
        readiness.ok("server");
        assert_eq!(fetch(address, "/livez").await, (200, "ok\n".into()));
        assert_eq!(fetch(address, "/readyz").await, (503, "[-] store: not reached\nnot ready\n".into()));
        readiness.ok("store");
        assert_eq!(fetch(address, "/readyz").await, (200, "ok\n".into()));
        let (_, verbose) = fetch(address, "/readyz?verbose").await;
        assert_eq!(verbose, "[+] server: ok\n[+] store: ok\nok\n");

        diagnostics.add("answer", || 42.into());
        assert_eq!(fetch(address, "/debug/diagnostics").await, (200, "{\"answer\":42}".into()));
        metrics::counter!("kilonova_side_port_test_total").increment(1);
        assert!(fetch(address, "/metrics").await.1.contains("kilonova_side_port_test_total 1"));

        assert!(tasks.shutdown(Duration::from_secs(5)).await.is_empty());
        assert!(TcpStream::connect(address).await.is_err());
    }
}
