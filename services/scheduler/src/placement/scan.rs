//! One pass over the world: who is left, and the range that each weigher sees of them. What a pass needs is kept from one
//! decision to the next, so that none has to ask for memory.

use super::bitmap::{BLOCK, Bitmap, Block, WORDS, lanes, members};
use super::explain::CANDIDATES;
use super::filters::is_run;
use super::rank::{Best, Ranked};
use super::select::Chain;
use super::space::{Row, Space};
use super::vocabulary::{AggregatesId, Number};
use super::weighers::{Weigher, WeigherRange};
use super::world::World;

/// What a pass found. The rounds of one decision change one row each.
#[derive(Debug, Default)]
pub struct Scan {
    /// Those that pass all filters.
    left: Bitmap,
    /// Those that each filter removed.
    removed: Vec<Bitmap>,
    /// What each weigher makes of those that are left.
    measures: Vec<Measure>,
}

/// One weigher's view.
#[derive(Debug, Default)]
struct Measure {
    /// Whether it counts in this decision.
    asks: bool,
    /// What it counts on hosts of each set of aggregates, where any says so.
    multipliers: Vec<f64>,
    /// By candidate, where there is no column of it: right for those that are left.
    figures: Vec<f64>,
    /// The range within each block.
    blocks: Vec<WeigherRange>,
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
    /// Those that pass all filters.
    pub fn left(&self) -> &Bitmap {
        &self.left
    }

    /// Those that the filter of this number removed.
    pub fn removed(&self, filter: usize) -> &Bitmap {
        &self.removed[filter]
    }

    /// What the weigher of this number counts on hosts of that set of aggregates, if it counts in this decision.
    pub(super) fn multiplier(&self, weigher: usize, set: AggregatesId, configured: f64) -> Option<f64> {
        let measure = &self.measures[weigher];
        measure.asks.then(|| measure.multipliers.get(set.place()).copied().unwrap_or(configured))
    }

    /// Looks at every row.
    pub(super) fn run<S: Space>(&mut self, world: &World<S::Row>, chain: &Chain<S>, demand: &S::Demand) {
        let rows = world.rows().len();
        self.left.reset(rows, true);
        self.removed.resize_with(chain.filters.len(), Bitmap::default);
        self.removed.iter_mut().for_each(|removed| removed.reset(rows, false));
        self.measures.resize_with(chain.weighers.len(), Measure::default);
        for ((weigher, multiplier), measure) in chain.weighers.iter().zip(&mut self.measures) {
            measure.begin(weigher.as_ref(), *multiplier, world, demand);
        }
        for mut block in self.left.blocks_mut() {
            filter(world, chain, demand, &mut block, &mut self.removed);
            measure(world, chain, demand, &block, &mut self.measures);
        }
    }

    /// Looks again at the one row that changed.
    pub(super) fn update<S: Space>(
        &mut self,
        world: &World<S::Row>,
        chain: &Chain<S>,
        demand: &S::Demand,
        row: usize,
    ) {
        if !self.left.has(row) {
            return;
        }
        let candidate = &world.rows()[row];
        let mut asking =
            chain.filters.iter().zip(&mut self.removed).filter(|(filter, _)| is_run(filter.as_ref(), demand));
        if let Some((_, removed)) = asking.find(|(filter, _)| !filter.passes(world, demand, candidate)) {
            removed.set(row, true);
            self.left.set(row, false);
        }
        let block = self.left.blocks_mut().nth(row / BLOCK);
        block.into_iter().for_each(|block| measure(world, chain, demand, &block, &mut self.measures));
    }

