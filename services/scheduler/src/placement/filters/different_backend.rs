//! Not where other volumes are.

use super::Filter;
use crate::placement::{PoolRow, Storage, StorageDemand, World};

/// Pools of the backends that have none of the volumes named.
#[derive(Debug, Clone, Copy)]
pub struct DifferentBackendFilter;

impl Filter<Storage> for DifferentBackendFilter {
    fn name(&self) -> &'static str {
        "DifferentBackendFilter"
    }

    fn asks(&self, demand: &StorageDemand) -> bool {
        !demand.different.is_empty()
    }

    fn passes(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> bool {
        demand.different.binary_search(&row.head.host).is_err()
    }

    fn detail(&self, _: &World<PoolRow>, _: &StorageDemand, _: &PoolRow) -> String {
        "has a volume of different_host".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, pool, volume};

    #[test]
    fn nowhere_one_of_them_is() {
        let mut world = World::new();
        for name in ["n1@file", "n2@file", "n3@file"] {
            backend(&mut world, name, &[pool("p")]);
        }
        let passed = |backends: &[&str]| {
            let mut request = volume(1, &[]);
            request.different_backends = backends.iter().map(|name| (*name).to_owned()).collect();
            let demand = StorageDemand::new(&request, &world);
            let rows = world.rows().iter();
            rows.map(|row| DifferentBackendFilter.passes(&world, &demand, row)).collect::<Vec<_>>()
        };
        assert_eq!(passed(&[]), [true; 3]);
        assert_eq!(passed(&["n3@file", "unknown@file", "n1@file"]), [false, true, false]);
        assert_eq!(passed(&["n1@file", "n2@file", "n3@file"]), [false; 3]);
    }
}
