//! An instance as a record that is placed on a host.

use std::sync::LazyLock;
use std::time::SystemTime;

use kilonova_model::time::{system_time, timestamp};
use kilonova_model::{InstanceId, Reason, ServerGroupId, ServiceKind};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_store::keys::{Key, Keys};

use super::{Own, Phase, Placed, Status, Wanted, shared};

static EMPTY_INSTANCE: LazyLock<pb::Instance> = LazyLock::new(pb::Instance::default);

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
    fn group(&self) -> Option<ServerGroupId> {
        self.resource().spec.as_ref()?.hints.as_ref()?.server_group_id.parse().ok()
    }
    fn usage(&self) -> pb::QuotaUsage {
        let flavor = self.resource().flavor.clone().unwrap_or_default();
        pb::QuotaUsage { instances: 1, cores: flavor.vcpus, ram_mib: flavor.ram_mib, ..Default::default() }
    }
    fn operation(&self) -> Option<Operation> {
        self.operation
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
    fn end_operation(&mut self, done: bool, now: SystemTime) {
        use pb::instance::{Desired, State, Task};
        let operation = self.operation.take().unwrap_or_default();
        let instance = self.instance.get_or_insert_default();
        if done {
            instance.set_state(match operation.kind() {
                pb::action::Kind::Stop => State::Stopped,
                _ => State::Active,
            });
        }
        let stopped = instance.state() == State::Stopped;
        instance.set_desired(if stopped { Desired::Stopped } else { Desired::Running });
        instance.set_task(Task::Unspecified);
        instance.update_time = Some(timestamp(now));
    }
    fn drop_operation(&mut self) {
        self.operation = None;
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
