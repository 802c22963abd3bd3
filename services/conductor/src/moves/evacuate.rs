//! Evacuation, as an administrator asks for it: the instance loses its host, and is built again elsewhere.
//!
//! The transaction that accepts it is the fence: from then on the record says that the instance does not belong on its old
//! host, which is what that host is told before it is ready again. It compares that the host is not registered, so that one
//! that is back already, and was told to keep it, does keep it. No other host may hold anything of it, unless an operator
//! says that it does not run the guest.
//!
//! What waits at the old host is overtaken: the instance is built as its user last wanted it, with all the volumes it has or
//! was to have.

use std::time::SystemTime;

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, HostName, Reason, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Operation, VolumeRecord};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_store::Txn;

use super::ask::place_of;
use super::{found, may_run_at, of};
use crate::cache::Entry;
use crate::history;
use crate::once::Change;
use crate::placed::{Placed, Wanted, generation};
use crate::reach::{Reach, Standing};
use crate::records::Records;
use crate::requests::Acceptance;

/// An evacuation, as it is asked for.
pub struct Evacuate<'a> {
    /// The only host it may go to; empty for any.
    pub target_host: &'a str,
    /// Hosts of which the operator says that they do not run the guest.
    pub vouched_hosts: &'a [String],
    /// Who is registered, and who is fenced.
    pub reach: &'a Reach,
    /// The volumes it has.
    pub volumes: &'a Records<VolumeRecord>,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<InstanceRecord> for Evacuate<'_> {
    async fn begin(&self, entry: &Entry<InstanceRecord>) -> Result<(InstanceRecord, Txn), Error> {
        let mut record = InstanceRecord::clone(&entry.record);
        let asked = Asked { target_host: self.target_host, vouched_hosts: self.vouched_hosts };
        let standing = |host: &str| self.reach.standing(host);
        begin(&mut record, asked, &standing, SystemTime::now(), self.acceptance)?;
        let with = self.reach.fenced(may_run_at(&entry.record).iter().map(String::as_str));
        let with = with.and(self.overtake_detaches(entry).await?);
        let host = &entry.record.resource().host;
        if !is_at(&entry.record, host) {
            return Ok((record, with));
        }
        let host = HostName::parse(host).map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
        Ok((record, with.when_absent(self.reach.keys().endpoint(ServiceKind::Compute, &host))))
    }
}

impl Evacuate<'_> {
    /// Gives the volumes a generation after that of the disconnect which a detach may have sent: it must not undo what the new host is
    /// connected with.
    async fn overtake_detaches(&self, entry: &Entry<InstanceRecord>) -> Result<Txn, Error> {
        let mut txn = Txn::new();
        let instance = entry.record.resource();
        for attachment in &instance.attachments {
            let Ok(id) = attachment.volume_id.parse::<VolumeId>() else { continue };
            let Some(volume) = self.volumes.read(id).await? else { continue };
            let mut record = VolumeRecord::clone(&volume.record);
            generation::grow(&mut record.volume.get_or_insert_default().generation);
            txn = txn.and(self.volumes.put(id, &volume, &record));
        }
        Ok(txn)
    }
}

/// What is asked, of whatever record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// The only host it may go to; empty for any.
    pub target_host: &'a str,
    /// Hosts of which the operator says that they do not run the guest.
    pub vouched_hosts: &'a [String],
}

/// Enters it in the record of an instance whose host is gone.
pub fn begin(
    record: &mut InstanceRecord,
    asked: Asked<'_>,
    standing: &dyn Fn(&str) -> Standing,
    now: SystemTime,
    acceptance: Acceptance<'_>,
) -> Result<(), Error> {
    check_state(record)?;
    let host = record.resource().host.clone();
    if is_at(record, &host) && standing(&host) == Standing::Registered {
        let message = format!("{host} is registered; migrate the instance instead");
        return Err(Error::new(Reason::InvalidState, message).with("host", host));
    }
    let may_run = |other: &String| {
        standing(other) != Standing::Fenced && !asked.vouched_hosts.iter().any(|vouched| vouched == other)
    };
    if let Some(other) = may_run_at(record).into_iter().find(may_run) {
        let message = format!(
            "{other} may also hold a copy of the instance: wait until it is removed there, or, if {other} is off, say so \
             (`kilonova host fence {other}`), or name {other} in vouched_hosts if it surely does not run the guest"
        );
        return Err(Error::new(Reason::InvalidState, message).with("host", other));
    }
    found::vouch(record, asked.vouched_hosts);
    record.give_up_at(&host);
    record.evacuated_from = Some(place_of(record));
    record.resized_from = None;
    record.tried_hosts.clear();
    record.refusals = 0;
    record.alternates.clear();
    record.operations.clear();
    history::supersede(&mut record.actions, now);
    let instance = record.instance.get_or_insert_default();
    instance.previous_host.clear();
    instance.host.clear();
    instance.availability_zone.clear();
    instance.set_state(State::Building);
    instance.set_task(Task::Evacuating);
    instance.fault = None;
    instance.failed_attempts.clear();
    generation::grow(&mut instance.generation);
    instance.update_time = Some(timestamp(now));
    // Nothing of it is the host's part: it ends once the instance is there, with what its old host can no longer need.
    record.operations.push(Operation {
        kind: Kind::Evacuate.into(),
        generation: instance.generation,
        host_done: true,
        target_host: asked.target_host.to_owned(),
        ..Default::default()
    });
    acceptance.note(&mut record.actions, Kind::Evacuate);
    let detail = match host.as_str() {
        "" => "it is on no host".to_owned(),
        host if is_at(record, host) => format!("{host} is gone"),
        host => format!("{host} no longer has it"),
    };
    let attempt = record.status().attempt;
    let step = history::begun(history::step_name(Kind::Evacuate), acceptance.actor(), now, attempt, detail);
    history::add_to_newest(&mut record.actions, step);
    Ok(())
}

/// Whether a host may hold something of it: one that said that nothing is left need not be gone.
fn is_at(record: &InstanceRecord, host: &str) -> bool {
    record.receipts.iter().any(|receipt| receipt.host == host)
}

/// Refuses an instance that is in another state, or that another host may be about to run.
fn check_state(record: &InstanceRecord) -> Result<(), Error> {
    let instance = record.resource();
    let state = instance.state();
    let was_there = !instance.host.is_empty() || instance.launch_time.is_some();
    let states = matches!(state, State::Active | State::Stopped | State::Resized | State::Error);
    let moves = of(record).is_some_and(|way| way.step() != Step::Prepare);
    if states && was_there && !moves && record.status().wanted == Wanted::Present {
        return Ok(());
    }
    let (state, task) = (state.as_str_name(), instance.task().as_str_name());
    let message = format!(
        "the instance is {state}, {task}; this needs one that was there, is not being moved or deleted, and whose host is gone"
    );
    Err(Error::new(Reason::InvalidState, message).with("state", state).with("task", task))
}
