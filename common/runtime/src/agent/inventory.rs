//! What there is on a host, for whoever compares it with records: what the driver has and what the book knows of it.
//!
//! The driver is asked between two looks at the book. What changed from one to the other counts as busy, so that nobody
//! takes a moment in between for how things stand.

use std::collections::BTreeMap;

use kilonova_model::Error;
use kilonova_model::page::{decode_token, encode_token, page_size};

use super::executor::{Book, Executor};
use super::ledger::Stamp;
use super::work::Work;

/// What the book knows of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The newest command taken for it.
    pub stamp: Stamp,
    /// Whether work on it goes on.
    pub busy: bool,
}

/// What the book knows of everything that is there, being made or being unmade.
pub fn known<W: Work>(book: &Book<W>) -> BTreeMap<W::Id, Known> {
    book.ledger.live_ones().map(|(id, stamp, busy)| (id, Known { stamp, busy })).collect()
}

/// Both looks as one: busy is what was busy in one of them, or is not the same in both.
pub fn both<K: Ord + Copy>(before: &BTreeMap<K, Known>, mut after: BTreeMap<K, Known>) -> BTreeMap<K, Known> {
    for (id, known) in &mut after {
        known.busy |= before.get(id).is_none_or(|first| first != known);
    }
    for (id, first) in before {
        after.entry(*id).or_insert(Known { busy: true, ..*first });
    }
    after
}

/// A page of what there is, in the order of ids.
pub fn page<K: Ord + ToString, T>(
    name: &str,
    all: BTreeMap<K, T>,
    size: i32,
    token: &str,
) -> Result<(Vec<(K, T)>, String), Error> {
    let (limit, after) = (page_size(size)?, decode_token(name, token)?);
    let follows = |id: &K| after.as_ref().is_none_or(|after| id.to_string() > *after);
    let mut rest = all.into_iter().filter(|(id, _)| follows(id));
    let page: Vec<(K, T)> = rest.by_ref().take(limit).collect();
    let last = page.last().filter(|_| rest.next().is_some());
    let next = last.map(|(id, _)| encode_token(name, &id.to_string())).unwrap_or_default();
    Ok((page, next))
}

impl<W: Work> Executor<W> {
    /// What the book knows of everything, as a first or second look.
    pub fn known(&self) -> BTreeMap<W::Id, Known> {
        self.read(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::{Attempt, Generation};

    fn at(generation: u64, busy: bool) -> Known {
        Known { stamp: Stamp { generation: Generation(generation), attempt: Attempt(1) }, busy }
    }

    #[test]
    fn what_changes_while_the_driver_is_asked_is_busy() {
        let before =
            BTreeMap::from([(1, at(1, false)), (2, at(1, false)), (3, at(1, true)), (4, at(1, false))]);
        let after =
            BTreeMap::from([(1, at(1, false)), (2, at(2, false)), (3, at(1, false)), (5, at(1, false))]);
        let busy: Vec<_> =
            both(&before, after).into_iter().filter(|(_, one)| one.busy).map(|(id, _)| id).collect();
        assert_eq!(busy, [2, 3, 4, 5]);
    }

    #[test]
    fn pages_follow_each_other_and_end() {
        let all = || BTreeMap::from_iter((1..=5).map(|id| (id, ())));
        let (mut token, mut seen) = (String::new(), Vec::new());
        for expected in [2, 2, 1] {
            let (found, next) = page("things", all(), 2, &token).unwrap();
            assert_eq!(found.len(), expected);
            seen.extend(found.into_iter().map(|(id, ())| id));
            token = next;
        }
        assert_eq!((seen, token), (vec![1, 2, 3, 4, 5], String::new()));
        assert!(page("things", all(), -1, "").is_err() && page("things", all(), 1, "nonsense").is_err());
    }
}
