//! That merging changes nothing but the number of transactions.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::{ProjectId, Reason, RequestId};
use proptest::prelude::*;

use super::*;

fn project() -> ProjectId {
    ProjectId::parse("demo").unwrap()
}

fn ask(number: usize, id: Option<u8>, instances: u32, keys: usize) -> Ask {
    let id = id.map(|id| RequestId::parse(&format!("r{id}")).unwrap());
    let request = Request { project: project(), id, method: "Test", fingerprint: String::new() };
    let txn = (0..keys).fold(Txn::new(), |txn, key| {
        let key = format!("{number}/{key}");
        txn.when_absent(key.clone()).put(key, "")
    });
    Ask { request, wanted: QuotaUsage { instances, ..Default::default() }, txn }
}

fn basis(used: u32, limit: i32) -> Basis {
    let used = QuotaUsage { instances: used, ..Default::default() };
    let limits = QuotaLimits { instances: limit, ..Default::default() };
    Basis { used, used_at: Revision(7), limits, limits_at: Revision(3) }
}

#[test]
fn one_that_is_refused_does_not_spoil_the_others() {
    let asks = [ask(0, None, 4, 1), ask(1, None, 9, 1), ask(2, None, 6, 1), ask(3, None, 1, 1)];
    let choice = choose(&project(), &basis(0, 10), &asks);
    assert_eq!((choice.taken, choice.used.instances), (vec![0, 2], 10));
    let refused: Vec<_> = choice.refused.iter().map(|(index, e)| (*index, e.reason)).collect();
    assert_eq!(refused, [(1, Reason::QuotaExceeded), (3, Reason::QuotaExceeded)]);
    assert_eq!(choice.refused[1].1.metadata["used"], "10");
}

#[test]
fn the_twin_of_one_that_is_judged_waits_for_its_answer() {
    let asks = [ask(0, Some(1), 1, 1), ask(1, Some(1), 1, 1), ask(2, Some(2), 1, 1)];
    let choice = choose(&project(), &basis(0, 10), &asks);
    assert_eq!((choice.taken, choice.refused.len()), (vec![0, 2], 0));
}

#[test]
fn one_transaction_takes_no_more_than_a_store_does_and_at_least_one() {
    let many: Vec<Ask> = (0..200).map(|number| ask(number, None, 1, 2)).collect();
    let choice = choose(&project(), &basis(0, -1), &many);
    assert_eq!(choice.taken.len(), (MAX_TXN_OPS - BASIS_COMPARES) / 2);
    let large = [ask(0, None, 1, 500), ask(1, None, 1, 1)];
    assert_eq!(choose(&project(), &basis(0, -1), &large).taken, [0]);
    assert_eq!(choose(&project(), &basis(0, -1), large.iter().rev()).taken, [0]);
}

#[test]
fn who_is_to_blame_is_found_by_the_place_of_the_compare() {
    let blamed = |failed: &[usize]| blame(failed, [2, 1, 3]);
    assert_eq!(blamed(&[0]), Blame { basis: true, asks: vec![] });
    assert_eq!(blamed(&[1, 4]), Blame { basis: true, asks: vec![1] });
    assert_eq!(blamed(&[3, 7]), Blame { basis: false, asks: vec![0, 2] });
}

#[test]
fn a_basis_is_compared_before_what_it_counts() {
    let keys = Keys::new(&"test".parse().unwrap());
    let counted = basis(1, 10).count(&keys, &project(), &QuotaUsage::default());
    let usage = Compare::ModRevision(keys.usage(&project()), Revision(7));
    let limits = Compare::ModRevision(keys.quota(&project()), Revision(3));
    assert_eq!(counted.compares, [usage, limits]);
    assert_eq!((counted.compares.len(), counted.ops.len()), (BASIS_COMPARES, BASIS_OPS));
    assert!(counted.bytes() < BASIS_BYTES);
}

