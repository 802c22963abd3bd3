//! Free memory in MiB.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Free memory in MiB.
#[derive(Debug, Clone, Copy)]
pub struct RAMWeigher;

impl Weigher<Compute> for RAMWeigher {
    fn name(&self) -> &'static str {
        "RAMWeigher"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        row.ram.free() as f64
    }
}
