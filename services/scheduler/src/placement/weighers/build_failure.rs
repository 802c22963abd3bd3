//! Builds that failed there since the last that succeeded.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Builds that failed there since the last that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct BuildFailureWeigher;

impl Weigher<Compute> for BuildFailureWeigher {
    fn name(&self) -> &'static str {
        "BuildFailureWeigher"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        f64::from(row.failed_builds)
    }
}
