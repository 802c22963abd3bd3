//! No more instances on a host than may be.

use kilonova_model::aggregate::MAX_INSTANCES;

use super::Filter;
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts with fewer instances than this. Off by default, as in Nova.
#[derive(Debug, Clone, Copy)]
pub struct NumInstancesFilter {
    /// At most so many, with those promised, where no aggregate of the host says otherwise.
    pub most: u32,
}

impl NumInstancesFilter {
    /// What holds for a host: what its aggregates say, or else what is configured.
    fn most_on(&self, world: &World<ComputeRow>, row: &ComputeRow) -> u32 {
        world.vocabulary().meaning(row.head.aggregates).max_instances.unwrap_or(self.most)
    }
}

impl Filter<Compute> for NumInstancesFilter {
    fn name(&self) -> &'static str {
        "NumInstancesFilter"
    }

    fn is_default(&self) -> bool {
        false
    }

    fn passes(&self, world: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> bool {
        row.instances_to_be() < i64::from(self.most_on(world, row))
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        if world.vocabulary().has_key(MAX_INSTANCES) {
            return block.keep(|row| self.passes(world, demand, &world.rows()[row]));
        }
        block.keep_figures(&world.columns().own.instances, |instances| {
            i64::from(instances) < i64::from(self.most)
        });
    }

    fn detail(&self, world: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> String {
        format!("has {} instances, {} may be", row.instances_to_be(), self.most_on(world, row))
    }

    fn closeness(&self, _: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        Some(-(row.instances_to_be() as f64))
    }

    fn nearest(&self, _: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        Some(format!("the fewest are {} instances on {place}", row.instances_to_be()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, host_in, instance, resources};
    use crate::placement::{ComputeAmount, Row};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn those_promised_count() {
        let mut world = World::new();
        let id = host(&mut world, "c1", ComputeResources { instances: 9, ..resources() });
        let filter = NumInstancesFilter { most: 10 };
        let demand = ComputeDemand::new(&instance(1, 1, 0), &world);
        assert!(filter.passes(&world, &demand, &world.rows()[0]));
        world.update_rows(id, |row| row.hold(&ComputeAmount { instances: 1, ..ComputeAmount::default() }));
        assert!(!filter.passes(&world, &demand, &world.rows()[0]));
        assert_eq!(filter.detail(&world, &demand, &world.rows()[0]), "has 10 instances, 10 may be");
    }

    #[test]
    fn an_aggregate_has_the_last_word() {
        let mut world = World::new();
        host_in(&mut world, "c1", &[("few", &[("max_instances_per_host", "0")])]);
        let filter = NumInstancesFilter { most: 10 };
        let demand = ComputeDemand::new(&instance(1, 1, 0), &world);
        assert!(!filter.passes(&world, &demand, &world.rows()[0]));
        assert_eq!(filter.detail(&world, &demand, &world.rows()[0]), "has 0 instances, 0 may be");
    }
}
