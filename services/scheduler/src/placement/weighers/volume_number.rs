//! Volumes in the pool.

use super::Weigher;
use crate::placement::{PoolRow, Storage, StorageDemand};

/// Volumes in the pool, with those promised.
#[derive(Debug, Clone, Copy)]
pub struct VolumeNumberWeigher;

impl Weigher<Storage> for VolumeNumberWeigher {
    fn name(&self) -> &'static str {
        "VolumeNumberWeigher"
    }

    fn key(&self) -> &'static str {
        "volume_number"
    }

    fn raw(&self, _: &StorageDemand, row: &PoolRow) -> f64 {
        f64::from(row.volumes) + f64::from(row.held_volumes)
    }
}
