//! What a call costs through discovery, pool, retries and deadlines, and our server, against a raw tonic client and
//! server. One JSON line a figure.
//!
//! `make bench-rpc`, or `make bench-rpc ARGS=quick` for a short look.
//!
//! Client and server share the process, on both sides; windows of the two follow each other in turn.

mod ends;

use std::future::Future;
use std::time::Duration;

use futures::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::time::Instant;

use ends::Ends;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    calls: usize,
    window: Duration,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "quick");
    let size = if quick {
        Size { rounds: 3, calls: 500, window: Duration::from_millis(300) }
    } else {
        Size { rounds: 12, calls: 3_000, window: Duration::from_secs(1) }
    };
    let ends = Ends::start().await;
    for bytes in [200, 2_450] {
        latency(&ends, size, bytes).await;
    }
    for in_flight in [64, 256] {
        throughput(&ends, size, in_flight).await;
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn line(figure: &str, values: Value) {
    println!("{}", json!({ "figure": figure, "values": values }));
}

fn quantile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// One side's share of a measurement.
#[derive(Default)]
struct Share {
    times: Vec<Duration>,
    calls: u32,
    wall: Duration,
    cpu: Duration,
}

impl Share {
    async fn one_in_flight<F: Future>(&mut self, calls: usize, mut call: impl FnMut() -> F) {
        let before = cpu();
        for _ in 0..calls {
            let start = Instant::now();
            call().await;
            self.times.push(start.elapsed());
        }
        self.calls += calls as u32;
        self.cpu += cpu() - before;
    }

    async fn many_in_flight<F: Future>(&mut self, callers: usize, window: Duration, call: impl Fn() -> F) {
        let (before, start) = (cpu(), Instant::now());
        let loops = (0..callers).map(|_| async {
            let mut calls = 0;
            while start.elapsed() < window {
                call().await;
                calls += 1;
            }
            calls
        });
        self.calls += join_all(loops).await.into_iter().sum::<u32>();
        self.wall += start.elapsed();
        self.cpu += cpu() - before;
    }

    fn cpu_us_per_call(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(self.calls)
    }

    fn per_second(&self) -> f64 {
        f64::from(self.calls) / self.wall.as_secs_f64()
    }
}

async fn latency(ends: &Ends, size: Size, bytes: usize) {
    let payload = "x".repeat(bytes);
    let (mut ours, mut raw) = (Share::default(), Share::default());
    for round in 0..=size.rounds {
        ours.one_in_flight(size.calls, || ends.ours(&payload)).await;
        raw.one_in_flight(size.calls, || ends.raw(&payload)).await;
        if round == 0 {
            (ours, raw) = (Share::default(), Share::default());
        }
    }
    let (p50, raw_p50) = (quantile(&mut ours.times, 0.5), quantile(&mut raw.times, 0.5));
    line(
        "call, 1 in flight",
        json!({
            "payload_bytes": bytes,
            "p50_us": rounded(p50),
            "p99_us": rounded(quantile(&mut ours.times, 0.99)),
            "cpu_us_per_call": rounded(ours.cpu_us_per_call()),
            "baseline": "raw tonic client and server, rounds in turn",
            "baseline_p50_us": rounded(raw_p50),
            "baseline_p99_us": rounded(quantile(&mut raw.times, 0.99)),
            "baseline_cpu_us_per_call": rounded(raw.cpu_us_per_call()),
            "p50_ratio": rounded(p50 / raw_p50),
            "cpu_ratio": rounded(ours.cpu_us_per_call() / raw.cpu_us_per_call()),
            "must": "p50_ratio <= 1.15",
            "aim": "p50_ratio <= 1.03",
        }),
    );
}

async fn throughput(ends: &Ends, size: Size, in_flight: usize) {
    let payload = "x".repeat(200);
    let (mut ours, mut raw) = (Share::default(), Share::default());
    for round in 0..=size.rounds {
        ours.many_in_flight(in_flight, size.window, || ends.ours(&payload)).await;
        raw.many_in_flight(in_flight, size.window, || ends.raw(&payload)).await;
        if round == 0 {
            (ours, raw) = (Share::default(), Share::default());
        }
    }
    line(
        "calls per second, many in flight, one member",
        json!({
            "in_flight": in_flight,
            "payload_bytes": 200,
            "calls_per_s": ours.per_second().round(),
            "cpu_us_per_call": rounded(ours.cpu_us_per_call()),
            "baseline": "raw tonic client and server, windows in turn",
            "baseline_calls_per_s": raw.per_second().round(),
            "baseline_cpu_us_per_call": rounded(raw.cpu_us_per_call()),
            "ratio": rounded(ours.per_second() / raw.per_second()),
            "cpu_ratio": rounded(ours.cpu_us_per_call() / raw.cpu_us_per_call()),
            "must": "ratio >= 0.85",
            "aim": "ratio >= 0.97",
        }),
    );
}
