//! Free memory in MiB.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// Free memory in MiB.
#[derive(Debug, Clone, Copy)]
pub struct RAMWeigher;

impl Weigher<Compute> for RAMWeigher {
    fn name(&self) -> &'static str {
        "RAMWeigher"
    }

    fn key(&self) -> &'static str {
        "ram"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.ram.free()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.ram.free)
    }
}
