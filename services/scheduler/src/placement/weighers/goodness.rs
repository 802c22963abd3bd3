//! What the driver itself says of a pool: how good a place it is for new volumes.

use super::Weigher;
use crate::placement::{PoolRow, Storage, StorageDemand};

/// The driver's own figure, 0 to 100. As in Cinder, none and one beyond that count as 0.
#[derive(Debug, Clone, Copy)]
pub struct GoodnessWeigher;

impl Weigher<Storage> for GoodnessWeigher {
    fn name(&self) -> &'static str {
        "GoodnessWeigher"
    }

    fn key(&self) -> &'static str {
        "goodness"
    }

    fn raw(&self, _: &StorageDemand, row: &PoolRow) -> f64 {
        row.goodness.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{backend, pool, volume};
    use kilonova_proto::types::v1::StoragePool;

    #[test]
    fn only_a_figure_from_0_to_100_counts() {
        let mut world = World::new();
        let said = [None, Some(0), Some(70), Some(100), Some(101)];
        let pools = said.map(|goodness| StoragePool { goodness, ..pool("p") });
        backend(&mut world, "n1@file", &pools);
        let demand = StorageDemand::new(&volume(1, &[]), &world);
        let raw = world.rows().iter().map(|row| GoodnessWeigher.raw(&demand, row));
        assert_eq!(raw.collect::<Vec<_>>(), [0.0, 0.0, 70.0, 100.0, 0.0]);
    }
}
