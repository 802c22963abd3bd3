//! Volumes against the instances that have them, guests against their records, and exports against both.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::{InstanceId, Revision, VolumeId};
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1::attachment::State as AttachmentState;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::volume::State;

use super::World;
use super::finding::{Finding, Heal, Settle};
use super::world::{Standing, is_settled, standing, under_way};
use crate::attach::is_of;
use crate::cache::Entry;
use crate::placed::{Phase, Placed};

/// What volumes, instances and guests do not agree on.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let volumes = world.volumes.iter().filter_map(|(id, entry)| of_nobody(world, *id, entry));
    let instances = world.instances.iter().filter(|(_, entry)| is_settled(entry.record.as_ref()));
    let instances = instances.flat_map(|(id, entry)| without(world, *id, entry));
    volumes.chain(instances).chain(devices(world)).collect()
}

/// A volume that is with an instance that is gone, or that does not list it.
fn of_nobody(world: &World, id: VolumeId, entry: &Entry<VolumeRecord>) -> Option<Finding> {
    let volume = entry.record.resource();
    let taken =
        matches!(volume.state(), State::Reserved | State::Attaching | State::InUse | State::Detaching);
    if !taken || !is_settled(entry.record.as_ref()) {
        return None;
    }
    let state = volume.state().as_str_name().trim_start_matches("STATE_");
    let named = volume.attachments.first().map(|attachment| attachment.instance_id.as_str());
    let instance = named.and_then(|named| named.parse::<InstanceId>().ok());
    let guest = instance.and_then(|instance| world.instances.get(&instance));
    let why = match guest {
        None => format!("there is no instance {}", named.unwrap_or("named")),
        Some(guest) if guest.record.status().phase == Phase::Gone => {
            format!("instance {} is gone", named.unwrap_or_default())
        }
        Some(guest) if under_way(guest.record.as_ref()) || lists(&guest.record, id) => return None,
        Some(_) => format!("instance {} does not have it", named.unwrap_or_default()),
    };
    let revision = guest.map(|guest| guest.revision);
    let finding = Finding::new(Kind::AttachmentDrift, id, format!("its record says {state}, and {why}"))
        .of(&volume.project_id)
        .on(&volume.host)
        .resting_on([entry.revision.0, revision.unwrap_or(Revision(0)).0]);
    Some(finding.healed_by(Heal::Release(id, entry.clone(), instance.map(|instance| (instance, revision)))))
}

fn lists(record: &InstanceRecord, volume: VolumeId) -> bool {
    let volume = volume.to_string();
    record.resource().attachments.iter().any(|attachment| attachment.volume_id == volume)
}

/// The volumes that an instance has and that are not with it.
fn without(world: &World, id: InstanceId, entry: &Entry<InstanceRecord>) -> Vec<Finding> {
    let instance = entry.record.resource();
    let finding = |volume_id: &String| {
        let volume = volume_id.parse().ok().and_then(|volume: VolumeId| world.volumes.get(&volume));
        let why = match volume.map(|volume| volume.record.resource()) {
            None => "there is no record of it".to_owned(),
            // One that was lost is told of by itself, and stays with the instance until it is found or detached.
            Some(volume) if is_of(volume, id) && matches!(volume.state(), State::InUse | State::Error) => {
                return None;
            }
            Some(volume) if is_of(volume, id) => {
                format!("its record says {}", volume.state().as_str_name().trim_start_matches("STATE_"))
            }
            Some(_) => "its record does not have it with this instance".to_owned(),
        };
        let revision = volume.map_or(Revision(0), |volume| volume.revision);
        let finding =
            Finding::new(Kind::AttachmentDrift, id, format!("it has volume {volume_id}, and {why}"));
        let finding =
            finding.of(&instance.project_id).on(&instance.host).resting_on([entry.revision.0, revision.0]);
        Some(match settle(world, id, entry, volume_id) {
            Some(settle) => finding.healed_by(Heal::Settle(Box::new(settle))),
            None => finding,
        })
    };
    instance.attachments.iter().filter_map(|attachment| finding(&attachment.volume_id)).collect()
}

/// What an instance and a volume that it lists are to agree on: what its guest has. Nothing, while that is not known, or while the
/// guest has a volume that is another's by its record.
fn settle(world: &World, id: InstanceId, entry: &Entry<InstanceRecord>, volume_id: &str) -> Option<Settle> {
    let there = world.computes.get(&entry.record.resource().host)?;
    let guest = there.guests.get(&id).filter(|guest| guest.present && !guest.busy)?;
    let attached = guest.volume_ids.iter().any(|one| one == volume_id);
    let volume: Option<VolumeId> = volume_id.parse().ok();
    let volume = volume.and_then(|volume| Some((volume, world.volumes.get(&volume)?.clone())));
    let volume = volume.filter(|(_, entry)| is_of(entry.record.resource(), id));
    if attached && volume.is_none() {
        return None;
    }
    Some(Settle { instance: (id, entry.clone()), volume_id: volume_id.to_owned(), volume, attached })
}

