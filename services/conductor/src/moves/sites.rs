//! Where an instance is, goes and may be while it moves, as its record says.

use std::collections::BTreeSet;

use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Place};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State;

use super::{is_preparing, of, site};
use crate::placed::{Placed, Site, only_prepared};

/// Where the present step is done.
#[must_use]
pub fn acts_at(record: &InstanceRecord) -> Option<Site> {
    let way = of(record)?;
    let place = match way.step() {
        Step::TakeOver | Step::LetGo | Step::Resume => &way.destination,
        _ => &way.source,
    };
    place.as_ref().map(site)
}

/// Whether the present step's host has only to stop running it.
#[must_use]
pub fn lets_go(record: &InstanceRecord) -> bool {
    of(record).is_some_and(|way| matches!(way.step(), Step::LetGo | Step::LetGoAgain))
}

/// Whether its guest is handed over to that place.
#[must_use]
pub fn is_going_to(record: &InstanceRecord, place: &Site) -> bool {
    of(record).is_some_and(|way| {
        let under_way = matches!(way.step(), Step::HandOver | Step::TakeOver);
        under_way && way.destination.as_ref().is_some_and(|destination| site(destination) == *place)
    }) && record.operations.first().is_some_and(|operation| !operation.host_done)
}

/// The hosts it is not to go to, because it leaves them.
#[must_use]
pub fn leaves(record: &InstanceRecord) -> Vec<String> {
    let holds = |place: &&Place| record.receipts.iter().any(|receipt| receipt.host == place.host);
    let evacuated = record.evacuated_from.as_ref().filter(holds);
    let source = of(record).and_then(|way| way.source.as_ref()).or(evacuated);
    source.map(|place| place.host.clone()).into_iter().collect()
}

/// Whether it was placed before, and is to be placed again: moved, or evacuated.
#[must_use]
pub fn is_later(record: &InstanceRecord) -> bool {
    of(record).is_some() || record.evacuated_from.is_some()
}

/// The only host it may go to.
#[must_use]
pub fn target(record: &InstanceRecord) -> Option<&str> {
    record.operations.first().map(|one| one.target_host.as_str()).filter(|host| !host.is_empty())
}

/// The flavor it has where it is built.
#[must_use]
pub fn flavor_to_be(record: &InstanceRecord) -> Option<&pb::Flavor> {
    let destination = of(record).and_then(|way| way.destination.as_ref());
    destination.and_then(|place| place.flavor.as_ref()).or(record.resource().flavor.as_ref())
}

/// The hosts that are to keep what they have of it.
#[must_use]
pub fn keeps(record: &InstanceRecord) -> Vec<String> {
    let confirms = record.operations.first().is_some_and(|one| one.kind() == Kind::ConfirmResize);
    let destination = of(record).filter(|way| !matches!(way.step(), Step::Clear | Step::TakeBack));
    let destination = destination.and_then(|way| way.destination.as_ref());
    let before = record.resized_from.as_ref().filter(|_| !confirms);
    let others = [destination, before].into_iter().flatten().map(|place| place.host.clone());
    let own = record.resource().host.clone();
    std::iter::once(own).chain(others).filter(|host| !host.is_empty()).collect()
}

/// The hosts that have to be cleared before the operation goes on.
#[must_use]
pub fn clears(record: &InstanceRecord) -> Vec<String> {
    let Some(operation) = record.operations.first() else { return Vec::new() };
    let place = match &operation.r#move {
        Some(way) if way.step() == Step::Clear => way.destination.as_ref(),
        None if operation.kind() == Kind::ConfirmResize => record.resized_from.as_ref(),
        None if operation.clears_others => return may_run_at(record),
        _ => None,
    };
    place.into_iter().map(|place| place.host.clone()).collect()
}

/// The host whose copy is the one to go on with once the others are cleared.
#[must_use]
pub fn clears_for(record: &InstanceRecord) -> Option<String> {
    match of(record) {
        Some(way) => way.source.as_ref().map(|place| place.host.clone()),
        None => Some(record.resource().host.clone()),
    }
}

/// The hosts besides its own that may hold something of it, each once.
#[must_use]
pub fn others(record: &InstanceRecord) -> Vec<String> {
    let own = &record.resource().host;
    let hosts = record.receipts.iter().map(|receipt| receipt.host.clone());
    hosts.filter(|host| host != own).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The hosts besides its own that may run it, each once.
#[must_use]
pub fn may_run_at(record: &InstanceRecord) -> Vec<String> {
    others(record).into_iter().filter(|host| !only_prepared(&record.receipts, host)).collect()
}

/// The instance as a host has to see it that compares records with guests: with that host's attempt, and as being built while the
/// host has not said that it took the room.
#[must_use]
pub fn seen_at(record: &InstanceRecord, host: &str, etag: String) -> pb::Instance {
    let shown = record.shown(etag);
    let destination = of(record).and_then(|way| way.destination.as_ref());
    let elsewhere = destination.filter(|place| place.host == host).or(record.resized_from.as_ref());
    let Some(at) = elsewhere.filter(|_| shown.host != host) else { return shown };
    let state = if is_preparing(record) { State::Building } else { State::Active };
    pb::Instance { host: at.host.clone(), attempt: at.attempt, state: state.into(), ..shown }
}
