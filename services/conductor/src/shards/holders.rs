//! The shards' keys as far as they are known: from the watch, and from own takes, which the watch repeats later.
//! Revisions decide: what is older than what is known changes nothing.

use std::collections::BTreeMap;

use kilonova_model::{HostName, Revision};
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_store::{KeyValue, LeaseId};
use prost::Message;

/// Who holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The conductor; none when the key does not say.
    pub conductor: Option<HostName>,
    /// The lease it is held under.
    pub lease: i64,
    /// The key's create revision.
    pub created: Revision,
}

impl Holder {
    /// Reads a shard's key.
    pub fn read(item: &KeyValue) -> Self {
        let record = ShardRecord::decode(item.value.clone()).unwrap_or_default();
        Self {
            conductor: HostName::parse(&record.conductor).ok(),
            lease: record.lease,
            created: item.create_revision,
        }
    }
}

/// All keys, and which lease is this conductor's.
#[derive(Debug, Default)]
pub struct Holders {
    by_shard: BTreeMap<u16, Holder>,
    lease: Option<LeaseId>,
}

impl Holders {
    /// From now on what carries this lease is own. What was known before is forgotten: a watch begins with all there is, and
    /// the store may not be the one it was.
    pub fn begin(&mut self, lease: LeaseId) {
        self.by_shard.clear();
        self.lease = Some(lease);
    }

    /// From now on nothing is own.
    pub fn end(&mut self) {
        self.lease = None;
    }

    /// The create revision of a shard's key, if it is own.
    pub fn own(&self, shard: u16) -> Option<Revision> {
        let holder = self.by_shard.get(&shard)?;
        (Some(LeaseId(holder.lease)) == self.lease).then_some(holder.created)
    }

    /// All own shards.
    pub fn all_own(&self) -> Vec<u16> {
        self.by_shard.keys().copied().filter(|shard| self.own(*shard).is_some()).collect()
    }

    /// Whether nobody holds a shard.
    pub fn is_free(&self, shard: u16) -> bool {
        !self.by_shard.contains_key(&shard)
    }

    /// How many shards each conductor holds.
    pub fn count(&self) -> BTreeMap<HostName, u32> {
        let mut counts = BTreeMap::new();
        for conductor in self.by_shard.values().filter_map(|holder| holder.conductor.clone()) {
            *counts.entry(conductor).or_insert(0) += 1;
        }
        counts
    }

    /// A key was put.
    pub fn put(&mut self, shard: u16, holder: Holder) {
        if self.by_shard.get(&shard).is_none_or(|known| known.created <= holder.created) {
            self.by_shard.insert(shard, holder);
        }
    }

    /// A key was deleted at a revision.
    pub fn delete(&mut self, shard: u16, revision: Revision) {
        if self.by_shard.get(&shard).is_some_and(|known| known.created < revision) {
            self.by_shard.remove(&shard);
        }
    }

    /// All keys there were at a revision. What was taken later stays.
    pub fn replace(&mut self, listed: impl Iterator<Item = (u16, Holder)>, revision: Revision) {
        self.by_shard.retain(|_, known| known.created > revision);
        for (shard, holder) in listed {
            self.put(shard, holder);
        }
    }

    /// An own shard is being given up; the watch tells whether somebody holds it.
    pub fn forget(&mut self, shard: u16) {
        self.by_shard.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: LeaseId = LeaseId(7);

    fn holder(lease: i64, created: u64) -> Holder {
        Holder { conductor: HostName::parse("c1").ok(), lease, created: Revision(created) }
    }

    fn holders() -> Holders {
        let mut holders = Holders::default();
        holders.begin(MINE);
        holders
    }

    #[test]
    fn only_the_present_lease_makes_a_shard_own() {
        let mut holders = holders();
        holders.put(1, holder(7, 5));
        holders.put(2, holder(6, 5));
        assert_eq!(holders.all_own(), [1]);
        assert!(!holders.is_free(2));
        holders.end();
        assert!(holders.all_own().is_empty());
    }

    #[test]
    fn what_was_held_before_joining_says_nothing() {
        let mut holders = holders();
        holders.put(1, holder(3, 900));
        holders.begin(LeaseId(8));
        assert!(holders.is_free(1), "it may be of another history");
        holders.replace([(1, holder(2, 40))].into_iter(), Revision(50));
        assert!(!holders.is_free(1));
        holders.delete(1, Revision(60));
        assert!(holders.is_free(1));
    }

    #[test]
    fn an_old_listing_or_delete_does_not_take_away_what_was_taken_since() {
        let mut holders = holders();
        holders.put(1, holder(7, 9));
        holders.replace(std::iter::empty(), Revision(8));
        holders.delete(1, Revision(9));
        assert_eq!(holders.own(1), Some(Revision(9)));
        holders.put(1, holder(3, 4));
        assert_eq!(holders.own(1), Some(Revision(9)));
        holders.delete(1, Revision(10));
        assert!(holders.is_free(1));
    }
}
