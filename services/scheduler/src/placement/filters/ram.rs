//! Room for the memory asked for: total × ratio − reserved − used − held.

use super::{Filter, keep_room, most_free, shortage};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts with enough memory.
#[derive(Debug, Clone, Copy)]
pub struct RamFilter;

impl Filter<Compute> for RamFilter {
    fn name(&self) -> &'static str {
        "RamFilter"
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        row.ram.fits(demand.amount.ram_mib)
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        shortage(&row.ram, demand.amount.ram_mib, "MiB")
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        keep_room(self, world, demand, block, &world.columns().own.ram.room, demand.amount.ram_mib);
    }

    fn closeness(&self, _: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        Some(row.ram.room() as f64)
    }

    fn nearest(&self, demand: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        Some(most_free(&row.ram, demand.amount.ram_mib, "MiB", place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use crate::placement::{ComputeAmount, Row};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn what_is_reserved_used_or_held_is_not_free() {
        let mut world = World::new();
        let figures =
            ComputeResources { ram_mib: 8192, ram_used_mib: 4096, ram_reserved_mib: 512, ..resources() };
        let id = host(&mut world, "c1", figures);
        let check = |world: &World<ComputeRow>, ram| {
            let demand = ComputeDemand::new(&instance(1, ram, 0), world);
            (
                RamFilter.passes(world, &demand, &world.rows()[0]),
                RamFilter.nearest(&demand, &world.rows()[0], "c1"),
            )
        };
        assert!(check(&world, 3584).0);
        assert!(!check(&world, 3585).0);
        let held = ComputeAmount { ram_mib: 1024, ..ComputeAmount::default() };
        world.update_rows(id, |row| row.hold(&held));
        let (passes, nearest) = check(&world, 3584);
        assert!(!passes);
        assert_eq!(nearest.unwrap(), "the most free is 2560 MiB on c1, 3584 MiB needed");
    }
}
