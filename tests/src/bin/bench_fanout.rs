//! What it costs to tell many subscribers of one update, ours against raw tonic. One JSON line a figure.
//!
//! `make bench-fanout`, or `make bench-fanout ARGS=quick` for a short look.
//!
//! Publisher and subscribers are processes of their own, so that each is weighed alone: this one starts a server that
//! publishes through our server, one of `tonic::transport` with generated code over a watch channel, and for each a client
//! of plain tonic channels. Updates go to the two in turn, and each is waited for until the last subscriber has it. Both
//! ends read the machine's monotonic clock.
//!
//! The last figure is the other way round: one subscriber, through our pool, of 1,000 members with a connection each, as a
//! scheduler has it.

#[path = "bench_fanout/members.rs"]
mod members;
#[path = "bench_fanout/parent.rs"]
mod parent;
#[path = "bench_fanout/publisher.rs"]
mod publisher;
#[path = "bench_fanout/subscribers.rs"]
mod subscribers;
#[path = "bench_fanout/usage.rs"]
mod usage;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // With fewer files than connections the bench says so by failing.
    let _ = setrlimit(Resource::Nofile, all);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["publish", which] => work(publisher::run((*which).to_owned())),
        ["publish-members", count] => work(publisher::members(count.parse().expect("a number"))),
        ["subscribe-members", addresses] => work(members::run((*addresses).to_owned())),
        ["subscribe", address, connections, streams] => {
            let number = |text: &str| text.parse().expect("a number");
            work(subscribers::run((*address).to_owned(), number(connections), number(streams)));
        }
        _ => parent::run(words.contains(&"quick")),
    }
}

/// Runs on the workers, as a service's tasks do.
fn work(task: impl Future<Output = ()> + Send + 'static) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        tasks.join_next().await;
    });
    // The thread that reads the input may wait for ever.
    runtime.shutdown_background();
}
