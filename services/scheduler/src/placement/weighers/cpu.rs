//! Free virtual CPUs.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// Free virtual CPUs.
#[derive(Debug, Clone, Copy)]
pub struct CPUWeigher;

impl Weigher<Compute> for CPUWeigher {
    fn name(&self) -> &'static str {
        "CPUWeigher"
    }

    fn key(&self) -> &'static str {
        "cpu"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.vcpus.free()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.vcpus.free)
    }
}
