//! One decision: filter, weigh, choose, and say why.

use kilonova_proto::types::v1::PlacementExplanation;

use super::apart::Apart;
use super::explain;
use super::filters::Filter;
use super::rank::{Ranked, chance};
use super::scan::{Round, Scan};
use super::space::{Demand, Row, Space};
use super::weighers::Weigher;
use super::world::{HostId, World};

/// The rules of one kind of placement.
pub struct Chain<S: Space> {
    /// Asked in this order.
    pub filters: Vec<Box<dyn Filter<S>>>,
    /// Each with its multiplier.
    pub weighers: Vec<(Box<dyn Weigher<S>>, f64)>,
    /// Each place is drawn from so many of the best: 1 for the best itself.
    pub subset: usize,
    /// Which hosts are preferred among those that are nearly as good, so that several schedulers do not choose the same.
    pub apart: Apart,
}

impl<S: Space> Chain<S> {
    /// Draws a place from the best, best first.
    fn draw(&self, world: &World<S::Row>, best: &[Ranked], chance: u64) -> Option<Ranked> {
        let greatest = best.first()?.weight;
        let any_of = |some: &[Ranked]| some[chance as usize % some.len()];
        if self.apart.is_alone() {
            return Some(any_of(&best[..self.subset.clamp(1, best.len())]));
        }
        let window = best.iter().take(self.apart.window());
        let near = window.take_while(|one| Apart::is_near(one.weight, greatest)).count().max(1);
        let near = &best[..near];
        let own = near.iter().filter(|one| self.apart.owns(world.name(one.host)));
        let own: Vec<Ranked> = own.take(self.subset).copied().collect();
        // Where none is its own, the best is no better: others take it too.
        Some(any_of(if own.is_empty() { near } else { &own }))
    }
}

/// How many are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Placements, all or none.
    pub count: usize,
    /// Further hosts for each, if there are any.
    pub alternates: usize,
}

/// One chosen candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Whose it is.
    pub host: HostId,
    /// The pool; empty for a host.
    pub pool: String,
}

/// What was decided. The world is as it was before.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// One for each placement; none when there is no place for all.
    pub picks: Vec<Pick>,
    /// The next best, best first, none of them the host of a pick; they serve every pick.
    pub alternates: Vec<Pick>,
    /// Why. Of several placements it tells of the last one looked at.
    pub explanation: PlacementExplanation,
}

