//! The NUMA cells asked for: `hw:numa_nodes`, `hw:cpu_policy` = `dedicated`, `hw:mem_page_size`.

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// Hosts with a cell of their own for each of the guest's.
#[derive(Debug, Clone, Copy)]
pub struct NUMATopologyFilter;

fn short_of(demand: &ComputeDemand, row: &ComputeRow) -> Option<(usize, String)> {
    row.numa.short_of(demand.amount.cells.as_ref()?, &row.vcpus)
}

impl Filter<Compute> for NUMATopologyFilter {
    fn name(&self) -> &'static str {
        "NUMATopologyFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.amount.cells.is_some()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        short_of(demand, row).is_none()
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        short_of(demand, row).map(|(_, why)| why).unwrap_or_default()
    }

    fn closeness(&self, demand: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        Some(short_of(demand, row).map_or(f64::MAX, |(fitting, _)| fitting as f64))
    }

    fn nearest(&self, demand: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        short_of(demand, row).map(|(_, why)| format!("the closest is {place}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Row;
    use crate::placement::testing::{host, instance, numa_cell, resources};
    use kilonova_proto::types::v1::ComputeResources;

    fn demand(world: &World<ComputeRow>, vcpus: u32, specs: &[(&str, &str)]) -> ComputeDemand {
        let mut request = instance(vcpus, 4096, 0);
        let flavor = request.flavor.as_mut().unwrap();
        flavor.extra_specs =
            specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ComputeDemand::new(&request, world)
    }

    const PINNED: (&str, &str) = ("hw:cpu_policy", "dedicated");

    #[test]
    fn each_cell_needs_one_of_its_own_also_beside_those_held() {
        let mut world = World::new();
        let numa_cells = vec![numa_cell(0, 8, 32_768), numa_cell(1, 8, 32_768)];
        let id = host(&mut world, "c1", ComputeResources { numa_cells, ..resources() });
        host(&mut world, "c2", resources());
        let check = |world: &World<ComputeRow>, vcpus, specs: &[(&str, &str)]| {
            let demand = demand(world, vcpus, specs);
            world.rows().iter().map(|row| NUMATopologyFilter.detail(world, &demand, row)).collect::<Vec<_>>()
        };
        let none = "needs 1 cell with 8 dedicated CPUs and 4096 MiB, has no NUMA cells";
        assert_eq!(check(&world, 8, &[PINNED]), ["", none]);
        assert_eq!(
            check(&world, 9, &[PINNED])[0],
            "needs 1 cell with 9 dedicated CPUs and 4096 MiB; 0 of 2 cells do, at most 8 CPUs and 32768 MiB are free in one"
        );
        assert!(!NUMATopologyFilter.asks(&demand(&world, 1, &[])));
        let held = demand(&world, 4, &[PINNED]).amount;
        world.update_rows(id, |row| row.hold(&held));
        assert_eq!(
            check(&world, 16, &[PINNED, ("hw:numa_nodes", "2")])[0].split(';').nth(1).unwrap(),
            " 1 of 2 cells do, at most 8 CPUs and 32768 MiB are free in one"
        );
        assert_eq!(world.rows()[0].vcpus.room(), 12, "four threads are shared no longer");
        world.update_rows(id, |row| row.release(&held));
        assert_eq!(check(&world, 16, &[PINNED, ("hw:numa_nodes", "2")])[0], "");
        assert_eq!(world.rows()[0].vcpus.room(), 16);
    }

    #[test]
    fn those_that_share_keep_their_threads() {
        let mut world = World::new();
        let numa_cells = vec![numa_cell(0, 16, 65_536)];
        host(&mut world, "c1", ComputeResources { vcpus_used: 50, numa_cells, ..resources() });
        let why =
            |vcpus| NUMATopologyFilter.detail(&world, &demand(&world, vcpus, &[PINNED]), &world.rows()[0]);
        assert_eq!(why(3), "");
        assert!(why(4).ends_with("; 50 vCPUs cannot share the 12 threads left, ratio 4.0"), "{}", why(4));
    }
}
