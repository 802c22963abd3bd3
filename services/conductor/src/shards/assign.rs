//! Which conductor should own which shard: pure, and the same on every conductor.

use std::collections::BTreeSet;

use kilonova_model::HostName;
use kilonova_model::page::fingerprint;

/// How many shards there are, for ever.
pub const SHARDS: u16 = 256;

/// The shard of an id.
#[must_use]
pub fn shard_of(id: &impl ToString) -> u16 {
    u16::try_from(mix(fingerprint(id.to_string())) % u64::from(SHARDS)).unwrap_or(0)
}

/// The conductor that should own a shard, by rendezvous hashing: when one joins or leaves, only the shards it gets
/// or had move.
#[must_use]
pub fn preferred(shard: u16, conductors: &BTreeSet<HostName>) -> Option<&HostName> {
    conductors.iter().max_by_key(|conductor| mix(fingerprint(format!("{conductor}/{shard}"))))
}

/// All shards that this conductor should own.
#[must_use]
pub fn shards_of(conductor: &HostName, conductors: &BTreeSet<HostName>) -> BTreeSet<u16> {
    (0..SHARDS).filter(|shard| preferred(*shard, conductors) == Some(conductor)).collect()
}

/// Spreads a weak hash over all bits (the finaliser of MurmurHash3).
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use kilonova_model::InstanceId;

    use super::*;

    fn conductors(n: usize) -> BTreeSet<HostName> {
        (1..=n).map(|i| HostName::parse(&format!("conductor-{i}")).unwrap()).collect()
    }

    #[test]
    fn shards_are_spread_evenly() {
        let three = conductors(3);
        for conductor in &three {
            let owned = (0..SHARDS).filter(|shard| preferred(*shard, &three) == Some(conductor)).count();
            assert!((60..=112).contains(&owned), "{conductor} owns {owned}");
        }
    }

    #[test]
    fn a_conductor_that_leaves_moves_only_its_own_shards() {
        let (three, mut two) = (conductors(3), conductors(3));
        let gone = HostName::parse("conductor-2").unwrap();
        two.remove(&gone);
        for shard in 0..SHARDS {
            let before = preferred(shard, &three).unwrap();
            if *before != gone {
                assert_eq!(preferred(shard, &two), Some(before));
            }
        }
    }

    #[test]
    fn ids_are_spread_over_all_shards() {
        let used: BTreeSet<u16> = (0..10_000).map(|_| shard_of(&InstanceId::generate())).collect();
        assert_eq!(used.len(), usize::from(SHARDS));
    }

    #[test]
    fn nobody_owns_anything_when_there_is_nobody() {
        assert_eq!(preferred(1, &BTreeSet::new()), None);
    }
}