    /// Puts those that are left in order, as far as anyone asks: the best `most` hosts.
    pub(super) fn rank<S: Space>(
        &self,
        world: &World<S::Row>,
        chain: &Chain<S>,
        most: usize,
        seed: u64,
    ) -> Round {
        let ranges: Vec<WeigherRange> = self.measures.iter().map(Measure::range).collect();
        let mut best = Best::new(most, true);
        let mut candidates = Best::new(CANDIDATES, false);
        for (n, left) in self.left.blocks() {
            if left.iter().all(|word| *word == 0) {
                continue;
            }
            let mut weights = [0.0; BLOCK];
            for (((weigher, multiplier), measure), range) in
                chain.weighers.iter().zip(&self.measures).zip(&ranges)
            {
                if !measure.asks || range.is_flat() {
                    continue;
                }
                let (first, columns) = (n * BLOCK, world.columns());
                match weigher.column(columns) {
                    Some(column) => {
                        let figures = &column[first..];
                        measure.weigh(
                            range,
                            &mut weights,
                            figures,
                            *multiplier,
                            &columns.aggregates[first..],
                            |raw| f64::from(*raw),
                        );
                    }
                    None => {
                        let figures = &measure.figures[first..];
                        measure.weigh(
                            range,
                            &mut weights,
                            figures,
                            *multiplier,
                            &columns.aggregates[first..],
                            |raw| *raw,
                        );
                    }
                }
            }
            // Most blocks have none that could be among the best.
            let greatest = weights
                .iter()
                .fold(f64::NEG_INFINITY, |most, weight| if *weight > most { *weight } else { most });
            if !best.may_take(greatest) && !candidates.may_take(greatest) {
                continue;
            }
            for row in members(n * BLOCK, left) {
                let weight = weights[row % BLOCK];
                if best.may_take(weight) || candidates.may_take(weight) {
                    let ranked = Ranked::new(weight, row, world.rows()[row].head().host, seed);
                    best.offer(ranked);
                    candidates.offer(ranked);
                }
            }
        }
        Round { best: best.into_ranked(), candidates: candidates.into_ranked(), ranges }
    }
}

impl Measure {
    fn begin<S: Space>(
        &mut self,
        weigher: &dyn Weigher<S>,
        multiplier: f64,
        world: &World<S::Row>,
        demand: &S::Demand,
    ) {
        let rows = world.rows().len();
        self.multipliers.clear();
        self.multipliers
            .extend(world.vocabulary().multipliers(weigher.key(), multiplier).into_iter().flatten());
        self.asks = weigher.asks(demand) && (multiplier != 0.0 || !self.multipliers.is_empty());
        self.blocks.clear();
        self.blocks.resize(rows.div_ceil(BLOCK), WeigherRange::EMPTY);
        if self.asks && weigher.column(world.columns()).is_none() {
            self.figures.resize(rows, 0.0);
        }
    }

    /// Adds what it counts to the weights of a block.
    fn weigh<T>(
        &self,
        range: &WeigherRange,
        weights: &mut [f64],
        figures: &[T],
        multiplier: f64,
        sets: &[AggregatesId],
        raw: impl Fn(&T) -> f64,
    ) {
        match self.multipliers.as_slice() {
            [] => range.add_weights(weights, figures, multiplier, raw),
            multipliers => range.add_weights_by(weights, figures, sets, multipliers, raw),
        }
    }

    fn range(&self) -> WeigherRange {
        self.blocks.iter().fold(WeigherRange::EMPTY, |all, block| all.with(*block))
    }
}

fn filter<S: Space>(
    world: &World<S::Row>,
    chain: &Chain<S>,
    demand: &S::Demand,
    block: &mut Block<'_>,
    removed: &mut [Bitmap],
) {
    for (filter, removed) in
        chain.filters.iter().zip(removed).filter(|(filter, _)| is_run(filter.as_ref(), demand))
    {
        if block.is_empty() {
            return;
        }
        let mut before = [0; WORDS];
        before[..block.words().len()].copy_from_slice(block.words());
        filter.retain(world, demand, block);
        removed.add_difference(block.first(), &before, block.words());
    }
}

fn measure<S: Space>(
    world: &World<S::Row>,
    chain: &Chain<S>,
    demand: &S::Demand,
    block: &Block<'_>,
    measures: &mut [Measure],
) {
    let (first, lanes) = (block.first(), lanes(block.words()));
    for ((weigher, _), measure) in chain.weighers.iter().zip(measures).filter(|(_, measure)| measure.asks) {
        measure.blocks[first / BLOCK] = match weigher.column(world.columns()) {
            Some(column) => WeigherRange::of_lanes(&column[first..], &lanes),
            None => {
                let mut range = WeigherRange::EMPTY;
                for row in block.rows() {
                    measure.figures[row] = weigher.raw(demand, &world.rows()[row]);
                    range = range.with(WeigherRange::of(&[measure.figures[row]]));
                }
                range
            }
        };
    }
}
