//! What volumes made there were promised, in GiB, with what is held.

use super::Weigher;
use crate::placement::{PoolRow, Storage, StorageDemand};

/// What volumes made there were promised, in GiB, with what is held.
#[derive(Debug, Clone, Copy)]
pub struct AllocatedCapacityWeigher;

impl Weigher<Storage> for AllocatedCapacityWeigher {
    fn name(&self) -> &'static str {
        "AllocatedCapacityWeigher"
    }

    fn key(&self) -> &'static str {
        "allocated_capacity"
    }

    fn raw(&self, _: &StorageDemand, row: &PoolRow) -> f64 {
        f64::from(row.allocated_gib) + row.held_gib as f64
    }
}
