//! The hypervisor's version: the newer the better.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow};

/// The hypervisor's version, as one number.
#[derive(Debug, Clone, Copy)]
pub struct HypervisorVersionWeigher;

impl Weigher<Compute> for HypervisorVersionWeigher {
    fn name(&self) -> &'static str {
        "HypervisorVersionWeigher"
    }

    fn key(&self) -> &'static str {
        "hypervisor_version"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        row.hypervisor_version.into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.hypervisor_version)
    }
}
