//! Free local disk in GiB.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Free local disk in GiB.
#[derive(Debug, Clone, Copy)]
pub struct DiskWeigher;

impl Weigher<Compute> for DiskWeigher {
    fn name(&self) -> &'static str {
        "DiskWeigher"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        row.disk.free() as f64
    }
}
