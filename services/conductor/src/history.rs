//! The history of a resource: what was asked of it, and the steps that were taken, with their times.

use std::time::{Duration, SystemTime};

use kilonova_model::time::{duration, timestamp};
use kilonova_model::{Error, ServiceKind};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use prost::Message;

/// Most actions kept of one resource.
pub const MAX_ACTIONS: usize = 16;
/// Most steps kept of one action.
pub const MAX_STEPS: usize = 64;

/// Notes that something was asked. A delete ends all that goes on; anything else waits for it.
pub fn begin(actions: &mut Vec<pb::Action>, kind: Kind, request_id: &str, now: SystemTime) {
    if kind == Kind::Delete {
        supersede(actions, now);
    }
    actions.push(pb::Action {
        kind: kind.into(),
        request_id: request_id.to_owned(),
        start_time: Some(timestamp(now)),
        outcome: pb::Outcome::InProgress.into(),
        ..Default::default()
    });
    while actions.len() > MAX_ACTIONS {
        let ended = |action: &pb::Action| action.outcome() != pb::Outcome::InProgress;
        actions.remove(actions.iter().position(ended).unwrap_or(0));
    }
}

/// Drops what is oldest of a history until it takes at most `most` bytes: actions that ended, and then the middle steps of the
/// others. What goes on stays, with its first step and its last.
pub fn shrink(actions: &mut Vec<pb::Action>, most: usize) {
    let size = |actions: &[pb::Action]| actions.iter().map(Message::encoded_len).sum::<usize>();
    while size(actions) > most {
        let ended = |action: &pb::Action| action.outcome() != pb::Outcome::InProgress;
        let last = actions.len().saturating_sub(1);
        if let Some(oldest) = actions[..last].iter().position(ended) {
            actions.remove(oldest);
        } else if let Some(action) =
            actions.iter_mut().max_by_key(|one| one.steps.len()).filter(|one| one.steps.len() > 2)
        {
            action.steps.remove(action.steps.len() / 2);
            action.dropped_steps += 1;
        } else {
            return;
        }
    }
}

/// All that goes on is overtaken.
pub fn supersede(actions: &mut [pb::Action], now: SystemTime) {
    while let Some(action) = open(actions) {
        for step in &mut action.steps {
            if step.outcome() == pb::Outcome::InProgress {
                step.outcome = pb::Outcome::Superseded.into();
            }
        }
        action.outcome = pb::Outcome::Superseded.into();
        action.end_time = Some(timestamp(now));
    }
}

/// Adds a step to the action that goes on; without one it is dropped.
pub fn add(actions: &mut [pb::Action], step: pb::Step) {
    if let Some(action) = open(actions) {
        push(action, step);
    }
}

/// Adds a step to the newest action, which may have to wait for others.
pub fn add_to_newest(actions: &mut [pb::Action], step: pb::Step) {
    if let Some(action) = actions.last_mut() {
        push(action, step);
    }
}

fn push(action: &mut pb::Action, step: pb::Step) {
    action.steps.push(step);
    if action.steps.len() > MAX_STEPS {
        action.steps.remove(MAX_STEPS / 2);
        action.dropped_steps += 1;
    }
}

/// Ends the newest step of that name that goes on.
pub fn close(actions: &mut [pb::Action], name: &str, fault: Option<&pb::Fault>, now: SystemTime) {
    let Some(action) = open(actions) else { return };
    let goes_on = |step: &&mut pb::Step| step.name == name && step.outcome() == pb::Outcome::InProgress;
    if let Some(step) = action.steps.iter_mut().rev().find(goes_on) {
        let started = step.start_time.as_ref().and_then(kilonova_model::time::system_time).unwrap_or(now);
        step.duration = Some(duration(now.duration_since(started).unwrap_or_default()));
        step.outcome = if fault.is_some() { pb::Outcome::Failed } else { pb::Outcome::Succeeded }.into();
        step.fault = fault.cloned();
    }
}

/// Ends the action that goes on.
pub fn end(actions: &mut [pb::Action], outcome: pb::Outcome, now: SystemTime) {
    if let Some(action) = open(actions) {
        action.outcome = outcome.into();
        action.end_time = Some(timestamp(now));
    }
}

/// What was asked that goes on.
#[must_use]
pub fn going_on(actions: &[pb::Action]) -> Kind {
    let open = actions.iter().find(|action| action.outcome() == pb::Outcome::InProgress);
    open.map_or(Kind::Unspecified, pb::Action::kind)
}

/// The action that goes on: what was asked later waits for it.
fn open(actions: &mut [pb::Action]) -> Option<&mut pb::Action> {
    actions.iter_mut().find(|action| action.outcome() == pb::Outcome::InProgress)
}

/// What the conductor's step of an operation is called.
#[must_use]
pub fn step_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Unspecified => "nothing",
        Kind::Create => "build",
        Kind::Delete => "delete",
        Kind::Start => "start",
        Kind::Stop => "stop",
        Kind::Reboot => "reboot",
        Kind::AttachVolume => "attach",
        Kind::DetachVolume => "detach",
        Kind::Extend => "extend",
        Kind::Rebuild => "rebuild",
        Kind::Resize => "resize",
        Kind::Migrate => "migrate",
        Kind::LiveMigrate => "live_migrate",
        Kind::ConfirmResize => "confirm_resize",
        Kind::RevertResize => "revert_resize",
        Kind::Evacuate => "evacuate",
    }
}

