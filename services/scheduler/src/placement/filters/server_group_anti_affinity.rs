//! No more members of the server group on one host than its rule lets share it.

use kilonova_proto::types::v1::server_group::Policy;

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// Hosts with room for one more member.
#[derive(Debug, Clone, Copy)]
pub struct ServerGroupAntiAffinityFilter;

impl Filter<Compute> for ServerGroupAntiAffinityFilter {
    fn name(&self) -> &'static str {
        "ServerGroupAntiAffinityFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.group_under(Policy::AntiAffinity).is_some_and(|group| !group.names.is_empty())
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand
            .group_under(Policy::AntiAffinity)
            .is_none_or(|group| group.on(row.head.host) < group.max_per_host)
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let (there, most) =
            demand.group.as_ref().map_or((0, 0), |group| (group.on(row.head.host), group.max_per_host));
        format!("has {there} of its server group, {most} may share a host")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{group, host, instance, resources};

    #[test]
    fn no_more_than_may_share_a_host() {
        let mut world = World::new();
        for name in ["c1", "c2", "c3"] {
            host(&mut world, name, resources());
        }
        let check = |policy, max_per_host| {
            let mut request = instance(1, 1, 0);
            request.server_group = Some(group(policy, max_per_host, &[("c1", 1), ("c3", 2), ("c9", 9)]));
            let demand = ComputeDemand::new(&request, &world);
            let pass = |row| ServerGroupAntiAffinityFilter.passes(&world, &demand, row);
            let passed: Vec<bool> = world.rows().iter().map(pass).collect();
            (passed, ServerGroupAntiAffinityFilter.detail(&world, &demand, &world.rows()[2]))
        };
        let detail = "has 2 of its server group, 1 may share a host";
        assert_eq!(check(Policy::AntiAffinity, 0), (vec![false, true, false], detail.into()));
        assert_eq!(check(Policy::AntiAffinity, 2).0, [true, true, false]);
        assert_eq!(check(Policy::SoftAntiAffinity, 0).0, [true, true, true]);
    }
}
