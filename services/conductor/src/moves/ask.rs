//! Resize, migrate, confirm, revert and rebuild, as a user asks for them: each entered in a record that is in a state for it.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, FieldViolation, Reason};
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Move, Operation, Place};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_store::Txn;

use super::{found, more_than};
use crate::accept::{Acceptor, project};
use crate::cache::Entry;
use crate::history;
use crate::once::{Change, count};
use crate::placed::{Placed, generation};
use crate::quota;
use crate::reach::{Reach, Standing, home_is_gone, other_is_gone};
use crate::requests::Acceptance;

/// What is asked.
#[derive(Debug, Clone)]
pub enum Asked {
    /// Another flavor, on another host.
    Resize(pb::Flavor),
    /// Another host.
    Migrate {
        /// Going on running.
        live: bool,
        /// The only host it may go to; empty for any.
        target_host: String,
    },
    /// Keep what a resize made.
    Confirm,
    /// Go back to what was before a resize.
    Revert,
    /// Another image, where it is.
    Rebuild(pb::Image),
}

impl Asked {
    fn kind(&self) -> Kind {
        match self {
            Self::Resize(_) => Kind::Resize,
            Self::Migrate { live: true, .. } => Kind::LiveMigrate,
            Self::Migrate { live: false, .. } => Kind::Migrate,
            Self::Confirm => Kind::ConfirmResize,
            Self::Revert => Kind::RevertResize,
            Self::Rebuild(_) => Kind::Rebuild,
        }
    }

    fn task(&self) -> Task {
        match self {
            Self::Resize(_) | Self::Migrate { live: false, .. } => Task::Resizing,
            Self::Migrate { live: true, .. } => Task::Migrating,
            Self::Confirm => Task::Confirming,
            Self::Revert => Task::Reverting,
            Self::Rebuild(_) => Task::Rebuilding,
        }
    }

    fn states(&self) -> &'static [State] {
        match self {
            Self::Resize(_) | Self::Migrate { live: false, .. } | Self::Rebuild(_) => {
                &[State::Active, State::Stopped]
            }
            Self::Migrate { live: true, .. } => &[State::Active],
            Self::Confirm => &[State::Resized],
            // A revert that could not be finished may be asked for again.
            Self::Revert => &[State::Resized, State::Error],
        }
    }
}

/// What is asked, with what it takes to accept it.
pub struct Ask<'a> {
    /// What.
    pub asked: Asked,
    /// What counts it.
    pub acceptor: &'a Acceptor,
    /// Who is registered, and who is fenced.
    pub reach: &'a Reach,
    /// How long its first step may take.
    pub timeout: Duration,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<InstanceRecord> for Ask<'_> {
    async fn begin(&self, entry: &Entry<InstanceRecord>) -> Result<(InstanceRecord, Txn), Error> {
        let now = SystemTime::now();
        let mut record = InstanceRecord::clone(&entry.record);
        let standing = |host: &str| self.reach.standing(host);
        let more = begin(&mut record, &self.asked, &standing, now + self.timeout, now, self.acceptance)?;
        let with = count(self.acceptor, &project(record.project_id())?, &more).await?;
        let with = with.and(self.reach.fenced(found::found_at(&entry.record)));
        Ok((record, with.and(self.hosts_there(&entry.record).await?)))
    }
}

impl Ask<'_> {
    /// What holds only while the hosts are there that have to be: judged in the transaction that accepts it.
    async fn hosts_there(&self, record: &InstanceRecord) -> Result<Txn, Error> {
        let host = record.resource().host.as_str();
        match self.asked {
            Asked::Resize(_) | Asked::Migrate { .. } | Asked::Rebuild(_) => {
                self.reach.registered(host, || home_is_gone(host)).await
            }
            Asked::Confirm => {
                let what = "confirming would remove the only other copy of the instance";
                self.reach.registered(host, || other_is_gone(host, what)).await
            }
            Asked::Revert => {
                let back = record.resized_from.as_ref().map_or("", |place| place.host.as_str());
                let with = self
                    .reach
                    .registered(back, || other_is_gone(back, "the instance would have to run there again"))
                    .await?;
                if self.reach.standing(host) == Standing::Fenced {
                    return Ok(with.and(self.reach.fenced([host])));
                }
                let what = "it may still run the instance";
                Ok(with.and(self.reach.registered(host, || other_is_gone(host, what)).await?))
            }
        }
    }
}

