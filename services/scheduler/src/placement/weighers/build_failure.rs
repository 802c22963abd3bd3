//! Builds that failed there since the last that succeeded.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// Builds that failed there since the last that succeeded.
#[derive(Debug, Clone, Copy)]
pub struct BuildFailureWeigher;

impl Weigher<Compute> for BuildFailureWeigher {
    fn name(&self) -> &'static str {
        "BuildFailureWeigher"
    }

    fn key(&self) -> &'static str {
        "build_failure"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.failed_builds.into()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.failed_builds)
    }
}
