//! Room in the pool, by Cinder's formulas. What binds is the virtual free capacity; the ratio is already in it.

use super::Filter;
use crate::placement::{PoolRow, Storage, StorageDemand, World};

/// Pools with room for the volume.
#[derive(Debug, Clone, Copy)]
pub struct CapacityFilter;

impl Filter<Storage> for CapacityFilter {
    fn name(&self) -> &'static str {
        "CapacityFilter"
    }

    fn passes(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> bool {
        ratio_is_valid(demand, row) && f64::from(demand.gib) <= row.virtual_free_gib(demand.thick)
    }

    fn detail(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> String {
        let PoolRow { total_gib, free_gib, provisioned_gib, held_gib, max_over_subscription_ratio, .. } = row;
        if !ratio_is_valid(demand, row) {
            return format!(
                "its oversubscription ratio is {max_over_subscription_ratio:?}, at least 1.0 makes sense"
            );
        }
        let needed = demand.gib;
        let free = row.virtual_free_gib(demand.thick);
        let reserved = row.reserved_percentage;
        let promised =
            format!("{provisioned_gib} GiB provisioned, {held_gib} GiB promised, {reserved} % reserved");
        if row.is_thin(demand.thick) {
            format!(
                "needs {needed} GiB, has {free:.0} of {total_gib} GiB virtually free, \
                 ratio {max_over_subscription_ratio:?}, {promised}"
            )
        } else {
            format!(
                "needs {needed} GiB, has {free:.0} of {total_gib} GiB free, {free_gib} GiB really free, {promised}"
            )
        }
    }

    fn closeness(&self, demand: &StorageDemand, row: &PoolRow) -> Option<f64> {
        Some(row.virtual_free_gib(demand.thick))
    }

    fn nearest(&self, demand: &StorageDemand, row: &PoolRow, place: &str) -> Option<String> {
        let free = row.virtual_free_gib(demand.thick);
        Some(format!("the most free is {free:.0} GiB on {place}, {} GiB needed", demand.gib))
    }
}

fn ratio_is_valid(demand: &StorageDemand, row: &PoolRow) -> bool {
    !row.is_thin(demand.thick) || row.max_over_subscription_ratio >= 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, pool, volume};
    use kilonova_proto::types::v1::StoragePool;

    fn check(figures: StoragePool, gib: u32, specs: &[(&str, &str)]) -> (bool, String) {
        let mut world = World::new();
        backend(&mut world, "n1@file", &[figures]);
        let demand = StorageDemand::new(&volume(gib, specs), &world);
        let row = &world.rows()[0];
        (CapacityFilter.passes(&world, &demand, row), CapacityFilter.detail(&world, &demand, row))
    }

    #[test]
    fn thick_pools_give_what_is_really_free() {
        let figures = StoragePool { total_gib: 100, free_gib: 40, reserved_percentage: 10, ..pool("p") };
        assert!(check(figures.clone(), 40, &[]).0);
        assert_eq!(
            check(figures, 41, &[]),
            (false, "needs 41 GiB, has 40 of 100 GiB free, 40 GiB really free, 0 GiB provisioned, 0 GiB promised, 10 % reserved".into())
        );
    }

    #[test]
    fn thin_pools_promise_more_than_there_is_once_not_twice() {
        let figures = StoragePool {
            total_gib: 100,
            free_gib: 100,
            provisioned_gib: 150,
            thin_provisioning: true,
            max_over_subscription_ratio: 2.0,
            ..pool("p")
        };
        assert!(check(figures.clone(), 50, &[]).0);
        assert!(!check(figures.clone(), 51, &[]).0);
        assert!(!check(figures.clone(), 1, &[("provisioning:type", "thick")]).0);
        let bad = StoragePool { max_over_subscription_ratio: 0.5, ..figures };
        assert_eq!(
            check(bad, 1, &[]),
            (false, "its oversubscription ratio is 0.5, at least 1.0 makes sense".into())
        );
    }

    #[test]
    fn a_thin_pool_without_a_ratio_has_that_of_cinder() {
        let figures = StoragePool { total_gib: 10, free_gib: 10, thin_provisioning: true, ..pool("p") };
        assert!(check(figures.clone(), 200, &[]).0);
        assert!(!check(figures, 201, &[]).0);
    }
}