/// How each was answered: what the project used when it was accepted or refused, or the twin it shares the answer with.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Accepted,
    Refused(String),
    As(usize),
}

/// The requests by themselves, one after the other, the way the choice of the batch left their order.
fn alone(order: &[usize], asks: &[Ask], used: u32, limit: i32) -> (BTreeMap<usize, Answer>, u32) {
    let (mut now, mut ids, mut answers) = (basis(used, limit), BTreeMap::new(), BTreeMap::new());
    for index in order {
        let ask = &asks[*index];
        let id = ask.request.id.as_ref().map(ToString::to_string);
        if let Some(earlier) = id.as_ref().and_then(|id| ids.get(id)) {
            answers.insert(*index, Answer::As(*earlier));
            continue;
        }
        match now.with(&project(), &ask.wanted) {
            Ok(used) => {
                now.used = used;
                ids.extend(id.map(|id| (id, *index)));
                answers.insert(*index, Answer::Accepted);
            }
            Err(error) => {
                answers.insert(*index, Answer::Refused(error.message));
            }
        }
    }
    (answers, now.used.instances)
}

/// The requests in batches, as a turn works them off.
fn merged(asks: &[Ask], used: u32, limit: i32) -> (Vec<usize>, BTreeMap<usize, Answer>, u32) {
    let (mut now, mut order, mut answers) = (basis(used, limit), Vec::new(), BTreeMap::new());
    let mut waiting: Vec<usize> = (0..asks.len()).collect();
    let mut stored: BTreeMap<String, usize> = BTreeMap::new();
    while !waiting.is_empty() {
        let choice = choose(&project(), &now, waiting.iter().map(|index| &asks[*index]));
        let id = |index: &usize| asks[*index].request.id.as_ref().map(ToString::to_string);
        // The store refuses the transaction if one of the ids is there; those are answered, and the rest is judged anew.
        let judged = choice.taken.iter().chain(choice.refused.iter().map(|(place, _)| place));
        let repeats: BTreeSet<usize> = judged
            .map(|place| waiting[*place])
            .filter(|index| id(index).is_some_and(|id| stored.contains_key(&id)))
            .collect();
        if !repeats.is_empty() {
            for index in &repeats {
                answers.insert(*index, Answer::As(stored[&id(index).unwrap()]));
                order.push(*index);
            }
            waiting.retain(|index| !repeats.contains(index));
            continue;
        }
        let mut gone: Vec<(usize, Answer)> =
            choice.taken.iter().map(|place| (waiting[*place], Answer::Accepted)).collect();
        let refused = choice.refused.into_iter();
        gone.extend(refused.map(|(place, error)| (waiting[place], Answer::Refused(error.message))));
        gone.sort_by_key(|(index, _)| *index);
        for (index, answer) in gone {
            if answer == Answer::Accepted {
                stored.extend(id(&index).map(|id| (id, index)));
            }
            waiting.retain(|other| *other != index);
            order.push(index);
            answers.insert(index, answer);
        }
        now.used = choice.used;
    }
    (order, answers, now.used.instances)
}

proptest! {
    #[test]
    fn a_batch_answers_as_the_same_requests_one_by_one(
        all in prop::collection::vec((prop::option::of(0_u8..6), 0_u32..5, 1_usize..60), 1..20),
        used in 0_u32..10,
        limit in -1_i32..25,
    ) {
        let asks: Vec<Ask> =
            all.iter().enumerate().map(|(number, (id, n, keys))| ask(number, *id, *n, *keys)).collect();
        let (order, merged, merged_used) = merged(&asks, used, limit);
        let (alone, alone_used) = alone(&order, &asks, used, limit);
        prop_assert_eq!(merged, alone);
        prop_assert_eq!(merged_used, alone_used);
        prop_assert!(limit < 0 || merged_used <= u32::try_from(limit).unwrap_or(0).max(used));
    }
}
