//! Attach and detach, as a user asks for them: one transaction on the instance, the volume and the request's id.
//!
//! The sequence is Nova's and Cinder's: reserve the volume and the device name here, then export it to the host, connect
//! it to the guest, and complete; see [`crate::operations`] for what follows when one of them fails.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, InstanceId, Reason, VolumeId};
use kilonova_proto::conductor::v1::{InstanceRecord, Operation, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::attachment::State as AttachmentState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::types::v1::{Attachment, Instance, Volume, instance};
use kilonova_store::Txn;

use crate::cache::Entry;
use crate::history;
use crate::once::Change;
use crate::placed::{Placed, generation, rest};
use crate::reach::{Reach, Standing, not_off};
use crate::records::Records;
use crate::requests::Acceptance;

/// Most attaches and detaches that wait at one instance: all of them fit in its history.
const MOST_WAITING: usize = 12;

/// An attach or a detach, as it is asked for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// [`Kind::AttachVolume`] or [`Kind::DetachVolume`].
    pub kind: Kind,
    /// Which volume.
    pub volume: VolumeId,
    /// Where it is.
    pub volumes: &'a Records<VolumeRecord>,
    /// The registrations and fences of hosts.
    pub reach: &'a Reach,
    /// How long the host may take.
    pub timeout: Duration,
    /// Who accepts it.
    pub acceptance: Acceptance<'a>,
}

#[async_trait]
impl Change<InstanceRecord> for Asked<'_> {
    async fn begin(&self, instance: &Entry<InstanceRecord>) -> Result<(InstanceRecord, Txn), Error> {
        let not_found = || Records::<VolumeRecord>::not_found(self.volume);
        let volume = self.volumes.read(self.volume).await?.ok_or_else(not_found)?;
        if volume.record.project_id() != instance.record.project_id() {
            return Err(not_found());
        }
        let standing = self.reach.standing(&instance.record.resource().host);
        let what = What { kind: self.kind, volume: self.volume, timeout: self.timeout, standing };
        let (new_instance, new_volume) =
            begin(&instance.record, &volume.record, what, SystemTime::now(), self.acceptance)?;
        Ok((new_instance, self.volumes.put(self.volume, &volume, &new_volume)))
    }
}

/// What is asked, of whatever records.
#[derive(Clone, Copy)]
pub(crate) struct What {
    pub kind: Kind,
    pub volume: VolumeId,
    pub timeout: Duration,
    /// The standing of the instance's host.
    pub standing: Standing,
}

/// Both records with what was asked entered, if they are in a state for it.
pub(crate) fn begin(
    instance: &InstanceRecord,
    volume: &VolumeRecord,
    asked: What,
    now: SystemTime,
    acceptance: Acceptance<'_>,
) -> Result<(InstanceRecord, VolumeRecord), Error> {
    let (mut instance, mut volume) = (instance.clone(), volume.clone());
    let waiting = instance.operations.len();
    let guest = instance.instance.get_or_insert_default();
    check_instance(guest, &instance.operations)?;
    not_off(&guest.host, asked.standing)?;
    let disk = volume.volume.get_or_insert_default();
    match asked.kind {
        Kind::AttachVolume => reserve(guest, disk, asked.volume, now)?,
        _ => begin_detaching(guest, disk, asked.volume)?,
    }
    generation::grow(&mut guest.generation);
    generation::grow(&mut disk.generation);
    guest.update_time = Some(timestamp(now));
    disk.update_time = Some(timestamp(now));
    let patience = asked.timeout.saturating_mul(u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1));
    instance.operations.push(Operation {
        kind: asked.kind.into(),
        volume_id: asked.volume.to_string(),
        generation: guest.generation,
        deadline_time: Some(timestamp(now + patience)),
        ..Default::default()
    });
    let (host, attempt) = (guest.host.clone(), guest.attempt);
    acceptance.note(&mut instance.actions, asked.kind);
    let name = history::step_name(asked.kind);
    let step =
        history::begun(name, acceptance.actor(), now, attempt, format!("volume {} on {host}", asked.volume));
    history::add_to_newest(&mut instance.actions, step);
    Ok((instance, volume))
}

/// Attaches and detaches may wait for each other, and for nothing else.
fn check_instance(guest: &Instance, waiting: &[Operation]) -> Result<(), Error> {
    let (state, task) = (guest.state(), guest.task());
    let there = matches!(state, instance::State::Active | instance::State::Stopped);
    let only_volumes =
        waiting.iter().all(|one| matches!(one.kind(), Kind::AttachVolume | Kind::DetachVolume));
    if there && only_volumes && task == instance::Task::Unspecified {
        if waiting.len() < MOST_WAITING {
            return Ok(());
        }
        let message =
            format!("{MOST_WAITING} volumes are being attached to the instance or detached from it");
        return Err(Error::new(Reason::Overloaded, message).with("limit", MOST_WAITING));
    }
    let message = format!(
        "the instance is {}, {}; volumes come and go while it is ACTIVE or STOPPED and nothing else is being done",
        state.as_str_name(),
        task.as_str_name()
    );
    Err(Error::new(Reason::InvalidState, message)
        .with("state", state.as_str_name())
        .with("task", task.as_str_name()))
}