/// The guests that have other volumes than their records.
fn devices(world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, there) in &world.computes {
        for (id, guest) in there.guests.iter().filter(|(_, guest)| guest.present && !guest.busy) {
            let Standing::Belongs(entry) = standing(world.instances.get(id), host) else { continue };
            let instance = entry.record.resource();
            if instance.host != *host || !is_settled(entry.record.as_ref()) {
                continue;
            }
            let has: BTreeSet<&str> = guest.volume_ids.iter().map(String::as_str).collect();
            let wanted: BTreeSet<&str> =
                instance.attachments.iter().map(|attachment| attachment.volume_id.as_str()).collect();
            let join =
                |ids: Vec<&&str>| ids.iter().map(|id| (**id).to_owned()).collect::<Vec<_>>().join(", ");
            let (more, less) =
                (has.difference(&wanted).collect(), wanted.difference(&has).collect::<Vec<_>>());
            let more: Vec<&&str> = more;
            let cause = match (more.is_empty(), less.is_empty()) {
                (true, true) => continue,
                (false, _) => format!("its guest has volume {}, and its record does not", join(more)),
                (true, false) => {
                    format!("its guest does not have volume {}, and its record does", join(less))
                }
            };
            let seen = [entry.revision.0, there.epoch.0, guest.generation];
            let finding = Finding::new(Kind::AttachmentDrift, id, cause);
            found.push(finding.of(&instance.project_id).on(host).resting_on(seen));
        }
    }
    found
}

/// What backends export to hosts that have no business with it, and do not export where they should.
#[must_use]
pub fn exports(world: &World) -> Vec<Finding> {
    let mut holders = BTreeMap::<&str, BTreeSet<InstanceId>>::new();
    for (id, entry) in world.instances.iter().filter(|(_, entry)| entry.record.status().phase != Phase::Gone)
    {
        for attachment in &entry.record.resource().attachments {
            holders.entry(&attachment.volume_id).or_default().insert(*id);
        }
    }
    // A guest that is not to be there may still use the volume: it goes first.
    let mut used = BTreeSet::<(&str, &str)>::new();
    for (host, there) in &world.computes {
        let guests = there.guests.values().filter(|guest| guest.present || guest.busy);
        used.extend(
            guests.flat_map(|guest| &guest.volume_ids).map(|volume| (volume.as_str(), host.as_str())),
        );
    }
    let mut found = Vec::new();
    for (backend, there) in &world.backends {
        for (id, volume) in there.volumes.iter().filter(|(_, volume)| volume.present && !volume.busy) {
            let Standing::Belongs(entry) = standing(world.volumes.get(id), backend) else { continue };
            let name = id.to_string();
            let mut with: BTreeSet<InstanceId> = holders.get(name.as_str()).cloned().unwrap_or_default();
            let named = entry.record.resource().attachments.iter();
            with.extend(named.filter_map(|attachment| attachment.instance_id.parse::<InstanceId>().ok()));
            let with: Vec<_> = with.iter().filter_map(|id| world.instances.get(id)).collect();
            let free = matches!(entry.record.resource().state(), State::Available | State::InUse);
            if !free || with.iter().any(|guest| under_way(guest.record.as_ref())) {
                continue;
            }
            let exported: BTreeSet<&str> = volume.exports.iter().map(String::as_str).collect();
            let seen = [entry.revision.0, there.epoch.0, volume.generation];
            let finding = |kind, host: &str, cause| {
                let finding = Finding::new(kind, id, cause).of(entry.record.project_id()).on(host);
                Finding { backend: backend.clone(), ..finding.resting_on(seen) }
            };
            let allowed = allowed(&with);
            let orphans = exported.iter().filter(|host| !allowed.contains(**host));
            for host in orphans.filter(|host| !used.contains(&(name.as_str(), **host))) {
                let cause = format!("{backend} exports it there, and no instance there has it");
                let heal = Heal::Disconnect(*id, Entry::clone(entry), (*host).to_owned());
                found.push(finding(Kind::ExportOrphan, host, cause).healed_by(heal));
            }
            for host in with.iter().filter_map(|guest| needs(guest, &name)) {
                if !exported.contains(host) {
                    let cause = format!("{backend} does not export it there, and an instance there has it");
                    found.push(finding(Kind::ExportMissing, host, cause));
                }
            }
        }
    }
    found
}

/// The hosts that may reach the volumes of these instances.
fn allowed(with: &[&Entry<InstanceRecord>]) -> BTreeSet<String> {
    let living = with.iter().filter(|guest| guest.record.status().phase != Phase::Gone);
    let hosts = living.flat_map(|guest| {
        let receipts = guest.record.receipts().iter().map(|receipt| receipt.host.clone());
        guest.record.keeps().into_iter().chain(receipts)
    });
    hosts.collect()
}

/// The host that has to reach a volume for this instance.
fn needs<'a>(guest: &'a Entry<InstanceRecord>, volume: &str) -> Option<&'a str> {
    let instance = guest.record.resource();
    let attached = |one: &kilonova_proto::types::v1::Attachment| {
        one.volume_id == volume && one.state() == AttachmentState::Attached
    };
    let needs = is_settled(guest.record.as_ref()) && instance.attachments.iter().any(attached);
    needs.then_some(instance.host.as_str())
}

#[cfg(test)]
#[path = "attachments_tests.rs"]
mod tests;
