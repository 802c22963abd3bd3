//! Our half of `make bench-peers`: a server that echoes and a client that calls it, each a process of its own.
//!
//! ```text
//!   echo_peer serve ETCD LEVEL         registers as a scheduler, says READY, serves until its input ends
//!   echo_peer call ETCD LEVEL          finds it in etcd, says READY, then for each line of input
//!                                      {"payload":"flat","in_flight":64,"seconds":4} calls that long and answers
//!                                      {"calls":…,"seconds":…,"p50_us":…,"p99_us":…}
//!   echo_peer raw-serve ADDRESS LEVEL  the same with plain tonic, of no default layer
//!   echo_peer raw-call ADDRESS LEVEL
//! ```
//!
//! Ours has what a service has: discovery, pool, deadlines, health, metrics, and a log at this level. A failed
//! call ends the process: a figure must not hide it.

mod echo;
mod messages;
mod ours;
mod raw;

use std::time::Duration;

use kilonova_runtime::telemetry::{FOLD_EVERY, Log, LogConfig, Metrics};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;

use echo::{Calls, flat, nested};

/// How long anything at the start may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Payload {
    Flat,
    Nested,
}

#[derive(Clone, Copy, Deserialize)]
struct Window {
    payload: Payload,
    in_flight: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Measured {
    calls: usize,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, place, level] = arguments.as_slice() else {
        panic!("usage: echo_peer serve|call ETCD LEVEL, or raw-serve|raw-call ADDRESS LEVEL");
    };
    let log = LogConfig { level: level.clone(), ..LogConfig::default() };
    Log::start(&log).expect("a log");
    let metrics = Metrics::install();
    // One thread in each of two processes, on two cores; a process of the peer's uses no more than one at a time either.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut folding = JoinSet::new();
    let fold = async move {
        loop {
            tokio::time::sleep(FOLD_EVERY).await;
            metrics.fold();
        }
    };
    folding.spawn_on(fold, runtime.handle());
    match verb.as_str() {
        "serve" => {
            let served = runtime.block_on(ours::serve(place));
            until_input_ends();
            runtime.block_on(served.deregister());
        }
        "raw-serve" => {
            let _served = runtime.block_on(raw::serve(place));
            until_input_ends();
        }
        "call" => call(&runtime, &[runtime.block_on(ours::connect(place))]),
        "raw-call" => {
            // Connections are made by tasks of the runtime.
            let channels = runtime.block_on(async { raw::connect(place) });
            call(&runtime, &channels);
        }
        _ => panic!("{verb} is no verb of echo_peer"),
    }
}

fn until_input_ends() {
    println!("READY");
    lines().for_each(drop);
}

/// Lines of input, read where nothing of the runtime is held up.
fn lines() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map(|line| line.expect("readable input"))
}

fn call<C: Calls>(runtime: &Runtime, channels: &[C]) {
    println!("READY");
    for line in lines() {
        let window: Window = serde_json::from_str(&line).expect("a window");
        let measured = runtime.block_on(measure(channels, window));
        println!("{}", serde_json::to_string(&measured).expect("JSON"));
    }
}

/// So many callers, spread over the channels, each with its next call as soon as its last is answered.
async fn measure<C: Calls>(channels: &[C], window: Window) -> Measured {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(window.seconds);
    let mut callers = JoinSet::new();
    for channel in channels.iter().cycle().take(window.in_flight).cloned() {
        callers.spawn(async move {
            match window.payload {
                Payload::Flat => flat(channel, end).await,
                Payload::Nested => nested(channel, end).await,
            }
        });
    }
    let mut times = callers.join_all().await.concat();
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Measured { calls: times.len(), seconds, p50_us: quantile(0.5), p99_us: quantile(0.99) }
}
