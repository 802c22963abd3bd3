//! Copies of an instance that hosts were found to have, and that no attempt of the record put there: as after a store that was put back.
//!
//! The record does not say how such a copy came to be, whether it runs, nor which of the copies is the good one. So no other copy is
//! made to run, and none is removed, before an operator says so: by a fence that the host is off, by vouching for it that it does not run
//! the guest.

use std::collections::BTreeSet;

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::{InstanceRecord, Receipt};

use crate::placed::Placed;
use crate::reach::Standing;

/// The hosts besides its own that were found to have it, and that nobody vouched for.
#[must_use]
pub fn found_at(record: &InstanceRecord) -> BTreeSet<&str> {
    let own = record.resource().host.as_str();
    let is_open = |receipt: &&Receipt| receipt.found && !receipt.vouched && receipt.host != own;
    record.receipts.iter().filter(is_open).map(|receipt| receipt.host.as_str()).collect()
}

/// Refuses what makes an instance's own copy run, while one that was found may run.
pub fn runs_nowhere_else(record: &InstanceRecord, standing: &dyn Fn(&str) -> Standing) -> Result<(), Error> {
    let Some(other) = found_at(record).into_iter().find(|host| standing(host) != Standing::Fenced) else {
        return Ok(());
    };
    let message = format!(
        "{other} was found to have a copy of the instance, which may run there and may be the newer one: look at both; to go on with the one on \
         {}, and have the other removed, name {other} in vouched_hosts of a hard reboot (`kilonova instance reboot --hard --vouch {other}`)",
        record.resource().host
    );
    Err(Error::new(Reason::InvalidState, message).with("host", other))
}

/// Enters an operator's word that these hosts do not run it; says whether one of them has a copy that was found.
pub fn vouch(record: &mut InstanceRecord, hosts: &[String]) -> bool {
    let vouched = record.receipts.iter_mut().filter(|receipt| hosts.contains(&receipt.host));
    vouched.fold(false, |any, receipt| {
        receipt.vouched = true;
        any || receipt.found
    })
}
