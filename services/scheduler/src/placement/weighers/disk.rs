//! Free local disk in GiB.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// Free local disk in GiB.
#[derive(Debug, Clone, Copy)]
pub struct DiskWeigher;

impl Weigher<Compute> for DiskWeigher {
    fn name(&self) -> &'static str {
        "DiskWeigher"
    }

    fn key(&self) -> &'static str {
        "disk"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.disk.free()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.disk.free)
    }
}
