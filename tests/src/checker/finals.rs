//! Every acknowledged id has come to an end, and nothing is left at hosts that are not its own.

use std::collections::BTreeSet;

use kilonova_proto::conductor::v1::Receipt;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::{State as InstanceState, Task};
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;

use super::{Expected, Findings, Want, World};

const FINAL: &str = "final state";
const WANTED: &str = "as was asked";
const RECEIPTS: &str = "receipts";
const TRIED: &str = "tried once";

/// Every record is in a final state, and every acknowledged id in one that was asked for.
pub fn acknowledged(world: &World, expected: &Expected, findings: &mut Findings) {
    for (key, error) in &world.unreadable {
        findings.add(FINAL, key, format!("cannot be read: {error}"));
    }
    for (id, record) in &world.instances {
        let instance = record.instance.clone().unwrap_or_default();
        let state = instance.state();
        let there = matches!(state, InstanceState::Active | InstanceState::Stopped | InstanceState::Resized);
        let ended = there || matches!(state, InstanceState::Error | InstanceState::Deleted);
        findings.add_unless(ended, FINAL, id, || format!("it is {}", state.as_str_name()));
        let busy = instance.task() != Task::Unspecified || record.deadline_time.is_some();
        findings.add_unless(!busy, FINAL, id, || {
            let task = instance.task().as_str_name();
            format!("{} with {task}, deadline {:?}", state.as_str_name(), record.deadline_time)
        });
        findings.add_unless(record.operations.is_empty(), FINAL, id, || {
            format!("{} operations wait", record.operations.len())
        });
        let failed = state == InstanceState::Error;
        fault(id, failed, there, instance.fault.as_ref(), findings);
        judge(id, short(state.as_str_name()), failed, state == InstanceState::Deleted, expected, findings);
    }
    for (id, record) in &world.volumes {
        let volume = record.volume.clone().unwrap_or_default();
        let state = volume.state();
        let there = matches!(state, VolumeState::Available | VolumeState::InUse);
        let ended = there || matches!(state, VolumeState::Error | VolumeState::Deleted);
        let waits = !record.operations.is_empty() || record.deadline_time.is_some();
        findings.add_unless(ended && !waits, FINAL, id, || {
            format!("it is {}, {} operations wait", state.as_str_name(), record.operations.len())
        });
        let failed = state == VolumeState::Error;
        fault(id, failed, there, volume.fault.as_ref(), findings);
        judge(id, short(state.as_str_name()), failed, state == VolumeState::Deleted, expected, findings);
    }
    for (id, record) in &world.snapshots {
        let snapshot = record.snapshot.clone().unwrap_or_default();
        let state = snapshot.state();
        let (failed, gone) = (state == SnapshotState::Error, state == SnapshotState::Deleted);
        let there = state == SnapshotState::Available;
        findings.add_unless(there || failed || gone, FINAL, id, || format!("it is {}", state.as_str_name()));
        fault(id, failed, there, snapshot.fault.as_ref(), findings);
        judge(id, short(state.as_str_name()), failed, gone, expected, findings);
        let of = world.volumes.get(&snapshot.volume_id);
        let known = of.is_some_and(|volume| volume.snapshot_ids.contains(id));
        findings.add_unless(known != gone, FINAL, id, || {
            format!("it is {}, and its volume lists it: {known}", state.as_str_name())
        });
    }
    for id in expected.wanted.keys() {
        let known = world.instances.contains_key(id)
            || world.volumes.contains_key(id)
            || world.snapshots.contains_key(id);
        findings.add_unless(known || world.others.contains(id), WANTED, id, || {
            "it was acknowledged and is not there".into()
        });
    }
}

/// No record is there that nobody was told of, and none was tried twice in one place.
pub fn only_what_was_asked(world: &World, expected: &Expected, findings: &mut Findings) {
    for id in world.instances.keys().chain(world.volumes.keys()) {
        let known = !expected.complete || expected.wanted.contains_key(id);
        findings.add_unless(known, WANTED, id, || "nobody was told of it".into());
    }
    let instances = world.instances.iter().map(|(id, record)| (id, &record.tried_hosts));
    let volumes = world.volumes.iter().map(|(id, record)| (id, &record.tried_hosts));
    for (id, tried) in instances.chain(volumes) {
        let different: BTreeSet<&String> = tried.iter().collect();
        findings
            .add_unless(different.len() == tried.len(), TRIED, id, || format!("it was tried on {tried:?}"));
    }
}

/// `STATE_ACTIVE` as `ACTIVE`.
fn short(state: &'static str) -> &'static str {
    state.strip_prefix("STATE_").unwrap_or(state)
}

fn fault(id: &str, failed: bool, there: bool, fault: Option<&pb::Fault>, findings: &mut Findings) {
    let said = fault.is_some_and(|fault| !fault.reason.is_empty());
    findings.add_unless(!failed || said, FINAL, id, || "ERROR without a reason".into());
    findings
        .add_unless(!there || fault.is_none(), FINAL, id, || format!("well, and with a fault: {fault:?}"));
}

fn judge(id: &str, state: &str, failed: bool, gone: bool, expected: &Expected, findings: &mut Findings) {
    let Some(want) = expected.wanted.get(id) else { return };
    let fine = match want {
        Want::Present => !gone,
        Want::Absent => gone,
        Want::State(wanted) => state == *wanted && (*wanted == "ERROR") == failed,
    };
    findings.add_unless(fine, WANTED, id, || format!("{want:?} was asked, and it is {state}"));
}

/// A receipt stands for the record's own host and for no other, but for hosts that are away.
pub fn receipts(world: &World, expected: &Expected, findings: &mut Findings) {
    for (id, record) in &world.instances {
        let instance = record.instance.clone().unwrap_or_default();
        // One that failed on its way keeps what it has where it was; so does one that may go back.
        let gone = instance.state() == InstanceState::Deleted;
        let home = if gone { "" } else { instance.host.as_str() };
        let back = record.resized_from.as_ref().map_or("", |from| from.host.as_str());
        let receipts: Vec<Receipt> =
            record.receipts.iter().filter(|one| back.is_empty() || one.host != back).cloned().collect();
        only_at(id, home, &receipts, expected, findings);
    }
    for (id, record) in &world.volumes {
        let volume = record.volume.clone().unwrap_or_default();
        let there = !matches!(volume.state(), VolumeState::Error | VolumeState::Deleted);
        let home = if there { volume.host.as_str() } else { "" };
        only_at(id, home, &record.receipts, expected, findings);
    }
}

fn only_at(id: &str, home: &str, receipts: &[Receipt], expected: &Expected, findings: &mut Findings) {
    for receipt in receipts.iter().filter(|receipt| receipt.host != home) {
        findings.add_unless(expected.is_away(&receipt.host), RECEIPTS, id, || {
            format!(
                "one of attempt {} is left at {}, and it belongs at {home:?}",
                receipt.attempt, receipt.host
            )
        });
    }
    let at_home = receipts.iter().filter(|receipt| receipt.host == home).count();
    findings.add_unless(home.is_empty() || at_home == 1, RECEIPTS, id, || {
        format!("it is on {home} with {at_home} receipts there")
    });
}
