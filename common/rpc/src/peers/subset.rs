//! Which members of a service one of many callers uses: rendezvous hashing, so that callers spread evenly over the
//! members, and a member that comes or goes moves only the callers it must (gRFC A68).

use std::hash::{DefaultHasher, Hash, Hasher};

use kilonova_model::HostName;

/// The choice of one caller.
#[derive(Debug, Clone)]
pub(super) struct Subset {
    caller: String,
    size: usize,
}

impl Subset {
    pub(super) fn new(caller: &str, size: usize) -> Self {
        Self { caller: caller.to_owned(), size: size.max(1) }
    }

    /// Those of `members` to keep connected: in the caller's own order, until `size` of them can be used or may
    /// soon be. Those that cannot stay in it, so that they are used again when they come back.
    pub(super) fn choose<'a, M>(
        &self,
        members: impl Iterator<Item = (&'a HostName, M)>,
        is_hopeless: impl Fn(&HostName) -> bool,
    ) -> Vec<(&'a HostName, M)> {
        let mut ranked: Vec<_> = members.collect();
        ranked.sort_by_cached_key(|(host, _)| std::cmp::Reverse((self.score(host), (*host).clone())));
        let (mut hopeful, mut chosen) = (0, 0);
        for (host, _) in &ranked {
            if hopeful == self.size {
                break;
            }
            hopeful += usize::from(!is_hopeless(host));
            chosen += 1;
        }
        ranked.truncate(chosen);
        ranked
    }

    fn score(&self, host: &HostName) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.caller.as_str(), host.as_str()).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::{BTreeMap, BTreeSet};

    fn hosts(count: usize) -> Vec<HostName> {
        (0..count).map(|i| HostName::parse(&format!("c{i}")).unwrap()).collect()
    }

    fn chosen(caller: usize, members: &[HostName], hopeless: &[&str]) -> BTreeSet<String> {
        let subset = Subset::new(&format!("compute/n{caller}"), 3);
        let members = members.iter().map(|host| (host, ()));
        let chosen = subset.choose(members, |host| hopeless.contains(&host.as_str()));
        chosen.into_iter().map(|(host, ())| host.to_string()).collect()
    }

    #[test]
    fn callers_spread_evenly() {
        let (members, callers) = (hosts(10), 2000);
        let mut load: BTreeMap<String, usize> = BTreeMap::new();
        for caller in 0..callers {
            let chosen = chosen(caller, &members, &[]);
            assert_eq!(chosen.len(), 3);
            chosen.into_iter().for_each(|host| *load.entry(host).or_default() += 1);
        }
        let fair = callers * 3 / 10;
        assert!(load.values().all(|n| (fair * 8 / 10..fair * 12 / 10).contains(n)), "{load:?}");
    }

    #[test]
    fn a_member_that_leaves_moves_only_its_own_callers() {
        let all = hosts(10);
        let without: Vec<_> = all.iter().filter(|host| host.as_str() != "c4").cloned().collect();
        for caller in 0..200 {
            let (before, after) = (chosen(caller, &all, &[]), chosen(caller, &without, &[]));
            let moved = before.difference(&after).count();
            assert_eq!(moved, usize::from(before.contains("c4")));
        }
    }

    #[test]
    fn a_hopeless_one_gets_a_stand_in_and_keeps_its_place() {
        let all = hosts(10);
        let before = chosen(7, &all, &[]);
        let down = before.iter().next().unwrap();
        let after = chosen(7, &all, &[down]);
        assert!(after.is_superset(&before));
        assert_eq!(after.len(), 4);
        assert_eq!(chosen(1, &hosts(2), &[]).len(), 2);
    }
}
