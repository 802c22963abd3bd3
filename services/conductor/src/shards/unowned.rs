//! Shards that nobody drives. They are taken within moments of becoming free: one that stays free for as long as a lease lives
//! means that something is wrong, and that its records are accepted and go nowhere.

use std::collections::BTreeMap;
use std::time::Duration;

use kilonova_runtime::readiness::Readiness;
use tokio::time::Instant;

use super::{SHARDS, Shards};
use crate::identity::StoreIdentity;

/// The condition of the readiness that every shard has an owner. A warning: those that have one are driven on.
const CONDITION: &str = "shard owners";
/// How often is looked, as a part of the lease.
const LOOKS: u32 = 4;

/// Since when each shard is free.
#[derive(Debug, Default)]
struct Free {
    since: BTreeMap<u16, Instant>,
}

impl Free {
    /// The shards that have been free for so long.
    fn look(&mut self, is_free: impl Fn(u16) -> bool, now: Instant, patience: Duration) -> Vec<u16> {
        self.since.retain(|shard, _| is_free(*shard));
        for shard in (0..SHARDS).filter(|shard| is_free(*shard)) {
            self.since.entry(shard).or_insert(now);
        }
        let is_over = |since: &Instant| now.duration_since(*since) > patience;
        self.since.iter().filter(|(_, since)| is_over(since)).map(|(shard, _)| *shard).collect()
    }
}

/// Looks for ever, and says what it finds: as a condition, a metric and in the log.
pub(super) async fn watch(shards: Shards, identity: StoreIdentity, patience: Duration, readiness: Readiness) {
    shards.settled().await;
    let mut free = Free::default();
    let mut said = false;
    loop {
        let unowned = {
            let holders = shards.shared.holders.read();
            // While the store waits to be accepted nobody drives anything, which is said elsewhere.
            let is_free = |shard| !identity.waits() && holders.is_free(shard);
            free.look(is_free, Instant::now(), patience)
        };
        metrics::gauge!("conductor_shards_unowned").set(unowned.len() as f64);
        if unowned.is_empty() {
            readiness.ok(CONDITION);
            if std::mem::take(&mut said) {
                tracing::info!("every shard has an owner again");
            }
        } else {
            let reason = format!("{} of {SHARDS} shards have had no owner for {patience:?}", unowned.len());
            if !std::mem::replace(&mut said, true) {
                tracing::error!(?unowned, "{reason}: what is accepted in them goes nowhere");
            }
            readiness.warn(CONDITION, reason);
        }
        tokio::time::sleep(patience / LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_counts_once_it_was_free_for_a_whole_lease() {
        let (start, lease) = (Instant::now(), Duration::from_secs(6));
        let mut free = Free::default();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(free.look(|shard| shard < 2, at(0), lease).is_empty());
        assert!(free.look(|shard| shard == 1, at(5), lease).is_empty());
        assert_eq!(free.look(|shard| shard < 2, at(7), lease), [1], "0 was owned in between");
        assert_eq!(free.look(|shard| shard < 2, at(14), lease), [0, 1]);
        assert!(free.look(|_| false, at(15), lease).is_empty());
    }
}
