//! The history tells what happened: how actions ended agrees with where the record is, and their times with each
//! other.

use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::Outcome;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State as InstanceState;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use prost_types::Timestamp;

use super::world::moment;
use super::{Findings, World};

const RULE: &str = "history";

/// What of a record the history has to agree with.
struct Told<'a> {
    id: &'a str,
    actions: &'a [pb::Action],
    launched: bool,
    deleted: bool,
    has_delete_time: bool,
    failed: bool,
}

/// The history of every record.
pub fn tells_the_truth(world: &World, findings: &mut Findings) {
    for (id, record) in &world.instances {
        let instance = record.instance.clone().unwrap_or_default();
        let told = Told {
            id,
            actions: &record.actions,
            launched: instance.launch_time.is_some(),
            deleted: instance.state() == InstanceState::Deleted,
            has_delete_time: instance.delete_time.is_some(),
            failed: instance.state() == InstanceState::Error,
        };
        judge(&told, findings);
        power(id, instance.state(), &record.actions, findings);
    }
    for (id, record) in &world.volumes {
        let volume = record.volume.clone().unwrap_or_default();
        let told = Told {
            id,
            actions: &record.actions,
            launched: volume.launch_time.is_some(),
            deleted: volume.state() == VolumeState::Deleted,
            has_delete_time: volume.delete_time.is_some(),
            failed: volume.state() == VolumeState::Error,
        };
        judge(&told, findings);
    }
    for (id, record) in &world.snapshots {
        let snapshot = record.snapshot.clone().unwrap_or_default();
        let state = snapshot.state();
        let created = record
            .actions
            .iter()
            .any(|action| action.kind() == Kind::Create && action.outcome() == Outcome::Succeeded);
        let told = Told {
            id,
            actions: &record.actions,
            launched: created,
            deleted: state == SnapshotState::Deleted,
            has_delete_time: snapshot.delete_time.is_some(),
            failed: state == SnapshotState::Error,
        };
        judge(&told, findings);
        findings.add_unless(state != SnapshotState::Available || created, RULE, id, || {
            "it is AVAILABLE, and its create did not succeed".into()
        });
    }
}

fn judge(told: &Told<'_>, findings: &mut Findings) {
    let Told { id, actions, .. } = told;
    let mut last: Option<&Timestamp> = None;
    for action in *actions {
        times(id, action, last, findings);
        last = action.start_time.as_ref();
        steps(id, action, findings);
    }
    if let Some(create) = actions.iter().find(|action| action.kind() == Kind::Create) {
        let succeeded = create.outcome() == Outcome::Succeeded;
        findings.add_unless(succeeded == told.launched, RULE, id, || {
            format!(
                "its create is {}, and launched it was: {}",
                create.outcome().as_str_name(),
                told.launched
            )
        });
        let failed = create.outcome() == Outcome::Failed;
        findings.add_unless(!failed || told.failed || told.deleted, RULE, id, || {
            "its create failed, and it is well".into()
        });
    }
    let ended = actions
        .last()
        .is_some_and(|action| action.kind() == Kind::Delete && action.outcome() == Outcome::Succeeded);
    findings.add_unless(told.deleted == ended && told.deleted == told.has_delete_time, RULE, id, || {
        let last = actions.last().map(|action| (action.kind().as_str_name(), action.outcome().as_str_name()));
        format!(
            "deleted: {}, with a time: {}, and what was done last is {last:?}",
            told.deleted, told.has_delete_time
        )
    });
}

fn times(id: &str, action: &pb::Action, last: Option<&Timestamp>, findings: &mut Findings) {
    let kind = action.kind().as_str_name();
    let (Some(start), Some(end)) = (&action.start_time, &action.end_time) else {
        findings.add(
            RULE,
            id,
            format!("{kind} has no times: {:?} to {:?}", action.start_time, action.end_time),
        );
        return;
    };
    findings.add_unless(moment(start) <= moment(end), RULE, id, || format!("{kind} ended before it began"));
    findings.add_unless(last.is_none_or(|last| moment(last) <= moment(start)), RULE, id, || {
        format!("{kind} began before what was asked before it")
    });
    for step in &action.steps {
        // Where the steps of other machines are, their clocks are too.
        findings.add_unless(step.start_time.is_some(), RULE, id, || {
            format!("step {} of {kind} has no time", step.name)
        });
    }
}

fn steps(id: &str, action: &pb::Action, findings: &mut Findings) {
    let (kind, outcome) = (action.kind().as_str_name(), action.outcome());
    let ended = matches!(outcome, Outcome::Succeeded | Outcome::Failed | Outcome::Superseded);
    findings.add_unless(ended, RULE, id, || format!("{kind} is {}", outcome.as_str_name()));
    for step in &action.steps {
        let open = matches!(step.outcome(), Outcome::InProgress | Outcome::Unspecified);
        findings.add_unless(!open, RULE, id, || {
            format!("{kind} is {}, and its step {} goes on", outcome.as_str_name(), step.name)
        });
    }
    let some_failed = action.steps.iter().any(|step| step.outcome() == Outcome::Failed);
    let must = outcome == Outcome::Failed && action.dropped_steps == 0;
    findings.add_unless(!must || some_failed, RULE, id, || format!("{kind} failed, and no step of it did"));
}

/// What was done last with its power is what it is. What an evacuation overtook is as was asked once it was built again.
fn power(id: &str, state: InstanceState, actions: &[pb::Action], findings: &mut Findings) {
    let succeeded = |action: &pb::Action| action.outcome() == Outcome::Succeeded;
    let rebuilt = actions.iter().rposition(|action| action.kind() == Kind::Evacuate && succeeded(action));
    let done = actions.iter().enumerate().rev().map(|(n, action)| (rebuilt > Some(n), action)).find(
        |(overtaken, action)| {
            let is_power = matches!(action.kind(), Kind::Create | Kind::Start | Kind::Stop | Kind::Reboot);
            let was_overtaken = *overtaken && action.outcome() == Outcome::Superseded;
            is_power && (succeeded(action) || was_overtaken)
        },
    );
    let should = match done.map(|(_, action)| action.kind()) {
        Some(Kind::Stop) => InstanceState::Stopped,
        Some(_) => InstanceState::Active,
        None => return,
    };
    let there = matches!(state, InstanceState::Active | InstanceState::Stopped);
    findings.add_unless(!there || state == should, RULE, id, || {
        format!("it is {}, and by its history {}", state.as_str_name(), should.as_str_name())
    });
}
