//! How many requests are accepted durably. One JSON line a figure; the baseline is the store's own transactions, of the
//! same records, in the same run.
//!
//! `make bench-accept`, or `make bench-accept ARGS=quick` for a short look.
//!
//! The api, one conductor, the store's client and those who ask share this process. No shard is free, so nothing that is
//! accepted is driven: what is measured is the accept path alone.

mod accepts;
mod baseline;

use std::time::Duration;

use kilonova_tests::Backing;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// How long each figure is measured.
    pub window: Duration,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let quick = std::env::args().any(|argument| argument == "quick" || argument == "--quick");
    let size = Size { window: Duration::from_secs(if quick { 1 } else { 5 }) };
    for backing in [Backing::Embedded, Backing::Etcd] {
        let Some(baseline) = baseline::transactions(backing, size).await else { continue };
        for projects in [1, 16] {
            for in_flight in [1, 64, 256] {
                accepts::measure(backing, size, projects, in_flight, &baseline).await;
            }
        }
    }
}
