//! What a volume type demands of a pool, matched against what the pool says of itself.

use super::Filter;
use super::extra_specs::matches;
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
        demands(demand).all(|(name, wanted)| meets(row, name, wanted))
    }

    fn detail(&self, _: &World<PoolRow>, demand: &StorageDemand, row: &PoolRow) -> String {
        let missed = demands(demand).filter(|(name, wanted)| !meets(row, name, wanted));
        let missed = missed.map(|(name, wanted)| match row.capabilities.get(name) {
            Some(own) => format!("{name} is {own:?}, {wanted:?} wanted"),
            None => format!("does not say {name}, {wanted:?} wanted"),
        });
        missed.collect::<Vec<_>>().join(", ")
    }
}

fn demands(demand: &StorageDemand) -> impl Iterator<Item = (&str, &str)> {
    demand.extra_specs.iter().filter_map(|(key, wanted)| {
        let name = match key.split_once(':') {
            None => key,
            Some(("capabilities", name)) => name,
            Some(_) => return None,
        };
        Some((name, wanted.as_str()))
    })
}

fn meets(row: &PoolRow, name: &str, wanted: &str) -> bool {
    row.capabilities.get(name).is_some_and(|own| matches(own, wanted))
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
