//! Start, stop and reboot, as a user asks for them.
//!
//! What is asked becomes an operation of the record, with a generation of its own; the engine has the host do it, and
//! the host's report ends it. Until then nothing else can be asked of the instance but its deletion.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::{InstanceRecord, Operation};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{Desired, State, Task};
use kilonova_store::Txn;

use crate::cache::Entry;
use crate::history;
use crate::moves::{found, may_run_at};
use crate::once::Change;
use crate::placed::{Placed, Status, generation};
use crate::reach::{Reach, Standing, not_off, other_is_gone};
use crate::requests::Acceptance;

/// A start, a stop or a reboot, as it is asked for.
pub struct Power<'a> {
    /// Which.
    pub operation: Operation,
    /// Hosts of which the operator says that they do not run the guest.
    pub vouched_hosts: &'a [String],
    /// Who is registered, and who is fenced.
    pub reach: &'a Reach,
    /// How long the host may take.
    pub timeout: Duration,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<InstanceRecord> for Power<'_> {
    async fn begin(&self, entry: &Entry<InstanceRecord>) -> Result<(InstanceRecord, Txn), Error> {
        let now = SystemTime::now();
        let mut record = InstanceRecord::clone(&entry.record);
        let kind = self.operation.kind();
        let standing = |host: &str| self.reach.standing(host);
        let asked = (self.operation.clone(), self.vouched_hosts);
        begin(&mut record, asked, &standing, now + self.timeout, now)?;
        self.acceptance.note(&mut record.actions, kind);
        let Status { host, attempt, .. } = record.status();
        let (name, actor) = (history::step_name(kind), self.acceptance.actor());
        let step = history::begun(name, actor, now, attempt, format!("on {host}"));
        history::add_to_newest(&mut record.actions, step);
        let with = self.reach.fenced(may_run_at(&entry.record).iter().map(String::as_str));
        Ok((record, with))
    }
}

/// Enters an operation in a record that is in a state for it.
pub(crate) fn begin(
    record: &mut InstanceRecord,
    (mut operation, vouched_hosts): (Operation, &[String]),
    standing: &dyn Fn(&str) -> Standing,
    deadline: SystemTime,
    now: SystemTime,
) -> Result<(), Error> {
    let home = record.resource().host.clone();
    not_off(&home, standing(&home))?;
    let at_home = is_at_home(record);
    let others = may_run_at(record);
    let instance = record.instance.get_or_insert_default();
    let (states, desired, task): (&[State], _, _) = match operation.kind() {
        Kind::Start => (&[State::Stopped], Desired::Running, Task::Starting),
        Kind::Stop => (&[State::Active], Desired::Stopped, Task::Stopping),
        // The way out of an ERROR that left its guest where it was.
        Kind::Reboot if operation.hard && at_home => {
            (&[State::Active, State::Stopped, State::Error], Desired::Running, Task::Rebooting)
        }
        // As in Nova: asking the guest needs one that runs.
        Kind::Reboot if operation.hard => {
            (&[State::Active, State::Stopped], Desired::Running, Task::Rebooting)
        }
        Kind::Reboot => (&[State::Active], Desired::Running, Task::Rebooting),
        other => {
            return Err(Error::new(Reason::Internal, format!("{} is no operation", other.as_str_name())));
        }
    };
    let (state, busy) = (instance.state(), instance.task());
    let is_of_a_volume = |one: &&Operation| matches!(one.kind(), Kind::AttachVolume | Kind::DetachVolume);
    let volumes = record.operations.iter().filter(is_of_a_volume).count();
    if volumes > 0 {
        let message = format!("{volumes} volumes are being attached to the instance or detached from it");
        return Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()));
    }
    if let Some(other) = record.operations.first() {
        let message = format!(
            "{} of the instance is under way; wait until it has ended",
            history::step_name(other.kind())
        );
        return Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()));
    }
    if instance.desired() == Desired::Absent || busy != Task::Unspecified || !states.contains(&state) {
        let needed: Vec<&str> = states.iter().map(State::as_str_name).collect();
        let message = format!(
            "the instance is {}, {}; this needs {} with nothing being done",
            state.as_str_name(),
            busy.as_str_name(),
            needed.join(" or ")
        );
        return Err(Error::new(Reason::InvalidState, message)
            .with("state", state.as_str_name())
            .with("task", busy.as_str_name()));
    }
    let has_vouched = found::vouch(record, vouched_hosts);
    if operation.kind() != Kind::Stop {
        found::runs_nowhere_else(record, standing)?;
    }
    let instance = record.instance.get_or_insert_default();
    operation.clears_others = has_vouched || state == State::Error && !others.is_empty();
    let gone = others.iter().find(|host| standing(host) == Standing::Gone);
    if let Some(host) = gone.filter(|_| operation.clears_others) {
        return Err(other_is_gone(host, "it may run the instance too"));
    }
    if state == State::Error {
        record.resized_from = None;
        instance.previous_host.clear();
        // Its fault stays until that is done, and makes it an ERROR again if it is not.
        instance.set_state(State::Active);
    }
    instance.set_desired(desired);
    instance.set_task(task);
    generation::grow(&mut instance.generation);
    instance.update_time = Some(timestamp(now));
    let (generation, deadline_time) = (instance.generation, Some(timestamp(deadline)));
    record.operations.push(Operation { generation, deadline_time, ..operation });
    Ok(())
}

