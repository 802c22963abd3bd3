//! What agents report, entered in the records.
//!
//! A report is believed only about the agent's own host, and only as far as it is not older than the record: one
//! about an attempt that was left behind changes nothing but that attempt's receipt.

use std::time::{Duration, SystemTime};

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::ReportStatus;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;

use crate::engine::leave_host;
use crate::history;
use crate::operations::hosts_part;
use crate::placed::{Phase, Placed, Site, Wanted};
use crate::records::Records;

/// Most steps taken of one report.
const MAX_STEPS: usize = 16;
/// Most bytes kept of a text of an agent.
const MAX_TEXT: usize = 1024;
/// Most entries kept of what a fault says besides.
const MAX_METADATA: usize = 32;

/// A report about one record.
#[derive(Debug, Clone)]
pub struct Report<I> {
    /// The record.
    pub id: I,
    /// The agent's host.
    pub host: String,
    /// The generation of the command it answers.
    pub generation: u64,
    /// The attempt of that command.
    pub attempt: u32,
    /// How it ended.
    pub status: ReportStatus,
    /// Why it failed.
    pub fault: Option<pb::Fault>,
    /// What the agent did.
    pub steps: Vec<pb::Step>,
    /// The operation it answers, if it answers one.
    pub operation: Option<Kind>,
}

/// Enters a report. `details` adds what a ready resource's report says besides, and tells whether that was new;
/// `again` is how long what has to be done about an operation that failed may take.
pub async fn enter<P: Placed>(
    records: &Records<P>,
    report: Report<P::Id>,
    again: Duration,
    details: impl Fn(&mut P) -> bool + Send + Sync,
) -> Result<(), Error> {
    let entered = records
        .modify(report.id, |entry| Ok(apply(&entry.record, &report, again, &details, SystemTime::now())))
        .await?;
    if entered.is_none() {
        tracing::info!(id = %report.id, host = report.host, "a report about an unknown {} is passed over", P::NOUN);
    }
    Ok(())
}

/// The record once its host is known not to have it; `None` if that changes nothing.
pub fn lost<P: Placed>(record: &P, report: &Report<P::Id>, now: SystemTime) -> Option<P> {
    apply(record, report, Duration::ZERO, &|_| false, now)
}

/// The record with the report entered; `None` if that changes nothing.
fn apply<P: Placed>(
    record: &P,
    report: &Report<P::Id>,
    again: Duration,
    details: &impl Fn(&mut P) -> bool,
    now: SystemTime,
) -> Option<P> {
    let status = record.status();
    if report.generation > status.generation {
        return None;
    }
    let present = status.wanted == Wanted::Present;
    let current = present && status.host == report.host && status.attempt == report.attempt;
    let from = Site { host: report.host.clone(), attempt: report.attempt };
    let builds = present && record.building_at().as_ref() == Some(&from);
    let acts = present && record.acts_at() == from;
    let until = now + again;
    let mut changed = record.clone();
    match report.status {
        ReportStatus::Unspecified => return None,
        ReportStatus::Ready => match status.phase {
            Phase::Building | Phase::Ready if builds => {
                if status.phase == Phase::Building {
                    details(&mut changed);
                }
                add_steps(&mut changed, report);
                built(&mut changed, until, now);
            }
            Phase::Ready if acts && answers_operation(record, report) => {
                details(&mut changed);
                add_steps(&mut changed, report);
                match &report.fault {
                    Some(_) => changed.host_did_not(&cause(report, now), until, now),
                    None => changed.host_did(until, now),
                }
            }
            Phase::Ready if current && details(&mut changed) => {}
            _ => return None,
        },
        ReportStatus::Failed | ReportStatus::Gone => {
            changed.drop_receipt(&report.host, report.attempt);
            if status.wanted == Wanted::Absent {
                add_steps(&mut changed, report);
            } else if builds {
                add_steps(&mut changed, report);
                leave_host(&mut changed, cause(report, now), now);
            } else if present && record.is_going_to(&from) {
                changed.host_did_not(&cause(report, now), until, now);
            } else if current && status.phase == Phase::Ready {
                changed.set_failed(cause(report, now), now);
            }
            // A repeated report finds its receipt gone already.
            if changed.receipts() == record.receipts() && changed.status() == status {
                return None;
            }
        }
    }
    Some(changed)
}

/// A host has made what it was asked to. What follows has until `until`.
pub fn built<P: Placed>(record: &mut P, until: SystemTime, now: SystemTime) {
    let building = record.building();
    history::close(record.actions_mut(), building, None, now);
    // What has an operation ends with that.
    if record.status().phase == Phase::Building && record.operation().is_none() {
        history::end(record.actions_mut(), pb::Outcome::Succeeded, now);
    }
    record.set_ready(until, now);
}

