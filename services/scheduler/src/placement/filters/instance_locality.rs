//! On the storage of the host an instance is on.

use super::Filter;
use crate::placement::{PoolRow, Storage, StorageDemand, World};

/// Pools of the backends of one compute host: those whose name before the `@` is the host's.
#[derive(Debug, Clone, Copy)]
pub struct InstanceLocalityFilter;

impl Filter<Storage> for InstanceLocalityFilter {
    fn name(&self) -> &'static str {
        "InstanceLocalityFilter"
    }

    fn asks(&self, demand: &StorageDemand) -> bool {
        demand.local_to.is_some()
    }

    fn passes(&self, world: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> bool {
        demand.local_to.as_ref().is_none_or(|wanted| host_of(world.name(row.head.host)) == wanted)
    }

    fn detail(&self, world: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> String {
        let own = host_of(world.name(row.head.host));
        match demand.local_to.as_deref() {
            None | Some("") => "the instance of local_to_instance is on no host".to_owned(),
            Some(wanted) => format!("is on {own}, the instance of local_to_instance on {wanted}"),
        }
    }
}

fn host_of(backend: &str) -> &str {
    backend.split_once('@').map_or(backend, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, hinted, pool};
    use kilonova_proto::types::v1::SchedulerHints;

    #[test]
    fn only_on_the_host_of_the_instance() {
        let mut world = World::new();
        for name in ["n1@file", "n1@fast", "n1", "n10@file"] {
            backend(&mut world, name, &[pool("p")]);
        }
        let check = |instance: &str, host: &str| {
            let hints = SchedulerHints { local_to_instance: instance.into(), ..SchedulerHints::default() };
            let mut request = hinted(hints);
            request.instance_host = host.into();
            let demand = StorageDemand::new(&request, &world);
            let rows = world.rows().iter();
            let passed = rows.map(|row| InstanceLocalityFilter.passes(&world, &demand, row));
            let detail = InstanceLocalityFilter.detail(&world, &demand, &world.rows()[3]);
            (InstanceLocalityFilter.asks(&demand), passed.collect::<Vec<_>>(), detail)
        };
        assert_eq!((check("", "").0, check("", "").1), (false, vec![true; 4]));
        let local = "is on n10, the instance of local_to_instance on n1".to_owned();
        assert_eq!(check("i1", "n1"), (true, vec![true, true, true, false], local));
        assert_eq!(check("i1", "n2").1, [false; 4]);
        let nowhere = "the instance of local_to_instance is on no host".to_owned();
        assert_eq!(check("i1", ""), (true, vec![false; 4], nowhere));
    }
}
