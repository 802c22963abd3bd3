//! What the store does by itself: transactions of the size of one accept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use kilonova_store::{SharedStore, Txn};
use kilonova_tests::Backing;
use kilonova_tests::measure::line;
use serde_json::json;
use tokio::time::Instant;

use super::Size;

/// The sizes of the values that one accept writes: an instance, its request's id, the project's usage.
const VALUES: [usize; 3] = [560, 90, 12];

/// Transactions per second, by how many are under way at once.
pub type Baseline = BTreeMap<usize, f64>;

/// Measures the store. `None` when its program is missing.
pub async fn transactions(backing: Backing, size: Size) -> Option<Baseline> {
    let (store, _process) = backing.open().await?;
    let mut baseline = Baseline::new();
    for in_flight in [1, 64, 256] {
        let per_second = measure(&store, size, in_flight).await;
        line(
            "transactions per second of the store alone, records as one accept writes them",
            json!({ "store": store.name(), "in_flight": in_flight, "transactions_per_s": per_second.round() }),
        );
        baseline.insert(in_flight, per_second);
    }
    Some(baseline)
}

async fn measure(store: &SharedStore, size: Size, in_flight: usize) -> f64 {
    let (start, number) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let loops = (0..in_flight).map(|_| async {
        let mut done = 0_u32;
        while start.elapsed() < size.window {
            let number = number.fetch_add(1, Ordering::Relaxed);
            let txn = VALUES.iter().enumerate().fold(Txn::new(), |txn, (kind, bytes)| {
                let key = format!("bench/{in_flight}/{kind}/{number:020}");
                txn.when_absent(key.clone()).put(key, vec![0; *bytes])
            });
            let outcome = store.txn(txn).await.expect("an answer");
            assert!(outcome.committed().is_some(), "the keys are new");
            done += 1;
        }
        done
    });
    let done: u32 = join_all(loops).await.into_iter().sum();
    f64::from(done) / start.elapsed().as_secs_f64()
}
