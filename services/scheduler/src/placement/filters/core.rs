//! Room for the virtual CPUs asked for: total × ratio − reserved − used − held.

use super::{Filter, keep_room, most_free, shortage};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts with enough virtual CPUs.
#[derive(Debug, Clone, Copy)]
pub struct CoreFilter;

impl Filter<Compute> for CoreFilter {
    fn name(&self) -> &'static str {
        "CoreFilter"
    }

    /// Virtual CPUs with threads of their own are NUMATopologyFilter's.
    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.amount.vcpus > 0
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        row.vcpus.fits(demand.amount.vcpus)
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        shortage(&row.vcpus, demand.amount.vcpus, "vCPUs")
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        keep_room(self, world, demand, block, &world.columns().own.vcpus.room, demand.amount.vcpus);
    }

    fn closeness(&self, _: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        Some(row.vcpus.room() as f64)
    }

    fn nearest(&self, demand: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        Some(most_free(&row.vcpus, demand.amount.vcpus, "vCPUs", place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn cpus_are_overcommitted_by_default_but_never_by_one_instance_alone() {
        let mut world = World::new();
        host(&mut world, "c1", ComputeResources { vcpus: 4, vcpus_used: 13, ..resources() });
        let check = |vcpus: u32| {
            let demand = ComputeDemand::new(&instance(vcpus, 1, 0), &world);
            let row = &world.rows()[0];
            (CoreFilter.passes(&world, &demand, row), CoreFilter.detail(&world, &demand, row))
        };
        assert!(check(3).0);
        assert_eq!(check(4), (false, "needs 4 vCPUs, has 3 of 4 vCPUs free, ratio 4.0".into()));
        assert_eq!(check(5), (false, "needs 5 vCPUs, has 4 vCPUs in all".into()));
    }
}