fn reserve(guest: &mut Instance, disk: &mut Volume, volume: VolumeId, now: SystemTime) -> Result<(), Error> {
    if disk.state() != VolumeState::Available {
        return Err(not_in_state(disk, "AVAILABLE"));
    }
    let attachment = Attachment {
        instance_id: guest.id.clone(),
        volume_id: volume.to_string(),
        device: free_device(&guest.attachments),
        state: AttachmentState::Attaching.into(),
        create_time: Some(timestamp(now)),
    };
    disk.set_state(VolumeState::Reserved);
    disk.attachments = vec![attachment.clone()];
    guest.attachments.push(attachment);
    Ok(())
}

fn begin_detaching(guest: &mut Instance, disk: &mut Volume, volume: VolumeId) -> Result<(), Error> {
    let attached = |one: &&mut Attachment| one.volume_id == volume.to_string();
    let Some(attachment) = guest.attachments.iter_mut().find(attached) else {
        let message = format!("the instance does not have volume {volume}");
        return Err(Error::new(Reason::InvalidState, message).with("volume_id", volume));
    };
    // One that was lost can be taken from the guest all the same.
    let is_there = matches!(disk.state(), VolumeState::InUse | VolumeState::Error);
    if attachment.state() != AttachmentState::Attached || !is_there {
        return Err(not_in_state(disk, "IN_USE or ERROR"));
    }
    attachment.set_state(AttachmentState::Detaching);
    disk.set_state(VolumeState::Detaching);
    disk.attachments.iter_mut().for_each(|one| one.set_state(AttachmentState::Detaching));
    Ok(())
}

fn not_in_state(disk: &Volume, needed: &str) -> Error {
    let state = disk.state().as_str_name();
    let message = format!("the volume is {state}; this needs one that is {needed}");
    Error::new(Reason::InvalidState, message).with("state", state)
}

/// The next device name of virtio disks; `/dev/vda` is the root disk.
fn free_device(attachments: &[Attachment]) -> String {
    let name = |number: usize| {
        let (mut rest, mut letters) = (number, Vec::new());
        loop {
            letters.push(char::from(b'a' + u8::try_from(rest % 26).unwrap_or_default()));
            if rest < 26 {
                break;
            }
            rest = rest / 26 - 1;
        }
        format!("/dev/vd{}", letters.iter().rev().collect::<String>())
    };
    let mut names = (1..).map(name);
    let free = |name: &String| attachments.iter().all(|one| one.device != *name);
    names.find(free).unwrap_or_default()
}

/// A volume as it is once it is with the instance; one that was lost stays so.
pub fn complete(record: &mut VolumeRecord, now: SystemTime) {
    let disk = record.volume.get_or_insert_default();
    rest(disk);
    disk.attachments.iter_mut().for_each(|one| one.set_state(AttachmentState::Attached));
    disk.update_time = Some(timestamp(now));
}

/// A volume as it is once no instance has it; one that was lost stays so.
pub fn release(record: &mut VolumeRecord, now: SystemTime) {
    let disk = record.volume.get_or_insert_default();
    disk.attachments.clear();
    rest(disk);
    generation::grow(&mut disk.generation);
    disk.update_time = Some(timestamp(now));
}