/// Whether its host may hold something of it.
fn is_at_home(record: &InstanceRecord) -> bool {
    let host = &record.resource().host;
    record.receipts.iter().any(|receipt| receipt.host == *host)
}

#[cfg(test)]
mod tests {
    use kilonova_proto::conductor::v1::Receipt;

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn instance(state: State, task: Task) -> InstanceRecord {
        let mut record = InstanceRecord::default();
        let instance = record.instance.get_or_insert_default();
        instance.generation = 1;
        instance.set_state(state);
        instance.set_task(task);
        record
    }

    fn begun(state: State, task: Task, kind: Kind, hard: bool) -> Result<InstanceRecord, Reason> {
        let mut record = instance(state, task);
        let operation = Operation { kind: kind.into(), hard, ..Default::default() };
        let standing = |_: &str| Standing::Registered;
        begin(&mut record, (operation, &[]), &standing, NOW, NOW)
            .map(|()| record)
            .map_err(|error| error.reason)
    }

    #[test]
    fn each_operation_needs_its_state_and_nothing_else_going_on() {
        let allowed = [
            (State::Stopped, Kind::Start, false),
            (State::Active, Kind::Stop, false),
            (State::Active, Kind::Reboot, false),
            (State::Active, Kind::Reboot, true),
            (State::Stopped, Kind::Reboot, true),
        ];
        for state in [State::Building, State::Active, State::Stopped, State::Error, State::Deleted] {
            for kind in [Kind::Start, Kind::Stop, Kind::Reboot] {
                for hard in [false, true] {
                    let asked = (state, kind, hard && kind == Kind::Reboot);
                    let result = begun(asked.0, Task::Unspecified, asked.1, asked.2);
                    assert_eq!(result.is_ok(), allowed.contains(&asked), "{asked:?}");
                }
            }
        }
        for task in [Task::Stopping, Task::Deleting, Task::Rebooting] {
            assert_eq!(begun(State::Active, task, Kind::Stop, false), Err(Reason::InvalidState));
        }
    }

