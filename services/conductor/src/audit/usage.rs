//! Usage against the sum of the records that count in it.
//!
//! Every change of what a project's records count is one transaction with its usage. So if the usage was at one revision
//! before and after the records were read, their sum is what it has to be.

use std::collections::BTreeMap;

use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::types::v1::drift::Kind;

use super::World;
use super::finding::{Finding, Heal};
use crate::placed::Placed;
use crate::quota::{self, figures};

/// The projects whose usage is not the sum of their records.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let mut sums = BTreeMap::<&str, QuotaUsage>::new();
    let mut count = |project, usage: QuotaUsage| {
        let sum = sums.entry(project).or_default();
        *sum = quota::sum(sum, &usage);
    };
    for record in world.instances.values().map(|entry| &entry.record).filter(|record| record.counted) {
        count(record.project_id(), record.usage());
    }
    for record in world.volumes.values().map(|entry| &entry.record).filter(|record| record.counted) {
        count(record.project_id(), record.usage());
    }
    for record in world.snapshots.values().map(|entry| &entry.record).filter(|record| record.counted) {
        count(record.project_id(), record.usage());
    }
    for project in world.usages.keys() {
        sums.entry(project).or_default();
    }
    let drift = |(project, sum): (&str, QuotaUsage)| {
        let used = world.usages.get(project).copied().unwrap_or_default();
        let differs = used.before == used.after && used.usage != sum;
        differs.then(|| {
            Finding::new(Kind::UsageDrift, project, differences(&used.usage, &sum))
                .of(project)
                .resting_on([used.after.0])
                .healed_by(Heal::Usage { read: used.after, sum })
        })
    };
    sums.into_iter().filter_map(drift).collect()
}

fn differences(used: &QuotaUsage, sum: &QuotaUsage) -> String {
    let pairs = figures(used).into_iter().zip(figures(sum));
    let differ = pairs.filter(|((_, used), (_, sum))| used != sum);
    let texts =
        differ.map(|((name, used), (_, sum))| format!("{name}: {used} counted, {sum} in the records"));
    texts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use kilonova_model::{InstanceId, Revision, VolumeId};
    use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
    use kilonova_proto::types::v1 as pb;

    use super::super::world::Used;
    use super::*;
    use crate::cache::Entry;

    fn world(usage: QuotaUsage, before: i64, after: i64) -> World {
        let flavor = Some(pb::Flavor { vcpus: 2, ram_mib: 512, ..Default::default() });
        let project_id = "demo".to_owned();
        let instance = Some(pb::Instance { project_id: project_id.clone(), flavor, ..Default::default() });
        let counted = InstanceRecord { instance, counted: true, ..Default::default() };
        let gone = InstanceRecord { counted: false, ..counted.clone() };
        let spec = Some(pb::VolumeSpec { size_gib: 3, ..Default::default() });
        let volume = Some(pb::Volume { project_id, spec, ..Default::default() });
        let volume = VolumeRecord { volume, counted: true, ..Default::default() };
        let revision = Revision(9);
        let revisions = |number: i64| Revision(u64::try_from(number).unwrap());
        let mut world = World::default();
        for record in [counted, gone] {
            world.instances.insert(InstanceId::generate(), Entry { record: record.into(), revision });
        }
        world.volumes.insert(VolumeId::generate(), Entry { record: volume.into(), revision });
        let used = Used { usage, before: revisions(before), after: revisions(after) };
        world.usages.insert("demo".to_owned(), used);
        world
    }

    fn right() -> QuotaUsage {
        QuotaUsage { instances: 1, cores: 2, ram_mib: 512, volumes: 1, gigabytes: 3, ..Default::default() }
    }

    #[test]
    fn the_sum_of_what_counts_is_what_is_used() {
        assert!(judge(&world(right(), 7, 7)).is_empty());
        let wrong = QuotaUsage { cores: 5, snapshots: 1, ..right() };
        let found = judge(&world(wrong, 7, 7));
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].cause,
            "cores: 5 counted, 2 in the records; snapshots: 1 counted, 0 in the records"
        );
        assert!(matches!(found[0].heal, Some(Heal::Usage { read: Revision(7), sum }) if sum == right()));
    }

    #[test]
    fn usage_that_changed_meanwhile_is_not_judged() {
        let world = world(QuotaUsage::default(), 7, 8);
        assert!(judge(&world).is_empty());
        assert_eq!(world.unsettled().len(), 1);
    }

    #[test]
    fn records_of_a_project_without_usage_and_usage_without_records_are_found() {
        let mut world = world(right(), 7, 7);
        world.usages.clear();
        assert_eq!(judge(&world).len(), 1);
        world.instances.clear();
        world.volumes.clear();
        let used = Used { usage: right(), before: Revision(3), after: Revision(3) };
        world.usages.insert("old".to_owned(), used);
        assert_eq!(judge(&world).len(), 1);
    }
}
