//! Virtual free capacity in GiB.

use super::Weigher;
use crate::placement::{PoolRow, Storage, StorageDemand};

/// Virtual free capacity in GiB.
#[derive(Debug, Clone, Copy)]
pub struct CapacityWeigher;

impl Weigher<Storage> for CapacityWeigher {
    fn name(&self) -> &'static str {
        "CapacityWeigher"
    }

    fn key(&self) -> &'static str {
        "capacity"
    }

    fn raw(&self, demand: &StorageDemand, row: &PoolRow) -> f64 {
        row.virtual_free_gib(demand.thick)
    }
}
