//! Receipts at hosts that have left: something may be there that is not wanted, and nobody can be asked.

use std::time::SystemTime;

use kilonova_model::time::system_time;
use kilonova_proto::conductor::v1::Receipt;
use kilonova_proto::types::v1::drift::Kind;

use super::World;
use super::finding::Finding;
use crate::cache::Entry;
use crate::placed::Placed;

/// The receipts, of what is not kept there, at hosts that are not registered.
#[must_use]
pub fn judge(world: &World, now: SystemTime) -> Vec<Finding> {
    let instances = world.instances.iter().flat_map(|(id, entry)| left(world, id, entry, now));
    let volumes = world.volumes.iter().flat_map(|(id, entry)| left(world, id, entry, now));
    let snapshots = world.snapshots.iter().flat_map(|(id, entry)| left(world, id, entry, now));
    instances.chain(volumes).chain(snapshots).collect()
}

fn left<P: Placed>(world: &World, id: &P::Id, entry: &Entry<P>, now: SystemTime) -> Vec<Finding> {
    let record = &entry.record;
    let keeps = record.keeps();
    let is_left = |receipt: &&Receipt| {
        !keeps.contains(&receipt.host) && !world.registered.contains(&(P::AGENT, receipt.host.clone()))
    };
    let finding = |receipt: &Receipt| {
        let since = receipt.create_time.as_ref().and_then(system_time).unwrap_or(now);
        let age = now.duration_since(since).unwrap_or_default().as_secs();
        let cause = format!(
            "the host has left and may hold something of this {} (attempt {}, {age} s ago)",
            P::NOUN,
            receipt.attempt
        );
        Finding::new(Kind::ReceiptLeft, id, cause)
            .of(record.project_id())
            .on(&receipt.host)
            .resting_on([entry.revision.0, u64::from(receipt.attempt)])
    };
    record.receipts().iter().filter(is_left).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kilonova_model::time::timestamp;
    use kilonova_model::{InstanceId, ServiceKind};
    use kilonova_proto::types::v1::instance::State;

    use super::super::fixtures::{HOST, entry, instance, receipt, world};
    use super::*;

    #[test]
    fn only_what_is_not_wanted_where_nobody_can_be_asked_is_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let (mut world, id) = (world(), InstanceId::generate());
        let mut record = instance(id, State::Active, HOST);
        let since = Some(timestamp(SystemTime::UNIX_EPOCH));
        record.receipts =
            [HOST, "h2", "h3"].map(|host| Receipt { create_time: since, ..receipt(host) }).into();
        world.instances.insert(id, entry(record));
        world.registered.insert((ServiceKind::Compute, "h3".into()));
        let found = judge(&world, now);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].host.as_str(), found[0].heal.is_none()), ("h2", true));
        assert!(found[0].cause.contains("100 s ago"), "{}", found[0].cause);
    }
}