/// Who does a step.
#[derive(Debug, Clone, Copy)]
pub struct Actor<'a> {
    /// The service.
    pub service: ServiceKind,
    /// The member of it.
    pub host: &'a str,
}

/// A step that is done.
#[must_use]
pub fn done(
    name: &str,
    actor: Actor<'_>,
    start: SystemTime,
    took: Duration,
    attempt: u32,
    detail: impl Into<String>,
) -> pb::Step {
    pb::Step {
        name: name.to_owned(),
        service: service_kind(actor.service).into(),
        host: actor.host.to_owned(),
        start_time: Some(timestamp(start)),
        duration: Some(duration(took)),
        outcome: pb::Outcome::Succeeded.into(),
        detail: detail.into(),
        attempt,
        fault: None,
    }
}

/// A step that begins.
#[must_use]
pub fn begun(
    name: &str,
    actor: Actor<'_>,
    start: SystemTime,
    attempt: u32,
    detail: impl Into<String>,
) -> pb::Step {
    pb::Step {
        duration: None,
        outcome: pb::Outcome::InProgress.into(),
        ..done(name, actor, start, Duration::ZERO, attempt, detail)
    }
}

/// A service as the wire has it.
#[must_use]
pub fn service_kind(kind: ServiceKind) -> pb::ServiceKind {
    match kind {
        ServiceKind::Api => pb::ServiceKind::Api,
        ServiceKind::Conductor => pb::ServiceKind::Conductor,
        ServiceKind::Scheduler => pb::ServiceKind::Scheduler,
        ServiceKind::Compute => pb::ServiceKind::Compute,
        ServiceKind::Volume => pb::ServiceKind::Volume,
    }
}

/// An error as it is stored with a resource.
#[must_use]
pub fn fault(error: &Error, host: &str, attempt: u32, now: SystemTime) -> pb::Fault {
    pb::Fault {
        reason: error.reason.as_str().to_owned(),
        message: error.message.clone(),
        metadata: error.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        time: Some(timestamp(now)),
        host: host.to_owned(),
        attempt,
        explanation: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Actor<'static> = Actor { service: ServiceKind::Conductor, host: "c1" };

    #[test]
    fn a_delete_supersedes_the_create_that_goes_on() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let mut actions = Vec::new();
        begin(&mut actions, Kind::Create, "r1", now);
        add(&mut actions, begun("build", ME, now, 1, ""));
        begin(&mut actions, Kind::Delete, "r2", now);
        assert_eq!(actions[0].outcome(), pb::Outcome::Superseded);
        assert_eq!(actions[0].steps[0].outcome(), pb::Outcome::Superseded);
        assert_eq!(actions[1].outcome(), pb::Outcome::InProgress);
    }

    #[test]
    fn a_step_closes_with_its_duration_and_cause() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let mut actions = Vec::new();
        begin(&mut actions, Kind::Create, "r1", start);
        add(&mut actions, begun("build", ME, start, 1, ""));
        let cause = pb::Fault { reason: "DRIVER_FAILED".into(), ..Default::default() };
        close(&mut actions, "build", Some(&cause), start + Duration::from_secs(2));
        let step = &actions[0].steps[0];
        assert_eq!((step.outcome(), step.duration.unwrap().seconds), (pb::Outcome::Failed, 2));
    }

    #[test]
    fn a_history_that_grew_too_large_loses_its_oldest_and_keeps_what_goes_on() {
        let now = SystemTime::UNIX_EPOCH;
        let mut actions = Vec::new();
        for kind in [Kind::Create, Kind::Stop, Kind::Start] {
            begin(&mut actions, kind, "r", now);
            for number in 0..20 {
                let detail = format!("{number}").repeat(1000);
                add_to_newest(&mut actions, done("step", ME, now, Duration::ZERO, 0, detail));
            }
            if kind != Kind::Start {
                end(&mut actions, pb::Outcome::Succeeded, now);
            }
        }
        shrink(&mut actions, 10_000);
        let [action] = actions.as_slice() else { panic!("one is left") };
        assert_eq!((action.kind(), action.outcome()), (Kind::Start, pb::Outcome::InProgress));
        assert!(action.encoded_len() <= 10_000 && action.dropped_steps > 0);
        assert!(
            action.steps[0].detail.starts_with('0') && action.steps.last().unwrap().detail.starts_with("19")
        );
    }

    #[test]
    fn history_is_bounded() {
        let now = SystemTime::UNIX_EPOCH;
        let mut actions = Vec::new();
        begin(&mut actions, Kind::AttachVolume, "r", now);
        for _ in 0..100 {
            begin(&mut actions, Kind::AttachVolume, "r", now);
            actions.last_mut().unwrap().set_outcome(pb::Outcome::Succeeded);
        }
        for _ in 0..100 {
            add(&mut actions, done("step", ME, now, Duration::ZERO, 0, ""));
        }
        assert_eq!(actions.len(), MAX_ACTIONS);
        let goes_on = &actions[0];
        assert_eq!(goes_on.outcome(), pb::Outcome::InProgress, "what goes on is kept");
        assert_eq!((goes_on.steps.len(), goes_on.dropped_steps), (MAX_STEPS, 36));
    }
}
