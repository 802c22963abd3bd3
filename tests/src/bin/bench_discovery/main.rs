//! How soon callers notice: a member that registers, one that is killed, one that freezes. One JSON object per line.
//!
//! `make bench-discovery`, or `make bench-discovery ARGS=quick` for a short look.

mod faults;
mod seen;

use std::time::Duration;

use kilonova_store::testing::EtcdProcess;
use serde_json::{Value, json};

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    clients: usize,
    registrations: usize,
    kills: usize,
    freezes: usize,
}

#[tokio::main]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let size = if quick {
        Size { clients: 100, registrations: 20, kills: 3, freezes: 1 }
    } else {
        Size { clients: 100, registrations: 200, kills: 20, freezes: 5 }
    };
    seen::over_embedded(size).await;
    let Some(etcd) = EtcdProcess::start().await.expect("etcd starts") else { return };
    seen::over_etcd(size, &etcd).await;
    faults::kills(size, &etcd).await;
    faults::freezes(size, &etcd).await;
}

fn line(figure: &str, values: Value) {
    println!("{}", json!({ "figure": figure, "values": values }));
}

fn quantile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// The median, the 99th percentile and the greatest, in milliseconds.
fn summary(mut times: Vec<Duration>) -> Value {
    times.sort();
    json!({
        "p50_ms": millis(quantile(&times, 0.5)),
        "p99_ms": millis(quantile(&times, 0.99)),
        "max_ms": millis(quantile(&times, 1.0)),
    })
}