/// Decides. The same world, demand and seed give the same answer, whatever `scan` was used for before.
pub fn select<S: Space>(
    world: &mut World<S::Row>,
    chain: &Chain<S>,
    demand: &S::Demand,
    wanted: Wanted,
    seed: u64,
    scan: &mut Scan,
) -> Decision {
    let amount = demand.amount();
    scan.run(world, chain, demand);
    let mut picked: Vec<Ranked> = Vec::with_capacity(wanted.count);
    let mut round = Round::default();
    while picked.len() < wanted.count {
        let most = (wanted.alternates + wanted.count).max(chain.subset).max(chain.apart.window());
        round = scan.rank(world, chain, most, seed);
        let Some(best) = chain.draw(world, &round.best, chance(seed, picked.len())) else { break };
        picked.push(best);
        if picked.len() == wanted.count {
            break;
        }
        world.change_row(best.row, |row| row.hold(&amount));
        scan.update(world, chain, demand, best.row);
    }
    let story = explain::Story { world, chain, demand, wanted, scan, round: &round, picked: &picked };
    let explanation = story.tell();
    let complete = picked.len() == wanted.count;
    let held = if complete { picked.len().saturating_sub(1) } else { picked.len() };
    for pick in &picked[..held] {
        world.change_row(pick.row, |row| row.release(&amount));
    }
    if !complete {
        return Decision { picks: Vec::new(), alternates: Vec::new(), explanation };
    }
    let pick = |ranked: &Ranked| Pick { host: ranked.host, pool: world.rows()[ranked.row].pool().to_owned() };
    let others = round.best.iter().filter(|one| picked.iter().all(|pick| pick.host != one.host));
    Decision {
        alternates: others.take(wanted.alternates).map(pick).collect(),
        picks: picked.iter().map(pick).collect(),
        explanation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostsConfig;
    use crate::placement::testing::{host, instance, resources};
    use crate::placement::{Compute, ComputeDemand, ComputeRow};
    use kilonova_proto::types::v1::ComputeResources;

    fn chain() -> Chain<Compute> {
        HostsConfig::default().chain().unwrap()
    }

    fn world_of(free_ram: &[u32]) -> World<ComputeRow> {
        let mut world = World::new();
        for (n, free) in free_ram.iter().enumerate() {
            let used = 65_536 - free;
            host(&mut world, &format!("c{n}"), super::super::testing::with_ram_used(resources(), used));
        }
        world
    }

    fn decide(
        world: &mut World<ComputeRow>,
        demand: &ComputeDemand,
        count: usize,
        alternates: usize,
    ) -> Decision {
        select(world, &chain(), demand, Wanted { count, alternates }, 7, &mut Scan::default())
    }

    fn names(world: &World<ComputeRow>, picks: &[Pick]) -> Vec<String> {
        picks.iter().map(|pick| world.name(pick.host).to_owned()).collect()
    }

    #[test]
    fn the_emptiest_wins_and_alternates_are_other_hosts() {
        let mut world = world_of(&[4096, 16_384, 8192, 512]);
        let demand = ComputeDemand::new(&instance(1, 1024, 0), &world);
        let decision = decide(&mut world, &demand, 1, 5);
        assert_eq!(names(&world, &decision.picks), ["c1"]);
        assert_eq!(names(&world, &decision.alternates), ["c2", "c0"]);
        let explanation = decision.explanation;
        assert_eq!((explanation.considered, explanation.remaining), (4, 3));
        assert_eq!(explanation.candidates[0].host, "c1");
        assert_eq!(explanation.candidates.len(), 3);
    }

    #[test]
    fn several_see_what_the_earlier_ones_take() {
        let mut world = world_of(&[4096, 2048]);
        let demand = ComputeDemand::new(&instance(1, 2048, 0), &world);
        let decision = decide(&mut world, &demand, 3, 2);
        let mut hosts = names(&world, &decision.picks);
        hosts.sort();
        assert_eq!(hosts, ["c0", "c0", "c1"]);
        assert!(world.rows().iter().all(|row| row.ram.held == 0), "nothing stays held");
    }

    #[test]
    fn all_or_none() {
        let mut world = world_of(&[4608, 2048]);
        let demand = ComputeDemand::new(&instance(1, 2048, 0), &world);
        let decision = decide(&mut world, &demand, 4, 0);
        assert!(decision.picks.is_empty());
        assert_eq!(
            decision.explanation.summary,
            "room for 3 of 4 only: 2 considered; RamFilter removed 2, the most free is 512 MiB on c0, 2048 MiB needed"
        );
        assert!(world.rows().iter().all(|row| row.ram.held == 0));
    }

    #[test]
    fn a_refusal_explains_itself() {
        let mut world = world_of(&[4096, 6144, 5120]);
        let demand = ComputeDemand::new(&instance(1, 8192, 0), &world);
        let decision = decide(&mut world, &demand, 1, 0);
        let explanation = decision.explanation;
        assert_eq!(
            explanation.summary,
            "no valid host: 3 considered; RamFilter removed 3, the most free is 6144 MiB on c1, 8192 MiB needed"
        );
        let ram = explanation.filters.iter().find(|filter| filter.name == "RamFilter").unwrap();
        assert_eq!(ram.removed, 3);
        assert_eq!(ram.samples[1].detail, "needs 8192 MiB, has 6144 of 65536 MiB free, ratio 1.0");
    }

    #[test]
    fn what_alone_would_be_enough_is_said() {
        let mut world = world_of(&[4096, 6144]);
        host(&mut world, "full", ComputeResources { vcpus_used: 64, ..resources() });
        host(&mut world, "neither", ComputeResources { vcpus_used: 64, ram_used_mib: 65_536, ..resources() });
        let demand = ComputeDemand::new(&instance(1, 8192, 0), &world);
        let decision = decide(&mut world, &demand, 1, 0);
        assert_eq!(
            decision.explanation.enough,
            [
                "without CoreFilter 1 would do: the most free is 0 vCPUs on full, 1 vCPUs needed",
                "without RamFilter 2 would do: the most free is 6144 MiB on c1, 8192 MiB needed",
            ]
        );
    }

    #[test]
    fn a_place_is_drawn_from_so_many_of_the_best() {
        let mut world = world_of(&[4096, 16_384, 8192, 5120]);
        let demand = ComputeDemand::new(&instance(1, 1024, 0), &world);
        let chain = Chain { subset: 3, ..chain() };
        let mut drawn = std::collections::BTreeMap::<String, usize>::new();
        for seed in 0..300 {
            let wanted = Wanted { count: 1, alternates: 1 };
            let decision = select(&mut world, &chain, &demand, wanted, seed, &mut Scan::default());
            let picked = names(&world, &decision.picks).remove(0);
            let summary = format!("{picked} is one of the best 3 of 4 that fit, 4 considered");
            assert_eq!(decision.explanation.summary, summary);
            let next = if picked == "c1" { "c2" } else { "c1" };
            assert_eq!(names(&world, &decision.alternates), [next], "alternates are the best of the others");
            *drawn.entry(picked).or_default() += 1;
        }
        assert_eq!(drawn.keys().collect::<Vec<_>>(), ["c1", "c2", "c3"]);
        assert!(drawn.values().all(|count| *count > 60), "{drawn:?}");
    }

    #[test]
    fn schedulers_take_different_hosts_where_these_are_nearly_alike() {
        let mut world = world_of(&[9000, 8990, 8980, 8970, 8960, 8950, 1024]);
        let demand = ComputeDemand::new(&instance(1, 1024, 0), &world);
        let mut taken = Vec::new();
        for (own, other) in [("s1", "s2"), ("s2", "s1")] {
            let chain = Chain { apart: Apart::new(own, [other]), ..chain() };
            let wanted = Wanted { count: 1, alternates: 1 };
            let decision = select(&mut world, &chain, &demand, wanted, 7, &mut Scan::default());
            let picked = names(&world, &decision.picks).remove(0);
            assert!(chain.apart.owns(&picked), "{picked}");
            assert_ne!(names(&world, &decision.alternates)[0], picked);
            taken.push(picked);
        }
        assert_ne!(taken[0], taken[1]);

        let mut taken = std::collections::BTreeSet::new();
        let chain = Chain { apart: Apart::new("s1", ["s2"]), ..chain() };
        let all: Vec<String> = (0..6).map(|n| format!("c{n}")).collect();
        let mut of_others = instance(1, 1024, 0);
        of_others.excluded_hosts = all.into_iter().filter(|name| chain.apart.owns(name)).collect();
        let of_others = ComputeDemand::new(&of_others, &world);
        for seed in 0..100 {
            let wanted = Wanted { count: 1, alternates: 0 };
            let decision = select(&mut world, &chain, &of_others, wanted, seed, &mut Scan::default());
            taken.extend(names(&world, &decision.picks));
        }
        assert!(taken.len() > 1 && !taken.contains("c6"), "none is its own: {taken:?}");

        let mut world = world_of(&[16_384, 1024]);
        for own in ["s1", "s2", "s3", "s4"] {
            let chain = Chain { apart: Apart::new(own, ["s5", "s6"]), ..self::chain() };
            let wanted = Wanted { count: 1, alternates: 0 };
            let decision = select(&mut world, &chain, &demand, wanted, 7, &mut Scan::default());
            assert_eq!(names(&world, &decision.picks), ["c0"], "one is clearly better");
        }
    }

    #[test]
    fn equals_are_spread_by_the_seed() {
        let mut world = world_of(&[4096, 4096, 4096]);
        let demand = ComputeDemand::new(&instance(1, 1024, 0), &world);
        let mut pick = |seed| {
            let decision = select(
                &mut world,
                &chain(),
                &demand,
                Wanted { count: 1, alternates: 0 },
                seed,
                &mut Scan::default(),
            );
            decision.picks[0].clone()
        };
        assert_eq!(pick(3), pick(3));
        let distinct: std::collections::HashSet<_> = (0..50).map(|seed| pick(seed).host).collect();
        assert_eq!(distinct.len(), 3);
    }

    #[test]
    fn an_empty_world_says_so() {
        let mut world = World::new();
        let demand = ComputeDemand::new(&instance(1, 1024, 0), &world);
        let decision = select(
            &mut world,
            &chain(),
            &demand,
            Wanted { count: 1, alternates: 0 },
            0,
            &mut Scan::default(),
        );
        assert_eq!(decision.explanation.summary, "no valid host: this scheduler knows of no host");
    }
}
