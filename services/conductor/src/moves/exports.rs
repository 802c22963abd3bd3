//! To which hosts an instance's volumes are exported besides its own, and when that ends.

use std::collections::BTreeSet;

use kilonova_proto::conductor::v1::{InstanceRecord, Operation, Place};
use kilonova_proto::types::v1::action::Kind;

use crate::placed::Placed;

/// The hosts that can no longer need to reach the instance's volumes, once its first operation has ended. An attach or a detach
/// is about one volume, and leaves that to those that follow.
#[must_use]
pub fn left_behind(record: &InstanceRecord) -> Vec<String> {
    let Some(operation) = record.operations.first() else { return Vec::new() };
    if operation.broken || matches!(operation.kind(), Kind::AttachVolume | Kind::DetachVolume) {
        return Vec::new();
    }
    let host = |place: &Option<Place>| place.iter().map(|place| place.host.clone()).collect::<Vec<_>>();
    let mut hosts = match (&operation.r#move, operation.kind()) {
        (None, Kind::ConfirmResize) if operation.undo_cause.is_some() => Vec::new(),
        (None, Kind::ConfirmResize) => host(&record.resized_from),
        (None, Kind::Evacuate) => [host(&record.evacuated_from), record.tried_hosts.clone()].concat(),
        (Some(_), Kind::RevertResize) if operation.undo_cause.is_some() => Vec::new(),
        (Some(way), Kind::RevertResize) => host(&way.destination),
        (Some(way), Kind::LiveMigrate) if operation.undo_cause.is_none() => {
            [host(&way.source), record.tried_hosts.clone()].concat()
        }
        // Those that did not take it, and also the one that did if that was taken back.
        (Some(_), _) => record.tried_hosts.clone(),
        _ => Vec::new(),
    };
    // What was left open before, once nothing is there any more, or nobody counts on it.
    let holds = |host: &String| record.receipts.iter().any(|receipt| receipt.host == *host);
    let evacuated = operation.kind() == Kind::Evacuate && operation.undo_cause.is_none();
    hosts.extend(record.exported_hosts.iter().filter(|host| evacuated || !holds(host)).cloned());
    hosts.retain(|host| *host != record.resource().host && !host.is_empty());
    hosts.sort();
    hosts.dedup();
    hosts
}

/// Notes that the volumes are exported no more to the hosts that its first operation left behind.
pub fn note_unexported(record: &mut InstanceRecord) {
    let (left, own) = (left_behind(record), record.resource().host.clone());
    record.exported_hosts.retain(|host| *host != own && !left.contains(host));
}

/// Notes the hosts to which volumes stay exported because a move or an evacuation can neither be finished nor taken back.
pub(super) fn leave_open(record: &mut InstanceRecord, operation: &Operation) {
    let way = operation.r#move.as_ref();
    let places = [
        way.and_then(|way| way.source.as_ref()),
        way.and_then(|way| way.destination.as_ref()),
        record.evacuated_from.as_ref(),
    ];
    let hosts = places.into_iter().flatten().map(|place| place.host.clone());
    let mut open: BTreeSet<String> = hosts.chain(record.tried_hosts.clone()).collect();
    open.extend(std::mem::take(&mut record.exported_hosts));
    open.remove("");
    open.remove(&record.resource().host);
    record.exported_hosts = open.into_iter().collect();
}
