//! No more disk-heavy work at once on a host than may be.

use kilonova_model::aggregate::MAX_IO_OPS;

use super::Filter;
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts with less of it than this. Off by default, as in Nova.
#[derive(Debug, Clone, Copy)]
pub struct IoOpsFilter {
    /// At most so many, with those promised, where no aggregate of the host says otherwise.
    pub most: u32,
}

impl IoOpsFilter {
    /// What holds for a host: what its aggregates say, or else what is configured.
    fn most_on(&self, world: &World<ComputeRow>, row: &ComputeRow) -> u32 {
        world.vocabulary().meaning(row.head.aggregates).max_io_ops.unwrap_or(self.most)
    }
}

impl Filter<Compute> for IoOpsFilter {
    fn name(&self) -> &'static str {
        "IoOpsFilter"
    }

    fn is_default(&self) -> bool {
        false
    }

    fn passes(&self, world: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> bool {
        row.io_ops_to_be() < i64::from(self.most_on(world, row))
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        if world.vocabulary().has_key(MAX_IO_OPS) {
            return block.keep(|row| self.passes(world, demand, &world.rows()[row]));
        }
        block.keep_figures(&world.columns().own.io_ops, |io_ops| i64::from(io_ops) < i64::from(self.most));
    }

    fn detail(&self, world: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> String {
        format!("builds and the like going on: {}, {} may be", row.io_ops_to_be(), self.most_on(world, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn as_many_as_may_be_are_too_many_for_one_more() {
        let mut world = World::new();
        host(&mut world, "c1", ComputeResources { io_ops: 7, ..resources() });
        host(&mut world, "c2", ComputeResources { io_ops: 8, ..resources() });
        let (filter, demand) = (IoOpsFilter { most: 8 }, ComputeDemand::new(&instance(1, 1, 0), &world));
        let passes: Vec<_> = world.rows().iter().map(|row| filter.passes(&world, &demand, row)).collect();
        assert_eq!(passes, [true, false]);
        assert_eq!(
            filter.detail(&world, &demand, &world.rows()[1]),
            "builds and the like going on: 8, 8 may be"
        );
    }
}
