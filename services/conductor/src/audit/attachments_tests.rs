use kilonova_proto::conductor::v1::Operation;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State as InstanceState;

use super::super::fixtures::{BACKEND, HOST, entry, guest, instance, kinds, receipt, stored, volume, world};
use super::*;

/// An instance with a volume attached, as both records, host and backend have it.
struct Case {
    world: World,
    instance: InstanceId,
    volume: VolumeId,
}

fn attachment(instance: InstanceId, volume: VolumeId) -> pb::Attachment {
    let (instance_id, volume_id) = (instance.to_string(), volume.to_string());
    let mut attachment = pb::Attachment { instance_id, volume_id, ..Default::default() };
    attachment.set_state(AttachmentState::Attached);
    attachment
}

impl Case {
    fn new() -> Self {
        let (mut world, id, disk) = (world(), InstanceId::generate(), VolumeId::generate());
        let mut record = instance(id, InstanceState::Active, HOST);
        record.instance.get_or_insert_default().attachments.push(attachment(id, disk));
        world.instances.insert(id, entry(record));
        let mut record = volume(disk, State::InUse, BACKEND);
        record.volume.get_or_insert_default().attachments.push(attachment(id, disk));
        world.volumes.insert(disk, entry(record));
        let mut there = guest(id);
        there.volume_ids.push(disk.to_string());
        world.computes.get_mut(HOST).unwrap().guests.insert(id, there);
        let mut there = stored(disk);
        there.exports.push(HOST.into());
        world.backends.get_mut(BACKEND).unwrap().volumes.insert(disk, there);
        Self { world, instance: id, volume: disk }
    }

    fn instance(&mut self, change: impl FnOnce(&mut InstanceRecord)) {
        let mut record = InstanceRecord::clone(&self.world.instances[&self.instance].record);
        change(&mut record);
        self.world.instances.insert(self.instance, entry(record));
    }

    fn volume(&mut self, change: impl FnOnce(&mut pb::Volume)) {
        let mut record = VolumeRecord::clone(&self.world.volumes[&self.volume].record);
        change(record.volume.get_or_insert_default());
        self.world.volumes.insert(self.volume, entry(record));
    }

    fn exports(&mut self, hosts: &[&str]) {
        let there = self.world.backends.get_mut(BACKEND).unwrap();
        let volume = there.volumes.get_mut(&self.volume).unwrap();
        volume.exports = hosts.iter().map(|host| (*host).to_owned()).collect();
    }

    fn found(&self) -> Vec<(Kind, bool)> {
        kinds(&[judge(&self.world), exports(&self.world)].concat())
    }
}

#[test]
fn an_attachment_that_all_agree_on_is_not_found() {
    assert_eq!(Case::new().found(), []);
}

#[test]
fn a_lost_volume_stays_lost_with_its_instance() {
    let mut case = Case::new();
    case.volume(|volume| volume.set_state(State::Error));
    assert_eq!(case.found(), []);
}

#[test]
fn a_volume_of_nobody_is_free_again() {
    let mut case = Case::new();
    case.world.instances.clear();
    assert_eq!(
        case.found(),
        [(Kind::AttachmentDrift, true)],
        "the guest that is left goes before the export"
    );
    case.world.computes.get_mut(HOST).unwrap().guests.clear();
    assert_eq!(case.found(), [(Kind::AttachmentDrift, true), (Kind::ExportOrphan, true)]);

    let mut case = Case::new();
    case.instance(|record| record.instance.get_or_insert_default().attachments.clear());
    assert_eq!(case.found(), [(Kind::AttachmentDrift, true), (Kind::AttachmentDrift, false)]);
    case.instance(|record| record.operations.push(Operation::default()));
    assert_eq!(case.found(), []);
}

#[test]
fn a_volume_that_does_not_know_its_instance_is_only_told() {
    let mut case = Case::new();
    case.volume(|volume| {
        volume.attachments.clear();
        volume.set_state(State::Available);
    });
    assert_eq!(case.found(), [(Kind::AttachmentDrift, false)]);
    case.world.volumes.clear();
    assert_eq!(case.found(), [(Kind::AttachmentDrift, false)]);
}

#[test]
fn what_an_instance_and_its_volume_do_not_agree_on_is_settled_as_the_guest_has_it() {
    let settled = |case: &Case| {
        let found = judge(&case.world);
        found.iter().find_map(|finding| match &finding.heal {
            Some(Heal::Settle(settle)) => Some((settle.attached, settle.volume.is_some())),
            _ => None,
        })
    };
    for state in [State::Reserved, State::Attaching, State::Detaching, State::Available] {
        let mut case = Case::new();
        case.volume(|volume| volume.set_state(state));
        assert_eq!(settled(&case), Some((true, true)), "{state:?}");
        let there = case.world.computes.get_mut(HOST).unwrap();
        there.guests.get_mut(&case.instance).unwrap().volume_ids.clear();
        assert_eq!(settled(&case), Some((false, true)), "{state:?}");
        case.world.computes.clear();
        assert_eq!(settled(&case), None, "its host did not answer");
    }
}

#[test]
fn a_guest_with_other_volumes_is_only_told() {
    let mut case = Case::new();
    let guest = case.world.computes.get_mut(HOST).unwrap().guests.get_mut(&case.instance).unwrap();
    guest.volume_ids.clear();
    assert_eq!(case.found(), [(Kind::AttachmentDrift, false)]);
    let guest = case.world.computes.get_mut(HOST).unwrap().guests.get_mut(&case.instance).unwrap();
    guest.busy = true;
    assert_eq!(case.found(), []);
}

#[test]
fn an_export_goes_where_an_instance_may_be_and_nowhere_else() {
    let mut case = Case::new();
    case.exports(&[HOST, "h2"]);
    assert_eq!(case.found(), [(Kind::ExportOrphan, true)]);
    case.instance(|record| record.receipts.push(receipt("h2")));
    assert_eq!(case.found(), [], "something may be left there");
    case.exports(&[]);
    assert_eq!(case.found(), [(Kind::ExportMissing, false)]);
}

#[test]
fn exports_are_passed_over_while_the_instance_moves_or_the_volume_is_on_its_way() {
    let mut case = Case::new();
    case.exports(&["h2"]);
    case.instance(|record| record.operations.push(Operation::default()));
    assert_eq!(case.found(), []);
    let mut case = Case::new();
    case.exports(&["h2"]);
    case.volume(|volume| volume.set_state(State::Detaching));
    assert_eq!(case.found(), [(Kind::AttachmentDrift, true)], "nothing is under way that would detach it");
}

#[test]
fn a_place_that_is_kept_until_a_resize_is_confirmed_keeps_its_export() {
    let mut case = Case::new();
    case.exports(&[HOST, "h2"]);
    case.instance(|record| {
        let from = kilonova_proto::conductor::v1::Place { host: "h2".into(), ..Default::default() };
        record.resized_from = Some(from);
        record.instance.get_or_insert_default().set_state(InstanceState::Resized);
    });
    assert_eq!(case.found(), []);
}