/// Whether a volume is with this instance, or on its way there or back.
#[must_use]
pub fn is_of(volume: &pb::Volume, instance: InstanceId) -> bool {
    volume.attachments.iter().any(|one| one.instance_id == instance.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn guest(state: instance::State) -> InstanceRecord {
        let mut guest = Instance { id: "i".into(), generation: 1, host: "h1".into(), ..Default::default() };
        guest.set_state(state);
        InstanceRecord { instance: Some(guest), ..Default::default() }
    }

    fn disk(state: VolumeState) -> VolumeRecord {
        let mut disk = Volume::default();
        disk.set_state(state);
        VolumeRecord { volume: Some(disk), ..Default::default() }
    }

    fn ask(
        kind: Kind,
        volume: VolumeId,
        records: (&InstanceRecord, &VolumeRecord),
    ) -> Result<(InstanceRecord, VolumeRecord), Reason> {
        let standing = Standing::Registered;
        let asked = What { kind, volume, timeout: Duration::from_secs(10), standing };
        let acceptance = Acceptance { conductor: "c1", arrived: NOW, request_id: "" };
        begin(records.0, records.1, asked, NOW, acceptance).map_err(|error| error.reason)
    }

    #[test]
    fn a_lost_volume_can_be_detached_and_stays_lost() {
        let volume = VolumeId::generate();
        let (guest, mut lost) =
            ask(Kind::AttachVolume, volume, (&guest(instance::State::Active), &disk(VolumeState::Available)))
                .unwrap();
        complete(&mut lost, NOW);
        let mut guest = InstanceRecord { operations: Vec::new(), ..guest };
        crate::operations::settle(guest.instance.as_mut().unwrap(), &volume.to_string(), true);
        let resource = lost.volume.as_mut().unwrap();
        resource.set_state(VolumeState::Error);
        resource.fault = Some(pb::Fault::default());
        complete(&mut lost, NOW);
        assert_eq!(lost.resource().state(), VolumeState::Error, "whatever becomes of its instance");
        let (_, mut lost) = ask(Kind::DetachVolume, volume, (&guest, &lost)).unwrap();
        assert_eq!(lost.resource().state(), VolumeState::Detaching);
        release(&mut lost, NOW);
        assert_eq!((lost.resource().state(), lost.resource().attachments.len()), (VolumeState::Error, 0));
    }

    #[test]
    fn volumes_are_promised_once_and_in_order() {
        let (one, two) = (VolumeId::generate(), VolumeId::generate());
        let guest = guest(instance::State::Active);
        let (guest, first) = ask(Kind::AttachVolume, one, (&guest, &disk(VolumeState::Available))).unwrap();
        assert_eq!(ask(Kind::AttachVolume, one, (&guest, &first)), Err(Reason::InvalidState));
        let (guest, _) = ask(Kind::AttachVolume, two, (&guest, &disk(VolumeState::Available))).unwrap();
        let instance = guest.instance.as_ref().unwrap();
        let devices: Vec<&str> = instance.attachments.iter().map(|one| one.device.as_str()).collect();
        assert_eq!(devices, ["/dev/vdb", "/dev/vdc"]);
        assert!(
            guest.operations[0].generation > 1
                && guest.operations[1].generation > guest.operations[0].generation
        );
        let last = guest.operations[1].deadline_time.as_ref().unwrap().seconds;
        assert_eq!(last, 20, "the one before it has its time too");
        let outcomes: Vec<pb::Outcome> = guest.actions.iter().map(pb::Action::outcome).collect();
        assert_eq!(outcomes, [pb::Outcome::InProgress; 2]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut guest = guest(instance::State::Active);
        for _ in 0..MOST_WAITING {
            let asked = (&guest, &disk(VolumeState::Available));
            guest = ask(Kind::AttachVolume, VolumeId::generate(), asked).unwrap().0;
        }
        let more = ask(Kind::AttachVolume, VolumeId::generate(), (&guest, &disk(VolumeState::Available)));
        assert_eq!(more, Err(Reason::Overloaded));
    }

    #[test]
    fn only_what_is_attached_is_detached() {
        let volume = VolumeId::generate();
        let bare = guest(instance::State::Stopped);
        assert_eq!(
            ask(Kind::DetachVolume, volume, (&bare, &disk(VolumeState::InUse))),
            Err(Reason::InvalidState)
        );
        let (mut guest, mut disk) =
            ask(Kind::AttachVolume, volume, (&bare, &disk(VolumeState::Available))).unwrap();
        assert_eq!(
            ask(Kind::DetachVolume, volume, (&guest, &disk)),
            Err(Reason::InvalidState),
            "not yet there"
        );
        crate::operations::host_did(&mut guest, NOW, NOW);
        crate::operations::conclude(&mut guest, NOW);
        complete(&mut disk, NOW);
        let (guest, disk) = ask(Kind::DetachVolume, volume, (&guest, &disk)).unwrap();
        assert_eq!(disk.volume.as_ref().unwrap().state(), VolumeState::Detaching);
        assert_eq!(guest.instance.unwrap().attachments[0].state(), AttachmentState::Detaching);
    }

    #[test]
    fn an_instance_that_is_not_there_or_busy_takes_none() {
        let volume = VolumeId::generate();
        for state in [instance::State::Building, instance::State::Error, instance::State::Deleted] {
            let taken = ask(Kind::AttachVolume, volume, (&guest(state), &disk(VolumeState::Available)));
            assert_eq!(taken, Err(Reason::InvalidState), "{state:?}");
        }
        let mut busy = guest(instance::State::Active);
        busy.instance.as_mut().unwrap().set_task(instance::Task::Stopping);
        let taken = ask(Kind::AttachVolume, volume, (&busy, &disk(VolumeState::Available)));
        assert_eq!(taken, Err(Reason::InvalidState));
    }

    #[test]
    fn device_names_go_on_after_the_alphabet() {
        let mut attachments = Vec::new();
        for _ in 0..26 {
            attachments.push(Attachment { device: free_device(&attachments), ..Default::default() });
        }
        assert_eq!(attachments[24].device, "/dev/vdz");
        assert_eq!(attachments[25].device, "/dev/vdaa");
        attachments.remove(3);
        assert_eq!(free_device(&attachments), "/dev/vde");
    }
}
