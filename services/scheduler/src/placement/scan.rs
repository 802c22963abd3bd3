//! One pass over the world: who is left, and what each weigher sees of them.

use super::explain::CANDIDATES;
use super::filters::Removed;
use super::rank::{Best, Ranked};
use super::select::Chain;
use super::space::{Row, Space};
use super::weighers::WeigherRange;
use super::world::World;

/// How many rows go through all filters and weighers before the next ones do: few enough to stay in the
/// processor's cache.
const BLOCK: usize = 512;

/// What a pass found. Kept between the rounds of one decision, which change one row each.
pub(super) struct Scan {
    /// The rows that pass all filters, in order.
    pub survivors: Vec<u32>,
    /// What each filter removed.
    pub removed: Vec<Removed>,
    /// For each weigher the figures of the survivors, in their order; none of one that does not ask.
    columns: Vec<Vec<f64>>,
}

/// One round of weighing.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The best of each host, best first.
    pub best: Vec<Ranked>,
    /// The best candidates, several of one host or not, best first.
    pub candidates: Vec<Ranked>,
    /// The range each weigher saw.
    pub ranges: Vec<WeigherRange>,
}

impl Scan {
    pub fn run<S: Space>(world: &World<S::Row>, chain: &Chain<S>, demand: &S::Demand) -> Self {
        let total = world.rows().len();
        let mut scan = Self {
            survivors: Vec::with_capacity(total),
            removed: chain.filters.iter().map(|_| Removed::default()).collect(),
            columns: chain.weighers.iter().map(|_| Vec::with_capacity(total)).collect(),
        };
        let mut block: Vec<u32> = Vec::with_capacity(BLOCK);
        for start in (0..total).step_by(BLOCK) {
            let end = (start + BLOCK).min(total);
            block.clear();
            block.extend((start..end).map(|row| u32::try_from(row).expect("fewer than 2^32 candidates")));
            scan.filter(world, chain, demand, &mut block);
            let columns = chain.weighers.iter().zip(&mut scan.columns);
            for ((weigher, _), column) in columns.filter(|((weigher, _), _)| weigher.asks(demand)) {
                weigher.measure(world.rows(), demand, &block, column);
            }
            scan.survivors.extend_from_slice(&block);
        }
        scan
    }

    fn filter<S: Space>(
        &mut self,
        world: &World<S::Row>,
        chain: &Chain<S>,
        demand: &S::Demand,
        rows: &mut Vec<u32>,
    ) {
        for (filter, removed) in chain.filters.iter().zip(&mut self.removed) {
            if filter.asks(demand) {
                filter.retain(world, demand, rows, removed);
            }
        }
    }

    /// Looks again at the one row that changed.
    pub fn update<S: Space>(
        &mut self,
        world: &World<S::Row>,
        chain: &Chain<S>,
        demand: &S::Demand,
        row: u32,
    ) {
        let Ok(place) = self.survivors.binary_search(&row) else { return };
        let mut left = vec![row];
        self.filter(world, chain, demand, &mut left);
        if left.is_empty() {
            self.survivors.remove(place);
            for column in self.columns.iter_mut().filter(|column| !column.is_empty()) {
                column.remove(place);
            }
            return;
        }
        let row = &world.rows()[row as usize];
        let columns = chain.weighers.iter().zip(&mut self.columns);
        for ((weigher, _), column) in columns.filter(|((weigher, _), _)| weigher.asks(demand)) {
            column[place] = weigher.raw(demand, row);
        }
    }

    /// Puts the survivors in order, as far as anyone asks: the best `most` hosts.
    pub fn rank<S: Space>(&self, world: &World<S::Row>, chain: &Chain<S>, most: usize, seed: u64) -> Round {
        let ranges: Vec<WeigherRange> = self.columns.iter().map(|column| WeigherRange::of(column)).collect();
        let mut weights = vec![0.0; self.survivors.len()];
        for ((column, range), (_, multiplier)) in self.columns.iter().zip(&ranges).zip(&chain.weighers) {
            if range.is_flat() {
                continue;
            }
            for (weight, raw) in weights.iter_mut().zip(column) {
                *weight += multiplier * range.normalize(*raw);
            }
        }
        let mut best = Best::new(most, true);
        let mut candidates = Best::new(CANDIDATES, false);
        for (row, weight) in self.survivors.iter().zip(weights) {
            if best.may_take(weight) || candidates.may_take(weight) {
                let host = world.rows()[*row as usize].head().host;
                let ranked = Ranked::new(weight, *row, host, seed);
                best.offer(ranked);
                candidates.offer(ranked);
            }
        }
        Round { best: best.into_ranked(), candidates: candidates.into_ranked(), ranges }
    }
}
