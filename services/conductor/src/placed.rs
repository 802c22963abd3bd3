//! What instances and volumes have in common: something wanted, a place, attempts, receipts and a history.
//!
//! [`Placed`] lets one plan and one engine drive both.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kilonova_model::time::{system_time, timestamp};
use kilonova_model::{InstanceId, InvalidId, Reason, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Receipt, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_store::keys::{Key, Keys};

/// What the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It should be there.
    Present,
    /// It should be gone.
    Absent,
}

/// Where a resource stands, as far as the plan cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On its way to be there.
    Building,
    /// There.
    Ready,
    /// Failed for good.
    Failed,
    /// Gone.
    Gone,
}

/// The figures a plan is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What the user wants.
    pub wanted: Wanted,
    /// Where it stands.
    pub phase: Phase,
    /// Its host; empty for none.
    pub host: String,
    /// How many hosts were tried.
    pub attempt: u32,
    /// How often what is wanted changed.
    pub generation: u64,
}

/// A record that is placed on a host or backend and driven there.
pub trait Placed: prost::Message + Default + Clone + PartialEq + Send + Sync + 'static {
    /// Its id.
    type Id: Copy + Ord + Hash + Debug + Display + FromStr<Err = InvalidId> + Send + Sync + 'static;
    /// What users see.
    type Resource: prost::Message + Default + Clone + PartialEq + Send + Sync + 'static;

    /// `instance` or `volume`.
    const NOUN: &'static str;
    /// The agents that hold it.
    const AGENT: ServiceKind;
    /// Why there is none of that id.
    const NOT_FOUND: Reason;
    /// Why there is no place for it.
    const NO_PLACE: Reason;

    /// Its key in the store.
    fn key(keys: &Keys, id: Self::Id) -> String;
    /// The prefix of all keys.
    fn prefix(keys: &Keys) -> String;
    /// The id in a parsed key.
    fn id_of(key: &Key) -> Option<Self::Id>;

    /// What users see, as stored.
    fn resource(&self) -> &Self::Resource;
    /// What users see, with its etag.
    fn shown(&self, etag: String) -> Self::Resource;
    /// The figures for the plan.
    fn status(&self) -> Status;
    /// The project that owns it.
    fn project_id(&self) -> &str;
    /// What it takes of the project's quota.
    fn usage(&self) -> pb::QuotaUsage;

    /// The history.
    fn actions(&self) -> &[pb::Action];
    /// The history, to add to.
    fn actions_mut(&mut self) -> &mut Vec<pb::Action>;
    /// The hosts tried.
    fn tried(&self) -> &[String];
    /// Where to try next.
    fn alternates_mut(&mut self) -> &mut Vec<Alternate>;
    /// How many places are left to try.
    fn alternates(&self) -> usize;
    /// Where something of it may be.
    fn receipts(&self) -> &[Receipt];
    /// When the present task is late.
    fn deadline(&self) -> Option<SystemTime>;
    /// When the record may be removed.
    fn expiry(&self) -> Option<SystemTime>;

    /// It is accepted: present is wanted.
    fn set_counted(&mut self, counted: bool);
    /// A host is being looked for, on the next attempt.
    fn set_place(&mut self, place: &Alternate, deadline: SystemTime, now: SystemTime);
    /// The attempt at its present host came to nothing; it has no host now.
    fn set_attempt_failed(&mut self, fault: pb::Fault, now: SystemTime);
    /// It is there.
    fn set_ready(&mut self, now: SystemTime);
    /// It failed for good.
    fn set_failed(&mut self, fault: pb::Fault, now: SystemTime);
    /// The user wants it gone.
    fn set_absent(&mut self, deadline: SystemTime, now: SystemTime);
    /// It is gone.
    fn set_gone(&mut self, expiry: SystemTime, now: SystemTime);
    /// The host holds nothing of it any more, up to that attempt.
    fn drop_receipt(&mut self, host: &str, attempt: u32);
}

