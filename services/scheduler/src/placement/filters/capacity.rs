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

    /// A pool of 100 GiB that is empty, and what is different in each row.
    fn thick() -> StoragePool {
        StoragePool { total_gib: 100, free_gib: 100, ..pool("p") }
    }

    fn thin(max_over_subscription_ratio: f64) -> StoragePool {
        StoragePool { thin_provisioning: true, max_over_subscription_ratio, ..thick() }
    }

    /// Each pool with its virtual free capacity in GiB and the largest volume it takes, 0 for none.
    fn examples() -> Vec<(StoragePool, f64, u32)> {
        vec![
            // min(100, 100 - 0 - 0)
            (thick(), 100.0, 100),
            // min(40, 100 - 10 - 0): what is really free binds.
            (StoragePool { free_gib: 40, reserved_percentage: 10, ..thick() }, 40.0, 40),
            // min(100, 100 - 10 - 60): what was promised binds.
            (StoragePool { provisioned_gib: 60, reserved_percentage: 10, ..thick() }, 30.0, 30),
            // min(100, 105 - floor(10.5) - 0): the part kept back is rounded down.
            (StoragePool { total_gib: 105, reserved_percentage: 10, ..thick() }, 95.0, 95),
            // min(100, 100 - 29 - 0), where Cinder has floor(100 x 0.29) = floor(28.999...) = 28
            (StoragePool { reserved_percentage: 29, ..thick() }, 71.0, 71),
            // min(5, 100 - 30 - 80): more was promised than there is.
            (StoragePool { free_gib: 5, provisioned_gib: 80, reserved_percentage: 30, ..thick() }, -10.0, 0),
            // min(100, 100 - 100 - 0): all of it is kept back.
            (StoragePool { reserved_percentage: 100, ..thick() }, 0.0, 0),
            // min(0, 0 - 0 - 0): a pool that is none.
            (StoragePool { total_gib: 0, free_gib: 0, ..thick() }, 0.0, 0),
            // min(100, 100 - 0 - 0): without thin provisioning the ratio counts for nothing.
            (StoragePool { max_over_subscription_ratio: 0.5, ..thick() }, 100.0, 100),
            // (100 - 0) x 2 - 0: what is really free counts for nothing.
            (StoragePool { free_gib: 1, ..thin(2.0) }, 200.0, 200),
            // (100 - 0) x 2 - 150
            (StoragePool { provisioned_gib: 150, ..thin(2.0) }, 50.0, 50),
            // (105 - floor(10.5)) x 2 - 100: what is kept back is not oversubscribed.
            (
                StoragePool { total_gib: 105, provisioned_gib: 100, reserved_percentage: 10, ..thin(2.0) },
                90.0,
                90,
            ),
            // (100 - 0) x 1 - 30: the least ratio there is.
            (StoragePool { provisioned_gib: 30, ..thin(1.0) }, 70.0, 70),
            // (100 - 5) x 1.5 - 0: a part of a GiB holds no volume.
            (StoragePool { reserved_percentage: 5, ..thin(1.5) }, 142.5, 142),
            // (100 - 0) x 1.99999 - 0, where Cinder rounds to 200.00
            (thin(1.99999), 199.999, 199),
            // (100 - 0) x 1.5 - 200: more was promised than may be.
            (StoragePool { provisioned_gib: 200, ..thin(1.5) }, -50.0, 0),
            // (100 - 100) x 20 - 0
            (StoragePool { reserved_percentage: 100, ..thin(20.0) }, 0.0, 0),
            // (100 - 0) x 20 - 0: the ratio of a pool that names none, or none that is a number.
            (thin(0.0), 2000.0, 2000),
            (thin(f64::NAN), 2000.0, 2000),
            // (100 - 0) x 0.5 - 0 and (100 - 0) x -1 - 0: ratios below 1 are wrong, whatever is left.
            (thin(0.5), 50.0, 0),
            (thin(-1.0), -100.0, 0),
        ]
    }

    /// The same of volumes that want room that is really there.
    fn examples_of_thick_volumes() -> Vec<(StoragePool, f64, u32)> {
        vec![
            // min(60, 100 - 10 - 20): as in a pool without thin provisioning.
            (
                StoragePool { free_gib: 60, provisioned_gib: 20, reserved_percentage: 10, ..thin(2.0) },
                60.0,
                60,
            ),
            // min(100, 100 - 0 - 150): thin volumes have promised it all.
            (StoragePool { provisioned_gib: 150, ..thin(2.0) }, -50.0, 0),
            // min(100, 100 - 0 - 0): the ratio is not looked at.
            (thin(0.5), 100.0, 100),
            // min(40, 100 - 0 - 60)
            (StoragePool { free_gib: 40, provisioned_gib: 60, ..thick() }, 40.0, 40),
        ]
    }

    #[test]
    fn room_is_what_the_worked_examples_say() {
        let thick: &[(&str, &str)] = &[("provisioning:type", "thick")];
        for (examples, specs) in [(examples(), &[][..]), (examples_of_thick_volumes(), thick)] {
            for (figures, virtual_free, most) in examples {
                let mut world = World::new();
                backend(&mut world, "n1@file", std::slice::from_ref(&figures));
                let free = world.rows()[0].virtual_free_gib(!specs.is_empty());
                assert!((free - virtual_free).abs() < 1e-9, "{free} instead of {virtual_free}: {figures:?}");
                assert!(most == 0 || check(figures.clone(), most, specs).0, "{most} GiB fit: {figures:?}");
                assert!(!check(figures.clone(), most + 1, specs).0, "{most} GiB are all: {figures:?}");
            }
        }
    }

    #[test]
    fn says_what_is_short_of_how_much() {
        let figures = StoragePool { free_gib: 40, reserved_percentage: 10, ..thick() };
        assert_eq!(
            check(figures, 41, &[]).1,
            "needs 41 GiB, has 40 of 100 GiB free, 40 GiB really free, 0 GiB provisioned, 0 GiB promised, 10 % reserved"
        );
        assert_eq!(
            check(StoragePool { provisioned_gib: 150, ..thin(2.0) }, 51, &[]).1,
            "needs 51 GiB, has 50 of 100 GiB virtually free, ratio 2.0, 150 GiB provisioned, 0 GiB promised, 0 % reserved"
        );
        assert_eq!(check(thin(0.5), 1, &[]).1, "its oversubscription ratio is 0.5, at least 1.0 makes sense");
    }
}