    #[test]
    fn an_error_with_its_guest_at_home_can_be_rebooted_and_is_an_error_again_if_that_fails() {
        let receipt = |host: &str| Receipt { host: host.into(), attempt: 1, ..Default::default() };
        let ask = |hosts: &[&str]| {
            let mut record = instance(State::Error, Task::Unspecified);
            record.instance.as_mut().unwrap().host = "h1".into();
            record.instance.as_mut().unwrap().fault = Some(Default::default());
            record.receipts = hosts.iter().map(|host| receipt(host)).collect();
            let operation = Operation { kind: Kind::Reboot.into(), hard: true, ..Default::default() };
            let standing = |host: &str| match host {
                "gone" => Standing::Gone,
                "fenced" => Standing::Fenced,
                _ => Standing::Registered,
            };
            begin(&mut record, (operation, &[]), &standing, NOW, NOW)
                .map(|()| record)
                .map_err(|error| error.reason)
        };
        assert_eq!(ask(&[]), Err(Reason::InvalidState), "nothing is there");
        assert_eq!(ask(&["h1", "gone"]), Err(Reason::InvalidState), "it may run it");
        let cleared_first = ask(&["h1", "h2", "fenced"]).unwrap();
        assert_eq!(cleared_first.clears(), ["fenced", "h2"]);
        assert!(ask(&["h1"]).unwrap().clears().is_empty());
        let (mut done, mut failed) = (ask(&["h1"]).unwrap(), ask(&["h1"]).unwrap());
        crate::operations::host_did(&mut done, NOW, NOW);
        let instance = done.resource();
        assert_eq!((instance.state(), instance.fault.is_none()), (State::Active, true));
        crate::operations::host_did_not(&mut failed, &Default::default(), NOW, NOW);
        assert_eq!((failed.resource().state(), failed.resource().task()), (State::Error, Task::Unspecified));
    }

    #[test]
    fn while_a_copy_that_was_found_may_run_no_other_is_made_to_before_an_operator_vouches_for_its_host() {
        let receipt = |host: &str, found| Receipt { host: host.into(), found, ..Default::default() };
        let ask = |kind: Kind, state: State, host: &str, vouched: &[String]| {
            let mut record = instance(state, Task::Unspecified);
            record.instance.as_mut().unwrap().host = "h1".into();
            record.receipts = vec![receipt("h1", false), receipt(host, true)];
            let operation = Operation { kind: kind.into(), hard: kind == Kind::Reboot, ..Default::default() };
            let standing = |host: &str| match host {
                "off" => Standing::Fenced,
                "gone" => Standing::Gone,
                _ => Standing::Registered,
            };
            begin(&mut record, (operation, vouched), &standing, NOW, NOW).map(|()| record)
        };
        let vouched = ["h2".to_owned()];
        for (kind, state) in [
            (Kind::Reboot, State::Active),
            (Kind::Reboot, State::Stopped),
            (Kind::Reboot, State::Error),
            (Kind::Start, State::Stopped),
        ] {
            let refused = ask(kind, state, "h2", &[]).unwrap_err();
            assert!(refused.metadata["host"] == "h2" && refused.message.contains("--vouch h2"), "{refused}");
            assert!(ask(kind, state, "off", &[]).is_ok() && ask(kind, state, "h1", &[]).is_ok(), "{kind:?}");
        }
        for state in [State::Active, State::Stopped, State::Error] {
            assert_eq!(
                ask(Kind::Reboot, state, "h2", &vouched).unwrap().clears(),
                ["h2"],
                "and removed there"
            );
            let refused = ask(Kind::Reboot, state, "gone", &["gone".to_owned()]).unwrap_err();
            assert!(refused.message.contains("fence gone"), "it cannot be removed there: {refused}");
        }
        assert!(ask(Kind::Stop, State::Active, "h2", &[]).is_ok(), "makes nothing run");
    }

    #[test]
    fn an_operation_has_a_generation_of_its_own() {
        let record = begun(State::Active, Task::Unspecified, Kind::Stop, false).unwrap();
        let instance = record.instance.unwrap();
        assert!(instance.generation > 1);
        assert_eq!(instance.task(), Task::Stopping);
        assert_eq!(instance.desired(), Desired::Stopped);
        let [operation] = record.operations.as_slice() else { panic!("one operation") };
        assert!(operation.generation == instance.generation && operation.deadline_time.is_some());
    }
}
