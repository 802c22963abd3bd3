//! Instances there, claimed or promised.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// Instances there, claimed or promised.
#[derive(Debug, Clone, Copy)]
pub struct NumInstancesWeigher;

impl Weigher<Compute> for NumInstancesWeigher {
    fn name(&self) -> &'static str {
        "NumInstancesWeigher"
    }

    fn key(&self) -> &'static str {
        "num_instances"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        f64::from(row.instances) + f64::from(row.held_instances)
    }
}
