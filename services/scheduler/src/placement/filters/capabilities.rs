//! What a volume type demands of a pool, matched against what the pool says of itself.

use super::Filter;
use super::extra_specs::{capability, meets, missed};
use crate::placement::{PoolRow, Storage, StorageDemand, World};

/// Pools whose capabilities meet every extra spec. As in Cinder, a name with a prefix other than `capabilities:`
/// is meant for somebody else.
#[derive(Debug, Clone, Copy)]
pub struct CapabilitiesFilter;

impl Filter<Storage> for CapabilitiesFilter {
    fn name(&self) -> &'static str {
        "CapabilitiesFilter"
    }

    fn asks(&self, demand: &StorageDemand) -> bool {
        demands(demand).next().is_some()
    }

    fn passes(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> bool {
        demands(demand).all(|(name, wanted)| meets(&row.capabilities, name, wanted))
    }

    fn detail(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> String {
        missed(&row.capabilities, demands(demand))
    }
}

fn demands(demand: &StorageDemand) -> impl Iterator<Item = (&str, &str)> {
    demand.extra_specs.iter().filter_map(|(key, wanted)| Some((capability(key)?, wanted.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, pool, volume};
    use kilonova_proto::types::v1::StoragePool;

    #[test]
    fn every_demand_must_be_met() {
        let mut world = World::new();
        let capabilities = [("media".to_owned(), "ssd".to_owned())].into();
        backend(&mut world, "n1@gold", &[StoragePool { capabilities, ..pool("p") }]);
        let check = |specs: &[(&str, &str)]| {
            let demand = StorageDemand::new(&volume(1, specs), &world);
            let row = &world.rows()[0];
            (CapabilitiesFilter.passes(&world, &demand, row), CapabilitiesFilter.detail(&world, &demand, row))
        };
        assert!(check(&[]).0);
        assert!(check(&[("media", "ssd"), ("capabilities:volume_backend_name", "gold")]).0);
        assert!(check(&[("qos:iops", "1000"), ("provisioning:type", "thick")]).0, "meant for others");
        assert_eq!(
            check(&[("media", "hdd"), ("replication", "<is> True")]),
            (
                false,
                "media is \"ssd\", \"hdd\" wanted, does not say replication, \"<is> True\" wanted".into()
            )
        );
    }
}
