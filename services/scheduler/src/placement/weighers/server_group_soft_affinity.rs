//! Members of the instance's server group there, where the group would rather be together.

use kilonova_proto::types::v1::server_group::Policy;

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// How many members are there.
#[derive(Debug, Clone, Copy)]
pub struct ServerGroupSoftAffinityWeigher;

impl Weigher<Compute> for ServerGroupSoftAffinityWeigher {
    fn name(&self) -> &'static str {
        "ServerGroupSoftAffinityWeigher"
    }

    fn key(&self) -> &'static str {
        "soft_affinity"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.group_under(Policy::SoftAffinity).is_some()
    }

    fn raw(&self, demand: &ComputeDemand, row: &ComputeRow) -> f64 {
        let group = demand.group_under(Policy::SoftAffinity);
        group.map_or(0.0, |group| f64::from(group.on(row.head.host)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{group, host, instance, resources};

    #[test]
    fn counts_the_members() {
        let mut world = World::new();
        for name in ["c1", "c2"] {
            host(&mut world, name, resources());
        }
        let raw = |policy| {
            let mut request = instance(1, 1, 0);
            request.server_group = Some(group(policy, 0, &[("c2", 3)]));
            let demand = ComputeDemand::new(&request, &world);
            let rows = world.rows().iter();
            rows.map(|row| ServerGroupSoftAffinityWeigher.raw(&demand, row)).collect::<Vec<_>>()
        };
        assert_eq!(raw(Policy::SoftAffinity), [0.0, 3.0]);
        assert_eq!(raw(Policy::SoftAntiAffinity), [0.0, 0.0]);
    }
}
