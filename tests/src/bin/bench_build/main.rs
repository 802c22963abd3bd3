//! What a build costs, how soon a dead conductor's shards are driven again, and what many records cost. One JSON line a
//! figure.
//!
//! `make bench-build`, or `make bench-build ARGS=quick` for a short look.
//!
//! The whole cell, the store's client and those who ask share this process: 100 hosts whose driver takes no time and writes
//! its journal to a file, one api, one conductor, one scheduler.

mod builds;
mod records;
mod takeover;

use std::time::Duration;

use kilonova_tests::Backing;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// How long builds are measured.
    pub window: Duration,
    /// How often a conductor is killed.
    pub kills: usize,
    /// How many records there are.
    pub records: usize,
    /// How often all of them are listed.
    pub rounds: usize,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(endpoint) = words.iter().find_map(|word| word.strip_prefix("--conductor=")) {
        return records::child(endpoint).await;
    }
    if let Some(endpoint) = words.iter().find_map(|word| word.strip_prefix("--victim=")) {
        return takeover::child(endpoint).await;
    }
    let has = |word: &str| words.iter().any(|given| given.trim_start_matches("--") == word);
    let size = if has("quick") {
        Size { window: Duration::from_secs(2), kills: 1, records: 10_000, rounds: 2 }
    } else {
        Size { window: Duration::from_secs(10), kills: 5, records: 100_000, rounds: 5 }
    };
    let all = !["builds", "takeover", "records"].into_iter().any(has);
    for backing in [Backing::Embedded, Backing::Etcd] {
        if all || has("builds") {
            builds::measure(backing, size).await;
        }
    }
    if all || has("takeover") {
        takeover::measure(size).await;
    }
    if all || has("records") {
        records::measure(size).await;
    }
}
