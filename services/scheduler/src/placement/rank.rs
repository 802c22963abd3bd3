//! The best few of many, without sorting the many.

use std::cmp::Ordering;

use super::world::HostId;

/// A candidate's place in the order: the greater weight first; among equals chance decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ranked {
    pub weight: f64,
    chance: u64,
    pub row: usize,
    pub host: HostId,
}

impl Ranked {
    pub(super) fn new(weight: f64, row: usize, host: HostId, seed: u64) -> Self {
        Self { weight, chance: chance(seed, row), row, host }
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |one: &Self| (one.chance, one.row);
        self.weight.total_cmp(&other.weight).then_with(|| key(self).cmp(&key(other)))
    }
}

/// A number that the seed and a place give, the same each time.
pub(super) fn chance(seed: u64, place: usize) -> u64 {
    scramble(seed ^ place as u64)
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit given.
pub(super) fn scramble(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The best so far, best first.
#[derive(Debug)]
pub(super) struct Best {
    ranked: Vec<Ranked>,
    most: usize,
    /// Of each host only its best candidate.
    one_per_host: bool,
}

impl Best {
    pub(super) fn new(most: usize, one_per_host: bool) -> Self {
        Self { ranked: Vec::with_capacity(most + 1), most, one_per_host }
    }

    pub(super) fn offer(&mut self, new: Ranked) {
        let is_full = self.ranked.len() == self.most;
        if is_full && self.ranked.last().is_none_or(|worst| new.order(worst).is_le()) {
            return;
        }
        if self.one_per_host
            && let Some(same) = self.ranked.iter().position(|one| one.host == new.host)
        {
            if new.order(&self.ranked[same]).is_le() {
                return;
            }
            self.ranked.remove(same);
        }
        let place = self.ranked.partition_point(|one| one.order(&new).is_gt());
        self.ranked.insert(place, new);
        self.ranked.truncate(self.most);
    }

    /// Whether a candidate of this weight could be one of them: cheaper to ask than to offer.
    pub(super) fn may_take(&self, weight: f64) -> bool {
        self.ranked.len() < self.most || self.ranked.last().is_some_and(|worst| weight >= worst.weight)
    }

    pub(super) fn into_ranked(self) -> Vec<Ranked> {
        self.ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, pool};
    use crate::placement::{PoolRow, World};

    #[test]
    fn keeps_the_best_of_each_host() {
        let mut world: World<PoolRow> = World::new();
        let a = backend(&mut world, "a", &[pool("p")]);
        let b = backend(&mut world, "b", &[pool("p")]);
        let mut best = Best::new(2, true);
        for (row, (host, weight)) in
            [(a, 1.0), (a, 3.0), (b, 0.5), (a, 2.0), (b, 0.7)].into_iter().enumerate()
        {
            best.offer(Ranked::new(weight, row, host, 0));
        }
        let found: Vec<_> = best.into_ranked().iter().map(|one| (one.host, one.weight)).collect();
        assert_eq!(found, [(a, 3.0), (b, 0.7)]);
    }

    #[test]
    fn chance_tells_equals_apart_and_spreads() {
        let mut world: World<PoolRow> = World::new();
        let host = backend(&mut world, "a", &[pool("p")]);
        let mut won = [0_u32; 4];
        for seed in 0..1000 {
            let mut best = Best::new(1, false);
            for row in 0..4 {
                best.offer(Ranked::new(1.0, row, host, seed * 0x1_0001));
            }
            won[best.into_ranked()[0].row] += 1;
        }
        assert!(won.iter().all(|wins| *wins > 150), "{won:?}");
    }
}
