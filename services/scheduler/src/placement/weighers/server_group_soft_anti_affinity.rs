//! Members of the instance's server group there, where the group would rather be apart.

use kilonova_proto::types::v1::server_group::Policy;

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// How many members there would be beyond those that may share the host, below 0.
#[derive(Debug, Clone, Copy)]
pub struct ServerGroupSoftAntiAffinityWeigher;

impl Weigher<Compute> for ServerGroupSoftAntiAffinityWeigher {
    fn name(&self) -> &'static str {
        "ServerGroupSoftAntiAffinityWeigher"
    }

    fn key(&self) -> &'static str {
        "soft_anti_affinity"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.group_under(Policy::SoftAntiAffinity).is_some()
    }

    fn raw(&self, demand: &ComputeDemand, row: &ComputeRow) -> f64 {
        let group = demand.group_under(Policy::SoftAntiAffinity);
        let excess = |group: &crate::placement::Group| {
            f64::from((group.on(row.head.host) + 1).saturating_sub(group.max_per_host))
        };
        group.map_or(0.0, |group| -excess(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{group, host, instance, resources};

    #[test]
    fn counts_the_members_beyond_those_that_may_share_a_host() {
        let mut world = World::new();
        for name in ["c1", "c2", "c3"] {
            host(&mut world, name, resources());
        }
        let raw = |policy, max_per_host| {
            let mut request = instance(1, 1, 0);
            request.server_group = Some(group(policy, max_per_host, &[("c2", 1), ("c3", 3)]));
            let demand = ComputeDemand::new(&request, &world);
            let rows = world.rows().iter();
            rows.map(|row| ServerGroupSoftAntiAffinityWeigher.raw(&demand, row)).collect::<Vec<_>>()
        };
        assert_eq!(raw(Policy::SoftAntiAffinity, 0), [0.0, -1.0, -3.0]);
        assert_eq!(raw(Policy::SoftAntiAffinity, 2), [0.0, 0.0, -2.0]);
        assert_eq!(raw(Policy::AntiAffinity, 0), [0.0, 0.0, 0.0]);
    }
}
