//! Members of the instance's server group in the host's zone: fewer are better.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// How many members are in the zone, below 0. Nova has no such weigher.
#[derive(Debug, Clone, Copy)]
pub struct ZoneSpreadWeigher;

impl Weigher<Compute> for ZoneSpreadWeigher {
    fn name(&self) -> &'static str {
        "ZoneSpreadWeigher"
    }

    fn key(&self) -> &'static str {
        "zone_spread"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.group.is_some()
    }

    fn raw(&self, demand: &ComputeDemand, row: &ComputeRow) -> f64 {
        demand.group.as_ref().map_or(0.0, |group| -f64::from(group.in_zone(row.head.zone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{group, host_with, instance, resources};
    use kilonova_proto::types::v1::server_group::Policy;

    #[test]
    fn members_count_against_their_whole_zone() {
        let mut world = World::new();
        for (name, zone) in [("c1", "az1"), ("c2", "az1"), ("c3", "az2"), ("c4", "az3")] {
            host_with(&mut world, name, zone, &[], resources());
        }
        let mut request = instance(1, 1, 0);
        let members = [("c1", 2), ("c2", 1), ("c3", 1), ("gone", 5)];
        request.server_group = Some(group(Policy::SoftAntiAffinity, 0, &members));
        let demand = ComputeDemand::new(&request, &world);
        let raw: Vec<f64> = world.rows().iter().map(|row| ZoneSpreadWeigher.raw(&demand, row)).collect();
        assert_eq!(raw, [-3.0, -3.0, -1.0, 0.0]);
    }
}
