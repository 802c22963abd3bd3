//! Why this one, or why none: the figures behind a decision, for people and for the record.

use kilonova_proto::types::v1::{
    FilterResult, FilterSample, PlacementExplanation, WeighedCandidate, WeigherResult,
};

use super::scan::{Round, Scan};
use super::select::{Chain, Wanted};
use super::space::{Row, Space};
use super::world::World;

/// How many of the best candidates are told of.
pub(super) const CANDIDATES: usize = 5;

/// All that is known when a decision was made.
pub(super) struct Story<'a, S: Space> {
    pub world: &'a World<S::Row>,
    pub chain: &'a Chain<S>,
    pub demand: &'a S::Demand,
    pub wanted: Wanted,
    pub scan: &'a Scan,
    pub round: &'a Round,
}

impl<S: Space> Story<'_, S> {
    /// `placed` of the wanted found a place.
    pub(super) fn tell(&self, placed: usize) -> PlacementExplanation {
        let remaining = self.scan.survivors.len();
        PlacementExplanation {
            considered: count(self.world.rows().len()),
            filters: self.filters(),
            remaining: count(remaining),
            candidates: self.candidates(),
            summary: if placed == self.wanted.count { self.success(remaining) } else { self.refusal(placed) },
            scheduler: String::new(),
        }
    }

    fn filters(&self) -> Vec<FilterResult> {
        let results =
            self.chain.filters.iter().zip(&self.scan.removed).map(|(filter, removed)| FilterResult {
                name: filter.name().to_owned(),
                removed: removed.count,
                samples: removed
                    .samples
                    .iter()
                    .map(|row| FilterSample {
                        host: self.place(*row),
                        detail: filter.detail(self.world, self.demand, self.row(*row)),
                    })
                    .collect(),
            });
        results.collect()
    }

    fn candidates(&self) -> Vec<WeighedCandidate> {
        let candidates = self.round.candidates.iter().map(|ranked| {
            let row = self.row(ranked.row);
            let weighers = self.chain.weighers.iter().zip(&self.round.ranges);
            let weighers = weighers.filter(|((weigher, _), _)| weigher.asks(self.demand));
            let weighers = weighers.map(|((weigher, multiplier), range)| {
                let raw = weigher.raw(self.demand, row);
                WeigherResult {
                    name: weigher.name().to_owned(),
                    raw,
                    normalized: range.normalize(raw),
                    multiplier: *multiplier,
                }
            });
            WeighedCandidate {
                host: self.world.name(ranked.host).to_owned(),
                pool: row.pool().to_owned(),
                weight: ranked.weight,
                weighers: weighers.collect(),
            }
        });
        candidates.collect()
    }

    fn success(&self, remaining: usize) -> String {
        let considered = self.world.rows().len();
        let best = self.round.candidates.first().map(|ranked| self.place(ranked.row)).unwrap_or_default();
        match self.wanted.count {
            1 => format!("{best} is the best of {remaining} that fit, {considered} considered"),
            several => format!("{several} placed, the last on {best}; {considered} considered"),
        }
    }

    fn refusal(&self, placed: usize) -> String {
        let considered = self.world.rows().len();
        if considered == 0 {
            return format!("no valid {noun}: this scheduler knows of no {noun}", noun = S::NOUN);
        }
        let mut summary = match placed {
            0 => format!("no valid {}: {considered} considered", S::NOUN),
            some => format!("room for {some} of {} only: {considered} considered", self.wanted.count),
        };
        for (filter, removed) in self.chain.filters.iter().zip(&self.scan.removed) {
            if removed.count == 0 {
                continue;
            }
            summary.push_str(&format!("; {} removed {}", filter.name(), removed.count));
            if let Some(closest) = removed.closest_row() {
                let nearest = filter.nearest(self.demand, self.row(closest), &self.place(closest));
                summary.push_str(&nearest.map(|text| format!(", {text}")).unwrap_or_default());
            } else if let Some(first) = removed.samples.first() {
                let such_as = if removed.count > 1 { "such as " } else { "" };
                let detail = filter.detail(self.world, self.demand, self.row(*first));
                summary.push_str(&format!(", {such_as}{}: {detail}", self.place(*first)));
            }
        }
        summary
    }

    fn row(&self, row: u32) -> &S::Row {
        &self.world.rows()[row as usize]
    }

    /// `host`, or `host#pool` as Cinder writes it.
    fn place(&self, row: u32) -> String {
        let row = self.row(row);
        let host = self.world.name(row.head().host);
        if row.pool().is_empty() { host.to_owned() } else { format!("{host}#{}", row.pool()) }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
