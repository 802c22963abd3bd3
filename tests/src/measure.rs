//! What the measuring programs share: figures as lines of JSON, quantiles, what the process used, and counts of what a
//! store was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::Revision;
use kilonova_store::{
    KeyValue, LeaseId, Page, SharedStore, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Prints one figure.
pub fn line(figure: &str, values: Value) {
    println!("{}", json!({ "figure": figure, "values": values }));
}

/// Rounded to thousandths.
#[must_use]
pub fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// In milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3)
}

/// The time that this part of all did not exceed.
#[must_use]
pub fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((last as f64 * part) as usize).copied().unwrap_or_default()
}

/// CPU time of this process so far.
#[must_use]
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Resident memory of this process, in bytes.
#[must_use]
pub fn resident() -> u64 {
    resident_of(std::process::id())
}

/// CPU time of a process so far, to hundredths of a second.
#[must_use]
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th after it.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks: u64 = after.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// Resident memory of a process, in bytes.
#[must_use]
pub fn resident_of(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("/proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
    pages * rustix::param::page_size() as u64
}

/// How often a store was asked, and for what.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// Reads of one key.
    pub gets: u64,
    /// Transactions that were committed.
    pub commits: u64,
    /// Transactions that were not.
    pub conflicts: u64,
}

impl Asked {
    /// What was asked since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            gets: self.gets - before.gets,
            commits: self.commits - before.commits,
            conflicts: self.conflicts - before.conflicts,
        }
    }
}

/// A store that counts what it is asked.
pub struct Counting {
    store: SharedStore,
    gets: AtomicU64,
    commits: AtomicU64,
    conflicts: AtomicU64,
}

impl Counting {
    /// Counts what this store is asked through it.
    #[must_use]
    pub fn new(store: SharedStore) -> Arc<Self> {
        let (gets, commits, conflicts) = Default::default();
        Arc::new(Self { store, gets, commits, conflicts })
    }

    /// How often so far.
    #[must_use]
    pub fn asked(&self) -> Asked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Asked { gets: read(&self.gets), commits: read(&self.commits), conflicts: read(&self.conflicts) }
    }
}

#[async_trait]
impl Store for Counting {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.store.list(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let outcome = self.store.txn(txn).await?;
        let counter = if outcome.committed().is_some() { &self.commits } else { &self.conflicts };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(outcome)
    }

    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        self.store.watch(prefix, from)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }

    fn went_back(&self) -> watch::Receiver<u64> {
        self.store.went_back()
    }

    async fn lineage(&self) -> Result<u64, StoreError> {
        self.store.lineage().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}