macro_rules! shared {
    () => {
        fn actions(&self) -> &[pb::Action] {
            &self.actions
        }
        fn actions_mut(&mut self) -> &mut Vec<pb::Action> {
            &mut self.actions
        }
        fn tried(&self) -> &[String] {
            &self.tried_hosts
        }
        fn alternates_mut(&mut self) -> &mut Vec<Alternate> {
            &mut self.alternates
        }
        fn alternates(&self) -> usize {
            self.alternates.len()
        }
        fn receipts(&self) -> &[Receipt] {
            &self.receipts
        }
        fn deadline(&self) -> Option<SystemTime> {
            self.deadline_time.as_ref().and_then(system_time)
        }
        fn expiry(&self) -> Option<SystemTime> {
            self.expire_time.as_ref().and_then(system_time)
        }
        fn set_counted(&mut self, counted: bool) {
            self.counted = counted;
        }
        fn set_place(&mut self, place: &Alternate, deadline: SystemTime, now: SystemTime) {
            let attempt = self.put_at(place, now);
            self.tried_hosts.push(place.host.clone());
            self.receipts.push(Receipt {
                host: place.host.clone(),
                attempt,
                create_time: Some(timestamp(now)),
            });
            self.deadline_time = Some(timestamp(deadline));
        }
        fn set_attempt_failed(&mut self, fault: pb::Fault, now: SystemTime) {
            self.deadline_time = None;
            self.leave(fault, now);
        }
        fn set_ready(&mut self, now: SystemTime) {
            self.deadline_time = None;
            self.alternates.clear();
            self.arrive(now);
        }
        fn set_failed(&mut self, fault: pb::Fault, now: SystemTime) {
            self.deadline_time = None;
            self.give_up(fault, now);
        }
        fn set_absent(&mut self, deadline: SystemTime, now: SystemTime) {
            self.deadline_time = Some(timestamp(deadline));
            self.alternates.clear();
            self.unwant(now);
        }
        fn set_gone(&mut self, expiry: SystemTime, now: SystemTime) {
            self.deadline_time = None;
            self.expire_time = Some(timestamp(expiry));
            self.bury(now);
        }
        fn drop_receipt(&mut self, host: &str, attempt: u32) {
            self.receipts.retain(|receipt| receipt.host != host || receipt.attempt > attempt);
        }
        fn project_id(&self) -> &str {
            &self.resource().project_id
        }
    };
}

/// The parts of [`Placed`] that differ, one implementation a record type.
trait Own {
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32;
    fn leave(&mut self, fault: pb::Fault, now: SystemTime);
    fn arrive(&mut self, now: SystemTime);
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime);
    fn unwant(&mut self, now: SystemTime);
    fn bury(&mut self, now: SystemTime);
}

impl Placed for InstanceRecord {
    type Id = InstanceId;
    type Resource = pb::Instance;
    const NOUN: &'static str = "instance";
    const AGENT: ServiceKind = ServiceKind::Compute;
    const NOT_FOUND: Reason = Reason::InstanceNotFound;
    const NO_PLACE: Reason = Reason::NoValidHost;

    fn key(keys: &Keys, id: InstanceId) -> String {
        keys.instance(id)
    }
    fn prefix(keys: &Keys) -> String {
        keys.instances()
    }
    fn id_of(key: &Key) -> Option<InstanceId> {
        if let Key::Instance(id) = key { Some(*id) } else { None }
    }
    fn resource(&self) -> &pb::Instance {
        self.instance.as_ref().unwrap_or(&EMPTY_INSTANCE)
    }
    fn shown(&self, etag: String) -> pb::Instance {
        pb::Instance { etag, ..self.resource().clone() }
    }
    fn status(&self) -> Status {
        use pb::instance::{Desired, State};
        let instance = self.resource();
        Status {
            wanted: if instance.desired() == Desired::Absent { Wanted::Absent } else { Wanted::Present },
            phase: match instance.state() {
                State::Unspecified | State::Building => Phase::Building,
                State::Active | State::Stopped => Phase::Ready,
                State::Error => Phase::Failed,
                State::Deleted => Phase::Gone,
            },
            host: instance.host.clone(),
            attempt: instance.attempt,
            generation: instance.generation,
        }
    }
    fn usage(&self) -> pb::QuotaUsage {
        let flavor = self.resource().flavor.clone().unwrap_or_default();
        pb::QuotaUsage { instances: 1, cores: flavor.vcpus, ram_mib: flavor.ram_mib, ..Default::default() }
    }
    shared!();
}

