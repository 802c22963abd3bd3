//! Up, enabled by its administrator, and not in quarantine.

use super::Filter;
use crate::placement::{
    Block, Compute, ComputeDemand, ComputeRow, PoolRow, Row, Storage, StorageDemand, World,
};

/// Hosts that answer and are enabled.
#[derive(Debug, Clone, Copy)]
pub struct ComputeFilter;

/// Backends that answer and are enabled.
#[derive(Debug, Clone, Copy)]
pub struct BackendFilter;

impl Filter<Compute> for ComputeFilter {
    fn name(&self) -> &'static str {
        "ComputeFilter"
    }

    fn passes(&self, _: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> bool {
        row.head.is_serving()
    }

    fn retain(&self, world: &World<ComputeRow>, _: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_members(&world.columns().serving);
    }

    fn detail(&self, world: &World<ComputeRow>, _: &ComputeDemand, row: &ComputeRow) -> String {
        why_not(world, row)
    }
}

impl Filter<Storage> for BackendFilter {
    fn name(&self) -> &'static str {
        "BackendFilter"
    }

    fn passes(&self, _: &World<PoolRow>, _: &StorageDemand, row: &PoolRow) -> bool {
        row.head.is_serving()
    }

    fn retain(&self, world: &World<PoolRow>, _: &StorageDemand, block: &mut Block<'_>) {
        block.keep_members(&world.columns().serving);
    }

    fn detail(&self, world: &World<PoolRow>, _: &StorageDemand, row: &PoolRow) -> String {
        why_not(world, row)
    }
}

fn why_not<R: Row>(world: &World<R>, row: &R) -> String {
    let facts = world.facts(row.head().host);
    let (state, reason) = match row.head() {
        head if !head.up => ("down", &facts.down_reason),
        head if !head.enabled => ("disabled", &facts.disabled_reason),
        _ => ("quarantined", &facts.quarantine_reason),
    };
    if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};

    #[test]
    fn down_and_disabled_hosts_are_removed_with_the_reason() {
        let mut world = World::new();
        let id = host(&mut world, "c1", resources());
        let demand = ComputeDemand::new(&instance(1, 1, 0), &world);
        assert!(ComputeFilter.passes(&world, &demand, &world.rows()[0]));
        world.facts_mut(id).disabled_reason = "new disks".into();
        world.update_rows(id, |row| row.head.enabled = false);
        assert!(!ComputeFilter.passes(&world, &demand, &world.rows()[0]));
        assert_eq!(ComputeFilter.detail(&world, &demand, &world.rows()[0]), "disabled: new disks");
        world.facts_mut(id).quarantine_reason = "5 builds failed one after the other".into();
        world.update_rows(id, |row| (row.head.enabled, row.head.quarantined) = (true, true));
        assert!(!ComputeFilter.passes(&world, &demand, &world.rows()[0]));
        let detail = ComputeFilter.detail(&world, &demand, &world.rows()[0]);
        assert_eq!(detail, "quarantined: 5 builds failed one after the other");
        world.facts_mut(id).down_reason = "silent for 6s".into();
        world.update_rows(id, |row| row.head.up = false);
        assert_eq!(ComputeFilter.detail(&world, &demand, &world.rows()[0]), "down: silent for 6s");
    }
}