/// Enters what is asked in a record that is in a state for it, and gives what that takes of the quota.
pub fn begin(
    record: &mut InstanceRecord,
    asked: &Asked,
    standing: &dyn Fn(&str) -> Standing,
    until: SystemTime,
    now: SystemTime,
    acceptance: Acceptance<'_>,
) -> Result<pb::QuotaUsage, Error> {
    check_state(record, asked.states())?;
    // A confirm makes nothing run.
    if !matches!(asked, Asked::Confirm) {
        found::runs_nowhere_else(record, standing)?;
    }
    let mut operation =
        Operation { kind: asked.kind().into(), deadline_time: Some(timestamp(until)), ..Default::default() };
    let mut more = pb::QuotaUsage::default();
    match asked {
        Asked::Resize(flavor) => {
            more = check_flavor(record, flavor)?;
            let destination = Place { flavor: Some(flavor.clone()), ..Default::default() };
            operation.r#move = Some(way_out(record, destination));
        }
        Asked::Migrate { target_host, .. } => {
            if *target_host == record.resource().host {
                let description = "is the host it is on".to_owned();
                return Err(Error::invalid(vec![FieldViolation {
                    field: "target_host".into(),
                    description,
                }]));
            }
            let flavor = record.resource().flavor.clone();
            operation.r#move = Some(way_out(record, Place { flavor, ..Default::default() }));
            operation.target_host.clone_from(target_host);
        }
        Asked::Revert => operation.r#move = Some(way_back(record)?),
        Asked::Confirm => {}
        Asked::Rebuild(image) => operation.image = Some(image.clone()),
    }
    if more != pb::QuotaUsage::default() {
        let extra = record.extra_usage.unwrap_or_default();
        record.extra_usage = Some(quota::sum(&extra, &more));
    }
    let instance = record.instance.get_or_insert_default();
    if instance.state() == State::Error {
        // Its fault stays until that is done, and makes it an ERROR again if it is not.
        instance.set_state(State::Resized);
    }
    instance.set_task(asked.task());
    generation::grow(&mut instance.generation);
    instance.update_time = Some(timestamp(now));
    operation.generation = instance.generation;
    let (attempt, detail) = (instance.attempt, format!("on {}", instance.host));
    let kind = operation.kind();
    record.operations.push(operation);
    acceptance.note(&mut record.actions, kind);
    let step = history::begun(history::step_name(kind), acceptance.actor(), now, attempt, detail);
    history::add_to_newest(&mut record.actions, step);
    Ok(more)
}

/// Refuses an instance that is in another state, or of which something else was asked.
pub(super) fn check_state(record: &InstanceRecord, states: &[State]) -> Result<(), Error> {
    let instance = record.resource();
    let (state, task) = (instance.state(), instance.task());
    if states.contains(&state) && task == Task::Unspecified && record.operations.is_empty() {
        return Ok(());
    }
    let needed: Vec<&str> = states.iter().map(State::as_str_name).collect();
    let volumes = match record.operations.len() {
        0 => String::new(),
        waiting => format!(" and {waiting} operations on it wait"),
    };
    let message = format!(
        "the instance is {}, {}{volumes}; this needs {} with nothing being done",
        state.as_str_name(),
        task.as_str_name(),
        needed.join(" or ")
    );
    Err(Error::new(Reason::InvalidState, message)
        .with("state", state.as_str_name())
        .with("task", task.as_str_name()))
}

fn check_flavor(record: &InstanceRecord, flavor: &pb::Flavor) -> Result<pb::QuotaUsage, Error> {
    let now = record.resource().flavor.clone().unwrap_or_default();
    let wrong = |description: String| {
        Err(Error::invalid(vec![FieldViolation { field: "flavor_id".into(), description }]))
    };
    if now.id == flavor.id {
        return wrong(format!("is the flavor it has: {}", flavor.id));
    }
    // As in Nova: a disk cannot be made smaller.
    if flavor.disk_gib < now.disk_gib {
        return wrong(format!(
            "{} has {} GiB of disk, less than the {} it has",
            flavor.id, flavor.disk_gib, now.disk_gib
        ));
    }
    Ok(more_than(&now, flavor))
}

/// The way to another host. What was tried for an earlier placement no longer counts.
fn way_out(record: &mut InstanceRecord, destination: Place) -> Move {
    record.tried_hosts.clear();
    record.refusals = 0;
    record.alternates.clear();
    let mut way =
        Move { source: Some(place_of(record)), destination: Some(destination), ..Default::default() };
    way.set_step(Step::Prepare);
    way
}

/// The way back: the destination lets go of it, and then it runs at the source again.
fn way_back(record: &InstanceRecord) -> Result<Move, Error> {
    let Some(source) = record.resized_from.clone() else {
        return Err(Error::new(
            Reason::InvalidState,
            "the instance was not resized: there is nothing to go back to",
        ));
    };
    let mut way = Move { source: Some(source), destination: Some(place_of(record)), ..Default::default() };
    way.set_step(Step::LetGo);
    Ok(way)
}

/// Where it is, and as what.
pub(super) fn place_of(record: &InstanceRecord) -> Place {
    let instance = record.resource();
    Place {
        host: instance.host.clone(),
        attempt: instance.attempt,
        availability_zone: instance.availability_zone.clone(),
        flavor: instance.flavor.clone(),
        state: instance.state,
        told: false,
    }
}