/// Whether it is the operation that goes on whose end is reported: a host that finds a resource at its start reports
/// it with the generation of what is due, not of what was done.
fn answers_operation<P: Placed>(record: &P, report: &Report<P::Id>) -> bool {
    record.operation().is_some_and(|operation| {
        report.operation == Some(hosts_part(operation)) && report.generation == operation.generation
    })
}

fn add_steps<P: Placed>(record: &mut P, report: &Report<P::Id>) {
    for step in report.steps.iter().take(MAX_STEPS) {
        let mut step = step.clone();
        shorten(&mut step.detail);
        step.fault.as_mut().map(bound);
        history::add(record.actions_mut(), step);
    }
}

/// Bounds what an agent says of a failure: it is kept with the record, and written again with every step.
fn bound(fault: &mut pb::Fault) {
    shorten(&mut fault.message);
    if fault.metadata.len() > MAX_METADATA {
        fault.metadata = std::mem::take(&mut fault.metadata).into_iter().take(MAX_METADATA).collect();
    }
    fault.metadata.values_mut().for_each(shorten);
}

fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

fn cause<I>(report: &Report<I>, now: SystemTime) -> pb::Fault {
    let lost = || {
        let message = format!("{} no longer has it", report.host);
        history::fault(&Error::new(Reason::BuildLost, message), &report.host, report.attempt, now)
    };
    let mut fault = report.fault.clone().unwrap_or_else(lost);
    bound(&mut fault);
    fault.host = report.host.clone();
    fault.attempt = report.attempt;
    fault.time.get_or_insert(kilonova_model::time::timestamp(now));
    fault
}

