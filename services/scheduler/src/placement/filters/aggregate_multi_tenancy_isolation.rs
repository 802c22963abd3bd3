//! Aggregates for some projects: where the metadata has `filter_tenant_id`, instances of no other project come there.

use super::Filter;
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts that are for everybody, or for the project among others.
#[derive(Debug, Clone, Copy)]
pub struct AggregateMultiTenancyIsolation;

impl Filter<Compute> for AggregateMultiTenancyIsolation {
    fn name(&self) -> &'static str {
        "AggregateMultiTenancyIsolation"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.aggregates.project_fits.is_some()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.aggregates.project_fits.as_ref().is_none_or(|fits| fits.holds(row.head.aggregates))
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().aggregates, |set| {
            demand.aggregates.project_fits.as_ref().is_none_or(|fits| fits.holds(set))
        });
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let meaning = world.vocabulary().meaning(row.head.aggregates);
        let projects: Vec<_> = meaning.projects.iter().flatten().map(String::as_str).collect();
        format!("is for {} only, not for {}", projects.join(", "), demand.aggregates.project)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_in, instance};

    #[test]
    fn only_the_projects_that_are_named_come_there() {
        let mut world = World::new();
        host_in(
            &mut world,
            "c1",
            &[("a", &[("filter_tenant_id", "p1,p2")]), ("b", &[("filter_tenant_id_2", "p3")])],
        );
        host_in(&mut world, "c2", &[("ssd", &[("disk", "ssd")])]);
        let check = |row: usize, project: &str| {
            let mut request = instance(1, 1, 0);
            request.project_id = project.to_owned();
            let demand = ComputeDemand::new(&request, &world);
            let (row, filter) = (&world.rows()[row], AggregateMultiTenancyIsolation);
            assert!(filter.asks(&demand));
            (filter.passes(&world, &demand, row), filter.detail(&world, &demand, row))
        };
        assert!(check(0, "p1").0 && check(0, "p3").0 && check(1, "p4").0);
        assert_eq!(check(0, "p4"), (false, "is for p1, p2, p3 only, not for p4".into()));
        let open = World::new();
        assert!(!AggregateMultiTenancyIsolation.asks(&ComputeDemand::new(&instance(1, 1, 0), &open)));
    }
}
