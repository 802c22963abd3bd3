//! What one look saw.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::{
    Epoch, HostName, InstanceId, Reason, Revision, ServerGroupId, ServiceKind, SnapshotId, VolumeId,
};
use kilonova_proto::compute::v1::Guest;
use kilonova_proto::conductor::v1::{InstanceRecord, ServerGroupRecord, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::volume::v1::{StoredSnapshot, StoredVolume};

use crate::cache::Entry;
use crate::placed::{Phase, Placed, Wanted};

/// What one look saw: first the hosts, then the records.
#[derive(Default)]
pub struct World {
    /// What the compute hosts have that answered.
    pub computes: BTreeMap<String, Guests>,
    /// What the backends have that answered.
    pub backends: BTreeMap<String, Stored>,
    /// Which did not answer, and why.
    pub unchecked: BTreeMap<(ServiceKind, HostName), String>,
    /// Who is registered.
    pub registered: BTreeSet<(ServiceKind, String)>,
    /// The instances.
    pub instances: BTreeMap<InstanceId, Entry<InstanceRecord>>,
    /// The volumes.
    pub volumes: BTreeMap<VolumeId, Entry<VolumeRecord>>,
    /// The snapshots.
    pub snapshots: BTreeMap<SnapshotId, Entry<SnapshotRecord>>,
    /// The server groups.
    pub groups: BTreeMap<ServerGroupId, Entry<ServerGroupRecord>>,
    /// The usage of projects.
    pub usages: BTreeMap<String, Used>,
}

/// What a compute host has.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    /// Its incarnation.
    pub epoch: Epoch,
    /// What it has of each instance.
    pub guests: BTreeMap<InstanceId, Guest>,
}

/// What a backend has.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Its incarnation.
    pub epoch: Epoch,
    /// What it has of each volume.
    pub volumes: BTreeMap<VolumeId, StoredVolume>,
    /// What it has of each snapshot.
    pub snapshots: BTreeMap<SnapshotId, StoredSnapshot>,
}

/// What is counted as used by a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// The counts.
    pub usage: QuotaUsage,
    /// The revision before the records were read; 0 for none.
    pub before: Revision,
    /// The revision after they were read; 0 for none.
    pub after: Revision,
}

impl World {
    /// The projects whose usage changed while the records were read.
    #[must_use]
    pub fn unsettled(&self) -> BTreeSet<String> {
        let changed = self.usages.iter().filter(|(_, used)| used.before != used.after);
        changed.map(|(project, _)| project.clone()).collect()
    }
}

/// How a record stands to what a host has of it.
pub enum Standing<'a, P> {
    /// It is not wanted there; why.
    Unwanted(String),
    /// Something is under way with it, or a conductor is still to remove it there.
    UnderWay,
    /// It belongs there, and nothing is under way.
    Belongs(&'a Entry<P>),
}

/// How a record, if there is one, stands to what a host has of it.
pub fn standing<'a, P: Placed>(entry: Option<&'a Entry<P>>, host: &str) -> Standing<'a, P> {
    let Some(entry) = entry else { return Standing::Unwanted("there is no record of it".to_owned()) };
    let record = &entry.record;
    if record.status().phase == Phase::Gone {
        return Standing::Unwanted("its record says that it is gone".to_owned());
    }
    let keeps = record.keeps();
    if under_way(record.as_ref()) {
        return Standing::UnderWay;
    }
    if keeps.iter().any(|kept| kept == host) {
        return Standing::Belongs(entry);
    }
    if record.receipts().iter().any(|receipt| receipt.host == host && !record.is_to_stay(receipt)) {
        return Standing::UnderWay;
    }
    let elsewhere =
        if keeps.is_empty() { "on no host".to_owned() } else { format!("on {}", keeps.join(" and ")) };
    Standing::Unwanted(format!("its record has it {elsewhere}"))
}

/// Whether something is under way with it.
pub fn under_way<P: Placed>(record: &P) -> bool {
    let status = record.status();
    let leaves = status.wanted == Wanted::Absent && status.phase != Phase::Gone;
    leaves || record.is_placing() || record.operation().is_some()
}

/// True if it was given up as lost, and this is the attempt that was lost.
pub fn was_lost<P: Placed>(record: &P, attempt: u32) -> bool {
    let status = record.status();
    let is_lost = record.fault().is_some_and(|fault| fault.reason == Reason::BuildLost.as_str());
    status.phase == Phase::Failed && is_lost && status.attempt == attempt && !under_way(record)
}

/// Whether it is to be there, with nothing under way.
pub fn is_settled<P: Placed>(record: &P) -> bool {
    record.status().phase == Phase::Ready && !under_way(record)
}
