//! Why this one, or why none: the figures behind a decision, for people and for the record.

use kilonova_proto::types::v1::{
    FilterResult, FilterSample, PlacementExplanation, WeighedCandidate, WeigherResult,
};

use super::filters::{Filter, is_run};
use super::rank::Ranked;
use super::scan::{Round, Scan};
use super::select::{Chain, Wanted};
use super::space::{Row, Space};
use super::world::World;

/// How many of the best candidates are told of.
pub(super) const CANDIDATES: usize = 5;
/// How many of those that a filter removed are told of.
const SAMPLES: usize = 3;

/// All that is known when a decision was made.
pub(super) struct Story<'a, S: Space> {
    pub world: &'a World<S::Row>,
    pub chain: &'a Chain<S>,
    pub demand: &'a S::Demand,
    pub wanted: Wanted,
    pub scan: &'a Scan,
    pub round: &'a Round,
    /// Those placed, in their order.
    pub picked: &'a [Ranked],
}

impl<S: Space> Story<'_, S> {
    pub(super) fn tell(&self) -> PlacementExplanation {
        let placed = self.picked.len();
        let remaining = self.scan.left().count();
        PlacementExplanation {
            considered: count(self.world.rows().len()),
            filters: self.filters(),
            remaining: count(remaining),
            candidates: self.candidates(),
            summary: if placed == self.wanted.count { self.success(remaining) } else { self.refusal(placed) },
            scheduler: String::new(),
            enough: if remaining == 0 { self.enough() } else { Vec::new() },
        }
    }

    fn filters(&self) -> Vec<FilterResult> {
        let results = self.chain.filters.iter().enumerate().map(|(n, filter)| {
            let removed = self.scan.removed(n);
            let samples = removed.iter().take(SAMPLES).map(|row| FilterSample {
                host: self.place(row),
                detail: filter.detail(self.world, self.demand, self.row(row)),
            });
            FilterResult {
                name: filter.name().to_owned(),
                removed: count(removed.count()),
                samples: samples.collect(),
            }
        });
        results.collect()
    }

    fn candidates(&self) -> Vec<WeighedCandidate> {
        let candidates = self.round.candidates.iter().map(|ranked| {
            let row = self.row(ranked.row);
            let weighers = self.chain.weighers.iter().zip(&self.round.ranges).enumerate();
            let weighers = weighers.filter_map(|(n, ((weigher, configured), range))| {
                let multiplier = self.scan.multiplier(n, row.head().aggregates, *configured)?;
                let raw = weigher.raw(self.demand, row);
                Some(WeigherResult {
                    name: weigher.name().to_owned(),
                    raw,
                    normalized: range.normalize(raw),
                    multiplier,
                })
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
        let last = self.picked.last().map(|ranked| self.place(ranked.row)).unwrap_or_default();
        let is_first =
            self.picked.last().map(|last| last.row) == self.round.best.first().map(|best| best.row);
        let best = match self.chain.subset.min(remaining) {
            0 | 1 if is_first => "the best".to_owned(),
            0 | 1 => "this scheduler's own, nearly the best".to_owned(),
            several => format!("one of the best {several}"),
        };
        match self.wanted.count {
            1 => format!("{last} is {best} of {remaining} that fit, {considered} considered"),
            several => format!("{several} placed, the last on {last}; {considered} considered"),
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
        for (n, filter) in self.chain.filters.iter().enumerate() {
            let removed = self.scan.removed(n);
            let Some(first) = removed.iter().next() else { continue };
            let count = removed.count();
            let why = self.why(filter.as_ref(), first, count, removed.iter());
            summary.push_str(&format!("; {} removed {count}, {why}", filter.name()));
        }
        summary
    }

    /// Why so many, of which this is the first, do not pass: what the closest offers where that is a figure, or else the
    /// first one's detail.
    fn why(
        &self,
        filter: &dyn Filter<S>,
        first: usize,
        count: usize,
        rows: impl Iterator<Item = usize>,
    ) -> String {
        let nearest = self
            .closest(filter, rows)
            .and_then(|closest| filter.nearest(self.demand, self.row(closest), &self.place(closest)));
        nearest.unwrap_or_else(|| {
            let such_as = if count > 1 { "such as " } else { "" };
            format!(
                "{such_as}{}: {}",
                self.place(first),
                filter.detail(self.world, self.demand, self.row(first))
            )
        })
    }

    /// What would be enough where one filter alone stands in the way.
    fn enough(&self) -> Vec<String> {
        let filters = self.chain.filters.iter().enumerate();
        filters
            .filter_map(|(n, filter)| {
                let later: Vec<_> = self.chain.filters[n + 1..]
                    .iter()
                    .filter(|later| is_run(later.as_ref(), self.demand))
                    .collect();
                let passes_later = |row: &usize| {
                    later.iter().all(|later| later.passes(self.world, self.demand, self.row(*row)))
                };
                let alone: Vec<usize> = self.scan.removed(n).iter().filter(passes_later).collect();
                let why = self.why(filter.as_ref(), *alone.first()?, alone.len(), alone.iter().copied());
                Some(format!("without {} {} would do: {why}", filter.name(), alone.len()))
            })
            .collect()
    }

    /// The first of these that came closest to passing, where that is a figure.
    fn closest(&self, filter: &dyn Filter<S>, rows: impl Iterator<Item = usize>) -> Option<usize> {
        let mut closest: Option<(f64, usize)> = None;
        for row in rows {
            let closeness = filter.closeness(self.demand, self.row(row))?;
            if closest.is_none_or(|(best, _)| closeness > best) {
                closest = Some((closeness, row));
            }
        }
        closest.map(|(_, row)| row)
    }

    fn row(&self, row: usize) -> &S::Row {
        &self.world.rows()[row]
    }

    /// `host`, or `host#pool` as Cinder writes it.
    fn place(&self, row: usize) -> String {
        let row = self.row(row);
        let host = self.world.name(row.head().host);
        if row.pool().is_empty() { host.to_owned() } else { format!("{host}#{}", row.pool()) }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
