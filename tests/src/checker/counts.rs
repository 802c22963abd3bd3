//! What is counted is what there is.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::types::v1::instance::State as InstanceState;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;

use super::{Findings, World};

const USAGE: &str = "usage";
const REQUESTS: &str = "requests";

/// Each project's usage is the sum of its records that count, and those count that are not gone.
pub fn usage(world: &World, findings: &mut Findings) {
    let mut sums: BTreeMap<&str, QuotaUsage> = BTreeMap::new();
    for (id, record) in &world.instances {
        let Some(instance) = &record.instance else { continue };
        counts(id, record.counted, instance.state() == InstanceState::Deleted, findings);
        if record.counted {
            let sum = sums.entry(&instance.project_id).or_default();
            let flavor = instance.flavor.clone().unwrap_or_default();
            sum.instances += 1;
            let extra = record.extra_usage.unwrap_or_default();
            sum.cores += flavor.vcpus + extra.cores;
            sum.ram_mib += flavor.ram_mib + extra.ram_mib;
        }
    }
    for (id, record) in &world.volumes {
        let Some(volume) = &record.volume else { continue };
        counts(id, record.counted, volume.state() == VolumeState::Deleted, findings);
        if record.counted {
            let sum = sums.entry(&volume.project_id).or_default();
            sum.volumes += 1;
            sum.gigabytes += volume.spec.as_ref().map_or(0, |spec| spec.size_gib);
            sum.gigabytes += record.extra_usage.map_or(0, |extra| extra.gigabytes);
        }
    }
    for (id, record) in &world.snapshots {
        let Some(snapshot) = &record.snapshot else { continue };
        counts(id, record.counted, snapshot.state() == SnapshotState::Deleted, findings);
        if record.counted {
            let sum = sums.entry(&snapshot.project_id).or_default();
            sum.snapshots += 1;
            sum.gigabytes += snapshot.size_gib;
        }
    }
    let projects: BTreeSet<&str> =
        sums.keys().copied().chain(world.usages.keys().map(String::as_str)).collect();
    for project in projects {
        let sum = sums.get(project).copied().unwrap_or_default();
        let counted = world.usages.get(project).and_then(|record| record.usage).unwrap_or_default();
        findings.add_unless(sum == counted, USAGE, format!("project {project}"), || {
            format!("{counted:?} is counted, and there is {sum:?}")
        });
    }
}

fn counts(id: &str, counted: bool, gone: bool, findings: &mut Findings) {
    findings.add_unless(counted != gone, USAGE, id, || {
        let (is, does) =
            (if gone { "gone" } else { "there" }, if counted { "counts" } else { "does not count" });
        format!("it is {is} and {does}")
    });
}

/// Each request that is remembered names what is there; what it deleted may be gone altogether.
pub fn requests(world: &World, findings: &mut Findings) {
    for (name, request) in &world.requests {
        for id in &request.resource_ids {
            let known = world.instances.contains_key(id)
                || world.volumes.contains_key(id)
                || world.groups.contains_key(id)
                || world.snapshots.contains_key(id)
                || world.others.contains(id);
            findings.add_unless(known || request.method.contains("Delete"), REQUESTS, name, || {
                format!("{} was answered with {id}, which is not there", request.method)
            });
        }
    }
}
