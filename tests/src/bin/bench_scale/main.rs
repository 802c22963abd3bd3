//! How schedulers do with very many hosts, and with each other. One JSON line a figure.
//!
//! `make bench-publishers`: 10,000 hosts that publish, on ports of their own in five processes, and schedulers in processes
//! of their own, over etcd. `make bench-refusals`: how often a host refuses what schedulers that do not know of each other
//! promised. `ARGS=quick` gives a short look.

mod children;
mod publishers;
mod refusals;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let limit = getrlimit(Resource::Nofile);
    // With fewer files than connections the bench says so by failing.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(|word| word.trim_start_matches("--")).collect();
    let quick = words.contains(&"quick");
    match words.as_slice() {
        ["publish", etcd, first, count] => children::publish(etcd, first, count).await,
        ["schedule", etcd, host, address] => children::schedule(etcd, host, address).await,
        ["publishers", ..] => publishers::measure(quick).await,
        ["refusals", ..] => refusals::measure(quick).await,
        _ => println!("usage: bench_scale publishers|refusals [quick]"),
    }
}
