//! How few PCI devices are left: hosts without any come first, so that devices are left to those that ask for them, and of those
//! that have what is asked for, the one with the fewest.

use super::Weigher;
use crate::placement::{Columns, Compute, ComputeDemand, ComputeRow, clamped};

/// 100 less the devices left, and at least 1.
#[derive(Debug, Clone, Copy)]
pub struct PCIWeigher;

impl Weigher<Compute> for PCIWeigher {
    fn name(&self) -> &'static str {
        "PCIWeigher"
    }

    fn key(&self) -> &'static str {
        "pci"
    }

    fn raw(&self, _: &ComputeDemand, row: &ComputeRow) -> f64 {
        clamped(row.devices.scarcity()).into()
    }

    fn column<'a>(&self, columns: &'a Columns<ComputeRow>) -> Option<&'a [i32]> {
        Some(&columns.own.pci)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, PciPool};

    #[test]
    fn the_fewest_devices_come_first() {
        let mut world = World::new();
        for (name, total, used) in [("c1", 0, 0), ("c2", 4, 1), ("c3", 500, 0)] {
            let pool = PciPool { alias: "gpu".into(), total, used };
            let pci_pools = if total > 0 { vec![pool] } else { Vec::new() };
            host(&mut world, name, ComputeResources { pci_pools, ..resources() });
        }
        let demand = ComputeDemand::new(&instance(1, 1, 0), &world);
        let raw: Vec<f64> = world.rows().iter().map(|row| PCIWeigher.raw(&demand, row)).collect();
        assert_eq!(raw, [100.0, 97.0, 1.0]);
    }
}
