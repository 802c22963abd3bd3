//! Keeping several schedulers apart. All of them weigh alike and none knows what the others promise: in a burst they would
//! promise the same host again and again, and it would refuse. So each prefers, among hosts that are nearly as good as the
//! best, those that are its own; if none of these is, any of them.
//!
//! A host is the own one of the scheduler whose name together with the host's gives the greatest hash (rendezvous hashing): all
//! agree without talking, and when one comes or goes only its part moves. While they see different sets of schedulers, two may
//! take the same host for theirs; that costs a refusal at most.

use kilonova_model::page::fingerprint;

use super::rank::scramble;

/// How many of the best are looked at for each scheduler there is.
const WINDOW: usize = 8;
/// By how much less than the best a host may weigh that is taken before it: half of what a weigher with multiplier 1.0 tells
/// the best from the worst by.
const NEARLY: f64 = 0.5;

/// The schedulers there are, as one of them sees it.
#[derive(Debug, Clone, Default)]
pub struct Apart {
    own: u64,
    others: Vec<u64>,
}

impl Apart {
    /// The scheduler itself, and the others.
    pub fn new<'a>(own: &str, others: impl IntoIterator<Item = &'a str>) -> Self {
        Self { own: fingerprint(own), others: others.into_iter().map(fingerprint).collect() }
    }

    /// Whether there is no other scheduler.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.others.is_empty()
    }

    /// How many of the best are looked at.
    #[must_use]
    pub fn window(&self) -> usize {
        if self.is_alone() { 1 } else { WINDOW * (self.others.len() + 1) }
    }

    /// Whether a host is rather this scheduler's than another's.
    #[must_use]
    pub fn owns(&self, host: &str) -> bool {
        let host = fingerprint(host);
        let hash = |scheduler: u64| scramble(scheduler ^ scramble(host));
        self.others.iter().all(|other| hash(*other) <= hash(self.own))
    }

    /// Whether a weight is nearly that of the best.
    #[must_use]
    pub fn is_near(weight: f64, best: f64) -> bool {
        best - weight <= NEARLY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_is_the_own_one_of_one_scheduler_and_the_parts_are_alike() {
        let names = ["s1", "s2", "s3", "s4"];
        let seen_by = |own: &str| Apart::new(own, names.into_iter().filter(|name| *name != own));
        let all: Vec<Apart> = names.iter().map(|own| seen_by(own)).collect();
        let mut parts = [0; 4];
        for n in 0..4_000 {
            let owners: Vec<usize> = (0..4).filter(|one| all[*one].owns(&format!("compute-{n}"))).collect();
            assert_eq!(owners.len(), 1, "{owners:?}");
            parts[owners[0]] += 1;
        }
        assert!(parts.iter().all(|part| (900..1_100).contains(part)), "{parts:?}");
    }

    #[test]
    fn one_alone_owns_all_and_looks_at_the_best_only() {
        let alone = Apart::new("s1", []);
        assert!(alone.is_alone() && alone.owns("c1") && alone.window() == 1);
    }
}
