//! What the flavor demands of a host's capabilities: extra specs with the scope `capabilities:` or none, as in Nova, with the
//! operators of `extra_specs.rs`.

use super::Filter;
use super::extra_specs::missed;
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts whose capabilities meet every extra spec.
#[derive(Debug, Clone, Copy)]
pub struct ComputeCapabilitiesFilter;

impl Filter<Compute> for ComputeCapabilitiesFilter {
    fn name(&self) -> &'static str {
        "ComputeCapabilitiesFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.capabilities.is_empty()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.capabilities_fit.holds(row.facts)
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().own.facts, |facts| demand.capabilities_fit.holds(facts));
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let facts = world.vocabulary().facts(row.facts);
        let demands = demand.capabilities.iter().map(|(name, wanted)| (name.as_str(), wanted.as_str()));
        missed(facts, demands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::ComputeResources;

    #[test]
    fn every_demand_must_be_met() {
        let mut world = World::new();
        let capabilities = [("disk_kind".to_owned(), "nvme".to_owned())].into();
        let figures = ComputeResources { hypervisor_version: "7".into(), capabilities, ..resources() };
        host(&mut world, "c1", figures);
        let check = |specs: &[(&str, &str)]| {
            let mut request = instance(1, 1, 0);
            let flavor = request.flavor.as_mut().unwrap();
            flavor.extra_specs =
                specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[0];
            let passes = !ComputeCapabilitiesFilter.asks(&demand)
                || ComputeCapabilitiesFilter.passes(&world, &demand, row);
            (passes, ComputeCapabilitiesFilter.detail(&world, &demand, row))
        };
        assert!(check(&[]).0);
        assert!(check(&[("disk_kind", "<or> ssd <or> nvme"), ("capabilities:hypervisor_version", ">= 6")]).0);
        assert!(check(&[("hw:cpu_policy", "dedicated"), ("trait:HW_A", "required")]).0, "meant for others");
        let why = "disk_kind is \"nvme\", \"hdd\" wanted, does not say gpu, \"<is> True\" wanted".to_owned();
        assert_eq!(check(&[("disk_kind", "hdd"), ("gpu", "<is> True")]), (false, why));
    }
}
