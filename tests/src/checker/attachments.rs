//! Instance, volume and guest agree about who has which volume.

use std::collections::BTreeMap;

use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::attachment::State;
use kilonova_proto::types::v1::volume::State as VolumeState;

use super::{Findings, World, guests};

const RULE: &str = "attachments agree";

/// Both sides of every attachment, and the guest.
pub fn agree(world: &World, findings: &mut Findings) {
    let guests = guests::left(world);
    for (id, record) in &world.instances {
        let instance = record.instance.clone().unwrap_or_default();
        for one in &instance.attachments {
            let volume = world.volumes.get(&one.volume_id).and_then(|record| record.volume.as_ref());
            let other =
                volume.and_then(|volume| volume.attachments.iter().find(|other| other.instance_id == *id));
            findings.add_unless(other.is_some_and(|other| same(one, other)), RULE, id, || {
                format!("it has {} as {one:?}, and the volume says {other:?}", one.volume_id)
            });
        }
        let by_record: BTreeMap<String, String> =
            instance.attachments.iter().map(|one| (one.volume_id.clone(), one.device.clone())).collect();
        if let Some(guest) = guests.get(&(instance.host.clone(), id.clone())) {
            findings.add_unless(guest.volumes == by_record, RULE, id, || {
                format!("its guest has {:?}, and by its record it has {by_record:?}", guest.volumes)
            });
        }
    }
    for (id, record) in &world.volumes {
        let volume = record.volume.clone().unwrap_or_default();
        for one in &volume.attachments {
            let instance = world.instances.get(&one.instance_id).and_then(|record| record.instance.as_ref());
            let other = instance
                .and_then(|instance| instance.attachments.iter().find(|other| other.volume_id == *id));
            findings.add_unless(other.is_some_and(|other| same(one, other)), RULE, id, || {
                format!("it is with {} as {one:?}, and the instance says {other:?}", one.instance_id)
            });
        }
        let in_use = volume.state() == VolumeState::InUse;
        findings.add_unless(in_use == (volume.attachments.len() == 1), RULE, id, || {
            format!("it is {} with {} attachments", volume.state().as_str_name(), volume.attachments.len())
        });
    }
}

fn same(one: &pb::Attachment, other: &pb::Attachment) -> bool {
    let attached = |one: &pb::Attachment| one.state() == State::Attached;
    one.device == other.device && attached(one) && attached(other)
}