impl Own for InstanceRecord {
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32 {
        let instance = self.instance.get_or_insert_default();
        instance.host = place.host.clone();
        instance.availability_zone = place.availability_zone.clone();
        instance.attempt += 1;
        instance.set_task(pb::instance::Task::Spawning);
        instance.update_time = Some(timestamp(now));
        instance.attempt
    }
    fn leave(&mut self, fault: pb::Fault, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.host.clear();
        instance.availability_zone.clear();
        instance.failed_attempts.push(fault);
        instance.set_task(pb::instance::Task::Scheduling);
        instance.update_time = Some(timestamp(now));
    }
    fn arrive(&mut self, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.set_state(pb::instance::State::Active);
        instance.set_task(pb::instance::Task::Unspecified);
        instance.launch_time.get_or_insert(timestamp(now));
        instance.update_time = Some(timestamp(now));
    }
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.set_state(pb::instance::State::Error);
        instance.set_task(pb::instance::Task::Unspecified);
        instance.fault = Some(fault);
        instance.update_time = Some(timestamp(now));
    }
    fn unwant(&mut self, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.set_desired(pb::instance::Desired::Absent);
        instance.set_task(pb::instance::Task::Deleting);
        instance.generation += 1;
        instance.update_time = Some(timestamp(now));
    }
    fn bury(&mut self, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.set_state(pb::instance::State::Deleted);
        instance.set_task(pb::instance::Task::Unspecified);
        instance.set_power_state(pb::instance::PowerState::Unspecified);
        instance.addresses.clear();
        instance.host.clear();
        instance.delete_time = Some(timestamp(now));
        instance.update_time = Some(timestamp(now));
    }
}

impl Placed for VolumeRecord {
    type Id = VolumeId;
    type Resource = pb::Volume;
    const NOUN: &'static str = "volume";
    const AGENT: ServiceKind = ServiceKind::Volume;
    const NOT_FOUND: Reason = Reason::VolumeNotFound;
    const NO_PLACE: Reason = Reason::NoValidBackend;

    fn key(keys: &Keys, id: VolumeId) -> String {
        keys.volume(id)
    }
    fn prefix(keys: &Keys) -> String {
        keys.volumes()
    }
    fn id_of(key: &Key) -> Option<VolumeId> {
        if let Key::Volume(id) = key { Some(*id) } else { None }
    }
    fn resource(&self) -> &pb::Volume {
        self.volume.as_ref().unwrap_or(&EMPTY_VOLUME)
    }
    fn shown(&self, etag: String) -> pb::Volume {
        pb::Volume { etag, ..self.resource().clone() }
    }
    fn status(&self) -> Status {
        use pb::volume::{Desired, State};
        let volume = self.resource();
        Status {
            wanted: if volume.desired() == Desired::Absent { Wanted::Absent } else { Wanted::Present },
            // While it is being deleted, what it was before no longer matters.
            phase: match volume.state() {
                State::Unspecified | State::Creating => Phase::Building,
                State::Error => Phase::Failed,
                State::Deleted => Phase::Gone,
                _ => Phase::Ready,
            },
            host: volume.host.clone(),
            attempt: volume.attempt,
            generation: volume.generation,
        }
    }
    fn usage(&self) -> pb::QuotaUsage {
        let size = self.resource().spec.as_ref().map_or(0, |spec| spec.size_gib);
        pb::QuotaUsage { volumes: 1, gigabytes: size, ..Default::default() }
    }
    shared!();
}

impl Own for VolumeRecord {
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32 {
        let volume = self.volume.get_or_insert_default();
        volume.host = place.host.clone();
        volume.pool = place.pool.clone();
        volume.availability_zone = place.availability_zone.clone();
        volume.attempt += 1;
        volume.update_time = Some(timestamp(now));
        volume.attempt
    }
    fn leave(&mut self, fault: pb::Fault, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.host.clear();
        volume.pool.clear();
        volume.availability_zone.clear();
        volume.failed_attempts.push(fault);
        volume.update_time = Some(timestamp(now));
    }
    fn arrive(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Available);
        volume.launch_time.get_or_insert(timestamp(now));
        volume.update_time = Some(timestamp(now));
    }
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Error);
        volume.fault = Some(fault);
        volume.update_time = Some(timestamp(now));
    }
    fn unwant(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_desired(pb::volume::Desired::Absent);
        volume.set_state(pb::volume::State::Deleting);
        volume.generation += 1;
        volume.update_time = Some(timestamp(now));
    }
    fn bury(&mut self, now: SystemTime) {
        let volume = self.volume.get_or_insert_default();
        volume.set_state(pb::volume::State::Deleted);
        volume.host.clear();
        volume.delete_time = Some(timestamp(now));
        volume.update_time = Some(timestamp(now));
    }
}

static EMPTY_INSTANCE: std::sync::LazyLock<pb::Instance> = std::sync::LazyLock::new(pb::Instance::default);
static EMPTY_VOLUME: std::sync::LazyLock<pb::Volume> = std::sync::LazyLock::new(pb::Volume::default);

/// How long until `at`; nothing when it is past.
#[must_use]
pub fn until(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default()
}
