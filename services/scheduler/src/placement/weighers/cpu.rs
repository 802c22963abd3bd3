//! Free virtual CPUs.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Free virtual CPUs.
#[derive(Debug, Clone, Copy)]
pub struct CPUWeigher;

impl Weigher<Compute> for CPUWeigher {
    fn name(&self) -> &'static str {
        "CPUWeigher"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        row.vcpus.free() as f64
    }
}
