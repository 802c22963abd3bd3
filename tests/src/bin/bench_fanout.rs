//! What it costs to tell many subscribers of one update, ours against raw tonic. One JSON line a figure.
//!
//! `make bench-fanout`, or `make bench-fanout ARGS=quick` for a short look.
//!
//! Publisher and subscribers are processes of their own, so that each is weighed alone: this one starts a server that
//! publishes through our server, one of `tonic::transport` with generated code over a watch channel, and for each a client
//! of plain tonic channels. Updates go to the two in turn, and each is waited for until the last subscriber has it. Both
//! ends read the machine's monotonic clock.

#[path = "bench_fanout/parent.rs"]
mod parent;
#[path = "bench_fanout/publisher.rs"]
mod publisher;
#[path = "bench_fanout/subscribers.rs"]
mod subscribers;
#[path = "bench_fanout/usage.rs"]
mod usage;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // With fewer files than connections the bench says so by failing.
    let _ = setrlimit(Resource::Nofile, all);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["publish", which] => runtime().block_on(publisher::run(which)),
        ["subscribe", address, connections, streams] => {
            let number = |text: &str| text.parse().expect("a number");
            runtime().block_on(subscribers::run(address, number(connections), number(streams)));
        }
        _ => parent::run(words.contains(&"quick")),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}
