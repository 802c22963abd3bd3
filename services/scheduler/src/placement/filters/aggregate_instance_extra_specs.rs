//! What the flavor asks of a host's aggregates: `aggregate_instance_extra_specs:disk` = `ssd`, with the operators of `extra_specs.rs`.

use super::Filter;
use crate::placement::aggregates::{meets_spec, said};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts in an aggregate, or in several, whose metadata meet every such extra spec.
#[derive(Debug, Clone, Copy)]
pub struct AggregateInstanceExtraSpecsFilter;

impl Filter<Compute> for AggregateInstanceExtraSpecsFilter {
    fn name(&self) -> &'static str {
        "AggregateInstanceExtraSpecsFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.aggregates.specs.is_empty()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.aggregates.specs_fit.holds(row.head.aggregates)
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().aggregates, |set| demand.aggregates.specs_fit.holds(set));
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let set = world.vocabulary().aggregates(row.head.aggregates);
        let missed = demand.aggregates.specs.iter().filter(|(key, wanted)| !meets_spec(set, key, wanted));
        let missed = missed.map(|(key, wanted)| {
            let own: Vec<_> = said(set, key).map(|own| format!("{own:?}")).collect();
            match own.as_slice() {
                [] => format!("no aggregate of it says {key}, {wanted:?} wanted"),
                own => format!("its aggregates say {key} is {}, {wanted:?} wanted", own.join(" and ")),
            }
        });
        missed.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_in, instance};

    #[test]
    fn every_demand_is_met_by_some_aggregate() {
        let mut world = World::new();
        host_in(
            &mut world,
            "c1",
            &[("ssd", &[("disk", "ssd")]), ("big", &[("size", "20"), ("disk", "nvme")])],
        );
        host_in(&mut world, "c2", &[]);
        let check = |row: usize, specs: &[(&str, &str)]| {
            let mut request = instance(1, 1, 0);
            let scoped = |key: &str| format!("aggregate_instance_extra_specs:{key}");
            let specs = specs.iter().map(|(key, value)| (scoped(key), (*value).to_owned()));
            request.flavor.as_mut().unwrap().extra_specs = specs.collect();
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[row];
            let filter = AggregateInstanceExtraSpecsFilter;
            let passes = !filter.asks(&demand) || filter.passes(&world, &demand, row);
            (passes, filter.detail(&world, &demand, row))
        };
        assert!(check(1, &[]).0);
        assert!(check(0, &[("disk", "nvme"), ("size", ">= 10")]).0);
        let why = "its aggregates say disk is \"nvme\" and \"ssd\", \"hdd\" wanted".to_owned();
        assert_eq!(check(0, &[("disk", "hdd")]), (false, why));
        let why = "no aggregate of it says disk, \"ssd\" wanted".to_owned();
        assert_eq!(check(1, &[("disk", "ssd")]), (false, why));
    }
}
