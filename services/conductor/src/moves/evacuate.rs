//! Evacuation, as an administrator asks for it: the instance loses its host, and is built again elsewhere.
//!
//! The transaction that accepts it is the fence: from then on the record says that the instance does not belong on its old
//! host, which is what that host is told before it is ready again. It compares that the host is not registered, so that one
//! that is back already, and was told to keep it, does keep it.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, HostName, Reason, ServiceKind};
use kilonova_proto::conductor::v1::{InstanceRecord, Operation};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_rpc::registry::Members;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;

use super::ask::{check_state, place_of};
use crate::cache::Entry;
use crate::history;
use crate::once::Change;
use crate::placed::Placed;
use crate::requests::Acceptance;

/// An evacuation, as it is asked for.
pub struct Evacuate<'a> {
    /// The only host it may go to; empty for any.
    pub target_host: &'a str,
    /// Who is registered.
    pub members: Members,
    /// Where registrations are.
    pub keys: &'a Keys,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<InstanceRecord> for Evacuate<'_> {
    async fn begin(&self, entry: &Entry<InstanceRecord>) -> Result<(InstanceRecord, Txn), Error> {
        let mut record = InstanceRecord::clone(&entry.record);
        let members = self.members.current();
        let is_registered =
            |host: &str| HostName::parse(host).is_ok_and(|host| members.callable(&host).is_some());
        begin(&mut record, self.target_host, is_registered, SystemTime::now(), self.acceptance)?;
        let host = HostName::parse(&entry.record.resource().host);
        let host = host.map_err(|error| Error::new(Reason::Internal, error.to_string()))?;
        Ok((record, Txn::new().when_absent(self.keys.endpoint(ServiceKind::Compute, &host))))
    }
}

/// Enters it in the record of an instance whose host is gone.
pub fn begin(
    record: &mut InstanceRecord,
    target_host: &str,
    is_registered: impl Fn(&str) -> bool,
    now: SystemTime,
    acceptance: Acceptance<'_>,
) -> Result<(), Error> {
    check_state(record, &[State::Active, State::Stopped, State::Error])?;
    let host = record.resource().host.clone();
    if host.is_empty() {
        return Err(Error::new(Reason::InvalidState, "the instance is on no host"));
    }
    if is_registered(&host) {
        let message = format!("{host} is registered; migrate the instance instead");
        return Err(Error::new(Reason::InvalidState, message).with("host", host));
    }
    record.evacuated_from = Some(place_of(record));
    record.tried_hosts.clear();
    record.refusals = 0;
    record.alternates.clear();
    let instance = record.instance.get_or_insert_default();
    instance.host.clear();
    instance.availability_zone.clear();
    instance.set_state(State::Building);
    instance.set_task(Task::Evacuating);
    instance.fault = None;
    instance.failed_attempts.clear();
    instance.generation += 1;
    instance.update_time = Some(timestamp(now));
    // Nothing of it is the host's part: it ends once the instance is there, with what its old host can no longer need.
    record.operations.push(Operation {
        kind: Kind::Evacuate.into(),
        generation: instance.generation,
        host_done: true,
        target_host: target_host.to_owned(),
        ..Default::default()
    });
    acceptance.note(&mut record.actions, Kind::Evacuate);
    let step = history::done(
        "leave",
        acceptance.actor(),
        now,
        Duration::ZERO,
        record.status().attempt,
        format!("{host} is gone"),
    );
    history::add_to_newest(&mut record.actions, step);
    Ok(())
}
