//! The PCI devices asked for: `pci_passthrough:alias` = `gpu:2`.

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// Hosts with enough free devices of every alias.
#[derive(Debug, Clone, Copy)]
pub struct PciPassthroughFilter;

impl Filter<Compute> for PciPassthroughFilter {
    fn name(&self) -> &'static str {
        "PciPassthroughFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.amount.devices.is_empty()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        row.devices.left().short_of(&demand.amount.devices).is_none()
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let short = row.devices.left().short_of(&demand.amount.devices);
        short.map_or_else(String::new, |short| short.to_string())
    }

    fn closeness(&self, demand: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        let short = row.devices.left().short_of(&demand.amount.devices);
        Some(short.map_or(0.0, |short| f64::from(short.free) - f64::from(short.needed)))
    }

    fn nearest(&self, demand: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        let short = row.devices.left().short_of(&demand.amount.devices)?;
        Some(format!(
            "the most free is {} {} devices on {place}, {} needed",
            short.free, short.alias, short.needed
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Row;
    use crate::placement::testing::{host, instance, pci_pool, resources};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn devices_used_or_held_are_not_free() {
        let mut world = World::new();
        let pci_pools = vec![pci_pool("gpu", 4, 1), pci_pool("nic", 2, 2)];
        let id = host(&mut world, "c1", ComputeResources { pci_pools, ..resources() });
        let demand = |world: &World<ComputeRow>, alias: &str| {
            let mut request = instance(1, 1, 0);
            let specs = &mut request.flavor.as_mut().unwrap().extra_specs;
            specs.insert("pci_passthrough:alias".into(), alias.into());
            ComputeDemand::new(&request, world)
        };
        let check = |world: &World<ComputeRow>, alias: &str| {
            let (demand, row) = (demand(world, alias), &world.rows()[0]);
            assert!(PciPassthroughFilter.asks(&demand));
            (
                PciPassthroughFilter.passes(world, &demand, row),
                PciPassthroughFilter.detail(world, &demand, row),
            )
        };
        assert!(check(&world, "gpu:3").0);
        assert_eq!(check(&world, "gpu:4"), (false, "needs 4 gpu devices, has 3 of 4 free".into()));
        assert_eq!(check(&world, "gpu:1,nic:1"), (false, "needs 1 nic devices, has 0 of 2 free".into()));
        assert_eq!(check(&world, "fpga:1"), (false, "needs 1 fpga devices, has 0 of 0 free".into()));

        let held = demand(&world, "gpu:2").amount;
        world.update_rows(id, |row| row.hold(&held));
        let wanted = demand(&world, "gpu:2");
        let nearest = PciPassthroughFilter.nearest(&wanted, &world.rows()[0], "c1");
        assert_eq!(nearest.unwrap(), "the most free is 1 gpu devices on c1, 2 needed");
        world.update_rows(id, |row| row.release(&held));
        assert!(check(&world, "gpu:3").0);
        assert!(!PciPassthroughFilter.asks(&ComputeDemand::new(&instance(1, 1, 0), &world)));
    }
}
