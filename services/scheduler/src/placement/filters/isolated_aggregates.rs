//! Aggregates for some flavors: where the metadata has `trait:NAME` = `required`, only flavors that require the trait come there, as by
//! Nova's `enable_isolated_aggregate_filtering`.

use super::Filter;
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts whose aggregates ask for no trait that the flavor does not require.
#[derive(Debug, Clone, Copy)]
pub struct IsolatedAggregatesFilter;

impl Filter<Compute> for IsolatedAggregatesFilter {
    fn name(&self) -> &'static str {
        "IsolatedAggregatesFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.aggregates.traits_fit.is_some()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.aggregates.traits_fit.as_ref().is_none_or(|fits| fits.holds(row.head.aggregates))
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().aggregates, |set| {
            demand.aggregates.traits_fit.as_ref().is_none_or(|fits| fits.holds(set))
        });
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let meaning = world.vocabulary().meaning(row.head.aggregates);
        let missing = meaning.traits.difference(&demand.aggregates.required).map(String::as_str);
        format!("is for flavors that require {} only", missing.collect::<Vec<_>>().join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_in, instance};

    #[test]
    fn a_flavor_requires_what_keeps_others_away() {
        let mut world = World::new();
        host_in(
            &mut world,
            "c1",
            &[("win", &[("trait:CUSTOM_A", "required"), ("trait:CUSTOM_B", "required")])],
        );
        host_in(&mut world, "c2", &[]);
        let check = |row: usize, traits: &[&str]| {
            let mut request = instance(1, 1, 0);
            let specs = traits.iter().map(|name| (format!("trait:{name}"), "required".to_owned()));
            request.flavor.as_mut().unwrap().extra_specs = specs.collect();
            let demand = ComputeDemand::new(&request, &world);
            let (row, filter) = (&world.rows()[row], IsolatedAggregatesFilter);
            (filter.passes(&world, &demand, row), filter.detail(&world, &demand, row))
        };
        assert!(check(0, &["CUSTOM_A", "CUSTOM_B", "CUSTOM_C"]).0 && check(1, &[]).0);
        let why = "is for flavors that require CUSTOM_B only".to_owned();
        assert_eq!(check(0, &["CUSTOM_A"]), (false, why));
    }
}
