//! Builds and other disk-heavy work, going on or promised.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// Builds and other disk-heavy work, going on or promised.
#[derive(Debug, Clone, Copy)]
pub struct IoOpsWeigher;

impl Weigher<Compute> for IoOpsWeigher {
    fn name(&self) -> &'static str {
        "IoOpsWeigher"
    }

    fn key(&self) -> &'static str {
        "io_ops"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.io_ops_to_be()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.io_ops)
    }
}