#[cfg(test)]
mod tests {
    use kilonova_model::InstanceId;
    use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation};
    use kilonova_proto::types::v1::instance::{Desired, State, Task};

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn built_on(host: &str) -> InstanceRecord {
        let mut record = InstanceRecord::default();
        record.instance.get_or_insert_default().generation = 1;
        record.instance.get_or_insert_default().set_state(State::Building);
        record.set_place(&Alternate { host: host.into(), ..Default::default() }, NOW, NOW);
        record
    }

    fn report(host: &str, attempt: u32, status: ReportStatus) -> Report<InstanceId> {
        let (id, fault, steps, operation) = (InstanceId::generate(), None, Vec::new(), None);
        Report { id, host: host.into(), generation: 1, attempt, status, fault, steps, operation }
    }

    fn entered(record: &InstanceRecord, report: &Report<InstanceId>) -> Option<InstanceRecord> {
        apply(record, report, Duration::from_secs(10), &|_| false, NOW)
    }

    #[test]
    fn ready_makes_it_active_once() {
        let active = entered(&built_on("h1"), &report("h1", 1, ReportStatus::Ready)).unwrap();
        assert_eq!(active.resource().state(), State::Active);
        assert_eq!(entered(&active, &report("h1", 1, ReportStatus::Ready)), None);
    }

    #[test]
    fn a_report_of_an_attempt_left_behind_only_drops_its_receipt() {
        let mut record = built_on("h1");
        leave_host(&mut record, pb::Fault::default(), NOW);
        record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, NOW, NOW);
        assert_eq!(entered(&record, &report("h1", 1, ReportStatus::Ready)), None);
        let after = entered(&record, &report("h1", 1, ReportStatus::Failed)).unwrap();
        assert_eq!(after.status(), record.status());
        assert_eq!(after.receipts().iter().map(|r| r.host.as_str()).collect::<Vec<_>>(), ["h2"]);
    }

    #[test]
    fn another_host_cannot_speak_for_it() {
        assert_eq!(entered(&built_on("h1"), &report("h2", 1, ReportStatus::Ready)), None);
        assert_eq!(entered(&built_on("h1"), &report("h2", 1, ReportStatus::Failed)), None);
    }

    #[test]
    fn a_failure_sends_it_elsewhere_with_the_cause_kept() {
        let after = entered(&built_on("h1"), &report("h1", 1, ReportStatus::Failed)).unwrap();
        assert_eq!((after.status().host.as_str(), after.receipts().len()), ("", 0));
        assert_eq!(after.resource().failed_attempts[0].host, "h1");
        assert_eq!(after.tried(), ["h1"]);
    }

    #[test]
    fn ready_after_a_delete_keeps_the_receipt_for_the_removal() {
        let mut record = built_on("h1");
        record.set_absent(NOW, NOW);
        assert_eq!(entered(&record, &report("h1", 1, ReportStatus::Ready)), None);
        let mut gone = report("h1", 1, ReportStatus::Gone);
        gone.generation = 2;
        assert!(entered(&record, &gone).unwrap().receipts().is_empty());
    }

    fn stopping_on(host: &str) -> InstanceRecord {
        let mut record = entered(&built_on(host), &report(host, 1, ReportStatus::Ready)).unwrap();
        let instance = record.instance.get_or_insert_default();
        instance.generation = 2;
        instance.set_desired(Desired::Stopped);
        instance.set_task(Task::Stopping);
        record.operations = vec![Operation { kind: Kind::Stop.into(), generation: 2, ..Default::default() }];
        history::begin(&mut record.actions, Kind::Stop, "", NOW);
        record
    }

    fn stopped(host: &str, generation: u64, operation: Option<Kind>) -> Report<InstanceId> {
        Report { generation, operation, ..report(host, 1, ReportStatus::Ready) }
    }

    #[test]
    fn an_operation_ends_with_the_report_that_answers_it_and_no_other() {
        let record = stopping_on("h1");
        for other in [
            stopped("h1", 1, Some(Kind::Stop)),
            stopped("h1", 2, None),
            stopped("h1", 2, Some(Kind::Start)),
            stopped("h2", 2, Some(Kind::Stop)),
        ] {
            assert_eq!(entered(&record, &other), None, "{other:?}");
        }
        let after = entered(&record, &stopped("h1", 2, Some(Kind::Stop))).unwrap();
        let instance = after.resource();
        assert_eq!((instance.state(), instance.task()), (State::Stopped, Task::Unspecified));
        assert!(after.operations.is_empty());
        assert_eq!(after.actions.last().unwrap().outcome(), pb::Outcome::Succeeded);
        assert_eq!(entered(&after, &stopped("h1", 2, Some(Kind::Stop))), None, "once");
    }

    #[test]
    fn an_operation_that_failed_leaves_the_instance_as_it_was() {
        let fault = pb::Fault { reason: "DRIVER_FAILED".into(), ..Default::default() };
        let failed = Report { fault: Some(fault), ..stopped("h1", 2, Some(Kind::Stop)) };
        let after = entered(&stopping_on("h1"), &failed).unwrap();
        let instance = after.resource();
        assert_eq!((instance.state(), instance.desired()), (State::Active, Desired::Running));
        assert_eq!((instance.task(), after.operations.len()), (Task::Unspecified, 0));
        assert_eq!(after.actions.last().unwrap().outcome(), pb::Outcome::Failed);
    }

    #[test]
    fn what_an_agent_says_of_a_failure_is_bounded() {
        let metadata = (0..100).map(|n| (n.to_string(), "ä".repeat(5000))).collect();
        let fault = pb::Fault { message: "ä".repeat(100_000), metadata, ..Default::default() };
        let step = pb::Step { detail: "x".repeat(100_000), ..Default::default() };
        let failed =
            Report { fault: Some(fault), steps: vec![step; 1000], ..report("h1", 1, ReportStatus::Failed) };
        let mut record = built_on("h1");
        history::begin(&mut record.actions, Kind::Create, "", NOW);
        let after = entered(&record, &failed).unwrap();
        assert!(prost::Message::encoded_len(&after) < 64 * 1024, "{}", prost::Message::encoded_len(&after));
    }

    #[test]
    fn a_guest_that_vanished_ends_what_was_asked_of_it() {
        let mut record = stopping_on("h1");
        let gone = Report { generation: 2, ..report("h1", 1, ReportStatus::Gone) };
        record = entered(&record, &gone).unwrap();
        assert!(record.operations[0].host_done, "nothing is left for its host to do");
        record.conclude(NOW);
        assert_eq!(record.resource().state(), State::Error);
        assert_eq!((record.resource().task(), record.operations.len()), (Task::Unspecified, 0));
        assert_eq!(record.actions.last().unwrap().outcome(), pb::Outcome::Failed);
    }

    #[test]
    fn a_guest_that_vanished_is_an_error() {
        let active = entered(&built_on("h1"), &report("h1", 1, ReportStatus::Ready)).unwrap();
        let after = entered(&active, &report("h1", 1, ReportStatus::Gone)).unwrap();
        assert_eq!(after.resource().state(), State::Error);
        assert_eq!(after.resource().fault.as_ref().unwrap().reason, "BUILD_LOST");
    }
}
