//! What both kinds of placement have in common when they are written from their rules alone.

use kilonova_scheduler::placement::{Decision, Pick, Wanted};

/// A host or backend, and its pool; that of a host is empty.
pub type Place = (String, String);

/// One kind of placement: no indexes, no ids, no cleverness.
pub trait Rules: Sized {
    /// Every place that fits, with its weight.
    fn weigh(&self) -> Vec<(Place, f64)>;

    /// Counts one more at a place.
    fn put(&mut self, place: &Place);

    /// Follows the decision pick by pick: each must be among the best at its turn.
    fn verify(mut self, decision: &Decision, wanted: Wanted, name: impl Fn(&Pick) -> String) {
        if decision.picks.is_empty() {
            for _ in 0..wanted.count {
                let weights = self.weigh();
                let Some((best, _)) = weights.iter().max_by(|one, other| one.1.total_cmp(&other.1)) else {
                    assert_eq!(decision.explanation.remaining, 0);
                    return;
                };
                self.put(best);
            }
            panic!("there was room for all, and none was placed");
        }
        assert_eq!(decision.picks.len(), wanted.count);
        let place = |pick: &Pick| (name(pick), pick.pool.clone());
        let mut last = Vec::new();
        for pick in &decision.picks {
            last = self.weigh();
            let best = last.iter().map(|(_, weight)| *weight).fold(f64::MIN, f64::max);
            assert_eq!(weight_of(&last, &place(pick)), best, "the pick is among the best");
            self.put(&place(pick));
        }
        assert_eq!(decision.explanation.remaining as usize, last.len());
        let picked: Vec<String> = decision.picks.iter().map(&name).collect();
        let others = best_of_each(last.iter().filter(|((host, _), _)| !picked.contains(host)));
        let alternates: Vec<Place> = decision.alternates.iter().map(place).collect();
        assert_eq!(alternates.len(), others.len().min(wanted.alternates));
        for (n, alternate) in alternates.iter().enumerate() {
            assert_eq!(weight_of(&last, alternate), others[n], "alternates come best first");
            assert!(!picked.contains(&alternate.0), "an alternate is no pick");
            assert!(alternates[..n].iter().all(|(host, _)| *host != alternate.0), "alternates are distinct");
        }
    }
}

/// Adds to each weight what its figure counts, by a multiplier of its own.
pub fn add(weights: &mut [f64], multiplier: impl Fn(usize) -> f64, figures: &[f64]) {
    let least = figures.iter().copied().fold(f64::MAX, f64::min);
    let greatest = figures.iter().copied().fold(f64::MIN, f64::max);
    if greatest > least {
        for (n, (weight, figure)) in weights.iter_mut().zip(figures).enumerate() {
            let scale = multiplier(n) / (greatest - least);
            *weight += scale * (figure - least);
        }
    }
}

fn weight_of(weights: &[(Place, f64)], place: &Place) -> f64 {
    weights.iter().find(|(one, _)| one == place).expect("what was chosen passes the filters").1
}

/// The weight of the best place of each host, best first.
fn best_of_each<'a>(weights: impl Iterator<Item = &'a (Place, f64)>) -> Vec<f64> {
    let mut sorted: Vec<&(Place, f64)> = weights.collect();
    sorted.sort_by(|one, other| other.1.total_cmp(&one.1));
    let mut best: Vec<&(Place, f64)> = Vec::new();
    for one in sorted {
        if best.iter().all(|better| better.0.0 != one.0.0) {
            best.push(one);
        }
    }
    best.into_iter().map(|(_, weight)| *weight).collect()
}
