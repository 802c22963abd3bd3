//! Where other volumes are.

use super::Filter;
use crate::placement::{PoolRow, Storage, StorageDemand, World};

/// Pools of the backends that have one of the volumes named.
#[derive(Debug, Clone, Copy)]
pub struct SameBackendFilter;

impl Filter<Storage> for SameBackendFilter {
    fn name(&self) -> &'static str {
        "SameBackendFilter"
    }

    fn asks(&self, demand: &StorageDemand) -> bool {
        demand.same.is_some()
    }

    fn passes(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> bool {
        demand.same.as_ref().is_none_or(|backends| backends.binary_search(&row.head.host).is_ok())
    }

    fn detail(&self, world: &World<PoolRow>, demand: &StorageDemand, _: &PoolRow) -> String {
        let backends = demand.same.iter().flatten().map(|backend| world.name(*backend));
        match backends.collect::<Vec<_>>().as_slice() {
            [] => "the volumes of same_host are on no backend that is known".to_owned(),
            backends => format!("the volumes of same_host are on {}", backends.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, hinted, pool};
    use kilonova_proto::types::v1::SchedulerHints;

    #[test]
    fn only_where_one_of_them_is() {
        let mut world = World::new();
        for name in ["n1@file", "n2@file", "n3@file"] {
            backend(&mut world, name, &[pool("p")]);
        }
        let check = |volumes: &[&str], backends: &[&str]| {
            let same_host = volumes.iter().map(|id| (*id).to_owned()).collect();
            let mut request = hinted(SchedulerHints { same_host, ..SchedulerHints::default() });
            request.same_backends = backends.iter().map(|name| (*name).to_owned()).collect();
            let demand = StorageDemand::new(&request, &world);
            let rows = world.rows().iter();
            let passed = rows.map(|row| SameBackendFilter.passes(&world, &demand, row)).collect::<Vec<_>>();
            let detail = SameBackendFilter.detail(&world, &demand, &world.rows()[2]);
            (SameBackendFilter.asks(&demand), passed, detail)
        };
        assert_eq!(check(&[], &[]).1, [true; 3]);
        assert!(!check(&[], &[]).0);
        let (asks, passed, detail) = check(&["v1", "v2"], &["n2@file", "n1@file"]);
        assert!(asks);
        assert_eq!(passed, [true, true, false]);
        assert_eq!(detail, "the volumes of same_host are on n1@file, n2@file");
        for nowhere in [check(&["v1"], &[]), check(&["v1"], &["unknown@file"])] {
            assert_eq!(nowhere.1, [false; 3]);
            assert_eq!(nowhere.2, "the volumes of same_host are on no backend that is known");
        }
    }
}
