//! Not where it was tried already, and not where the user does not want it.

use super::Filter;
use crate::placement::{Demand, Row, Space, World};

/// Candidates whose owner is not excluded.
#[derive(Debug, Clone, Copy)]
pub struct ExcludedHostsFilter;

impl<S: Space> Filter<S> for ExcludedHostsFilter {
    fn name(&self) -> &'static str {
        "ExcludedHostsFilter"
    }

    fn asks(&self, demand: &S::Demand) -> bool {
        demand.wishes().excludes_any()
    }

    fn passes(&self, _: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> bool {
        !demand.wishes().excludes(row.head().host)
    }

    fn detail(&self, _: &World<S::Row>, _: &S::Demand, _: &S::Row) -> String {
        "already tried, or not wanted by the request".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use crate::placement::{Compute, ComputeDemand};
    use kilonova_proto::types::v1::SchedulerHints;

    #[test]
    fn neither_the_tried_nor_the_unwanted() {
        let mut world = World::new();
        for name in ["c1", "c2", "c3"] {
            host(&mut world, name, resources());
        }
        let mut request = instance(1, 1, 0);
        request.excluded_hosts = vec!["c3".into(), "unknown".into()];
        request.hints =
            Some(SchedulerHints { exclude_hosts: vec!["c1".into()], ..SchedulerHints::default() });
        let demand = ComputeDemand::new(&request, &world);
        let passed: Vec<_> = world
            .rows()
            .iter()
            .filter(|row| Filter::<Compute>::passes(&ExcludedHostsFilter, &world, &demand, row))
            .map(|row| world.name(row.head.host))
            .collect();
        assert_eq!(passed, ["c2"]);
    }
}
