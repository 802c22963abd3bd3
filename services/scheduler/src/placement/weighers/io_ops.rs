//! Builds and other disk-heavy work, going on or promised.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Builds and other disk-heavy work, going on or promised.
#[derive(Debug, Clone, Copy)]
pub struct IoOpsWeigher;

impl Weigher<Compute> for IoOpsWeigher {
    fn name(&self) -> &'static str {
        "IoOpsWeigher"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        f64::from(row.io_ops) + f64::from(row.held_instances)
    }
}
