//! All members of the server group on one host.

use kilonova_proto::types::v1::server_group::Policy;

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// The host the group is on, or any while it is on none.
#[derive(Debug, Clone, Copy)]
pub struct ServerGroupAffinityFilter;

impl Filter<Compute> for ServerGroupAffinityFilter {
    fn name(&self) -> &'static str {
        "ServerGroupAffinityFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.group_under(Policy::Affinity).is_some_and(|group| !group.names.is_empty())
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand
            .group_under(Policy::Affinity)
            .is_none_or(|group| group.names.is_empty() || group.on(row.head.host) > 0)
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, _: &ComputeRow) -> String {
        let names = demand.group.iter().flat_map(|group| &group.names);
        let shown = |name: &String| match world.find(name) {
            Some(_) => name.clone(),
            None => format!("{name}, which this scheduler does not know"),
        };
        format!("its server group is on {}", names.map(shown).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{group, host, instance, resources};

    #[test]
    fn only_where_the_group_is() {
        let mut world = World::new();
        for name in ["c1", "c2"] {
            host(&mut world, name, resources());
        }
        let check = |policy, hosts: &[(&str, u32)]| {
            let mut request = instance(1, 1, 0);
            request.server_group = Some(group(policy, 0, hosts));
            let demand = ComputeDemand::new(&request, &world);
            let pass = |row| ServerGroupAffinityFilter.passes(&world, &demand, row);
            let passed: Vec<bool> = world.rows().iter().map(pass).collect();
            (passed, ServerGroupAffinityFilter.detail(&world, &demand, &world.rows()[0]))
        };
        assert_eq!(check(Policy::Affinity, &[]).0, [true, true]);
        assert_eq!(
            check(Policy::Affinity, &[("c2", 3)]),
            (vec![false, true], "its server group is on c2".into())
        );
        let unknown = "its server group is on c9, which this scheduler does not know";
        assert_eq!(check(Policy::Affinity, &[("c9", 1)]), (vec![false, false], unknown.into()));
        assert_eq!(check(Policy::SoftAffinity, &[("c2", 3)]).0, [true, true]);
    }
}
