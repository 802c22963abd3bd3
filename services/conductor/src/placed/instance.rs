//! An instance as a record that is placed on a host.

use std::sync::LazyLock;
use std::time::SystemTime;

use kilonova_model::time::{system_time, timestamp};
use kilonova_model::{InstanceId, Reason, ServerGroupId, ServiceKind};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_store::keys::{Key, Keys};

use super::{Own, Phase, Placed, Site, Status, Wanted, generation, shared};
use crate::moves::{self, flavor_usage};
use crate::{operations, quota};

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
                State::Active | State::Stopped | State::Resized => Phase::Ready,
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
        let flavor = self.resource().flavor.as_ref().map(flavor_usage).unwrap_or_default();
        let own = pb::QuotaUsage { instances: 1, ..flavor };
        self.extra_usage.as_ref().map_or(own, |extra| quota::sum(&own, extra))
    }
    fn is_placing(&self) -> bool {
        self.status().phase == Phase::Building || moves::is_preparing(self)
    }
    fn next_attempt(&self) -> u32 {
        self.last_attempt.max(self.resource().attempt) + 1
    }
    fn building_at(&self) -> Option<Site> {
        match moves::of(self) {
            Some(_) if !moves::is_preparing(self) => None,
            Some(way) => way.destination.as_ref().map(moves::site).filter(|site| !site.host.is_empty()),
            None => {
                let instance = self.resource();
                let building = self.status().phase == Phase::Building && !instance.host.is_empty();
                building.then(|| Site { host: instance.host.clone(), attempt: instance.attempt })
            }
        }
    }
    fn building(&self) -> &'static str {
        if moves::of(self).is_some() { "prepare" } else { "build" }
    }
    fn acts_at(&self) -> Site {
        moves::acts_at(self).unwrap_or_else(|| {
            let instance = self.resource();
            Site { host: instance.host.clone(), attempt: instance.attempt }
        })
    }
    fn is_going_to(&self, site: &Site) -> bool {
        moves::is_going_to(self, site)
    }
    fn is_rescued_from(&self, host: &str) -> bool {
        self.evacuated_from.as_ref().is_some_and(|from| from.host == host)
    }
    fn keeps(&self) -> Vec<String> {
        moves::keeps(self)
    }
    fn clears(&self) -> Vec<String> {
        moves::clears(self)
    }
    fn clears_for(&self) -> Option<String> {
        moves::clears_for(self)
    }
    fn moves(&self) -> bool {
        moves::of(self).is_some()
    }
    fn was_there(&self) -> bool {
        self.resource().launch_time.is_some()
    }
    fn lets_go(&self) -> bool {
        moves::lets_go(self)
    }
    fn starts(&self) -> bool {
        self.operations.first().is_some_and(operations::starts)
    }
    fn note_told(&mut self, host: &str) -> bool {
        moves::note_told(self, host)
    }
    fn seen_at(&self, host: &str, etag: String) -> pb::Instance {
        moves::seen_at(self, host, etag)
    }
    fn left_at(&self, receipt: &Receipt, etag: String) -> pb::Instance {
        let (host, attempt) = (receipt.host.clone(), receipt.attempt);
        pb::Instance { host, attempt, desired: pb::instance::Desired::Absent.into(), ..self.shown(etag) }
    }
    fn host_did(&mut self, until: SystemTime, now: SystemTime) {
        operations::host_did(self, until, now);
    }
    fn cleared(&mut self, until: SystemTime) {
        moves::cleared(self, until);
    }
    fn host_did_not(&mut self, fault: &pb::Fault, again_until: SystemTime, now: SystemTime) {
        operations::host_did_not(self, fault, again_until, now);
    }
    fn is_done_once(&self) -> bool {
        let is_once = |one: &Operation| one.r#move.is_some() || one.kind() == Kind::Rebuild;
        self.operations.first().is_some_and(is_once)
    }
    fn set_in_doubt(&mut self, fault: &pb::Fault, now: SystemTime) {
        match moves::of(self) {
            Some(_) => moves::break_off(self, fault),
            None => self.host_did_not(fault, now, now),
        }
    }
    fn conclude(&mut self, now: SystemTime) {
        operations::conclude(self, now);
    }
    fn failed_attempts(&self) -> &[pb::Fault] {
        &self.resource().failed_attempts
    }
    fn refusals(&self) -> usize {
        self.refusals as usize
    }
    fn count_refusal(&mut self) {
        self.refusals += 1;
    }
    fn set_placement(&mut self, decision: pb::PlacementDecision) {
        self.placement = Some(decision);
    }
    shared!();
}

impl Own for InstanceRecord {
    fn generation_mut(&mut self) -> &mut u64 {
        &mut self.instance.get_or_insert_default().generation
    }
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32 {
        let attempt = self.next_attempt();
        self.last_attempt = attempt;
        if moves::is_preparing(self) {
            moves::set_destination(self, place, attempt);
            return attempt;
        }
        let evacuates = self.evacuated_from.is_some();
        let instance = self.instance.get_or_insert_default();
        instance.host = place.host.clone();
        instance.availability_zone = place.availability_zone.clone();
        instance.attempt = attempt;
        if !evacuates {
            instance.set_task(pb::instance::Task::Spawning);
        }
        instance.update_time = Some(timestamp(now));
        attempt
    }
    fn leave(&mut self, fault: pb::Fault, now: SystemTime) {
        if moves::is_preparing(self) {
            return moves::leave_destination(self);
        }
        let evacuates = self.evacuated_from.is_some();
        let instance = self.instance.get_or_insert_default();
        instance.host.clear();
        instance.availability_zone.clear();
        instance.failed_attempts.push(fault);
        if !evacuates {
            instance.set_task(pb::instance::Task::Scheduling);
        }
        instance.update_time = Some(timestamp(now));
    }
    fn arrive(&mut self, until: SystemTime, now: SystemTime) {
        if moves::is_preparing(self) {
            return moves::prepared(self, until);
        }
        let evacuates = self.evacuated_from.is_some();
        let instance = self.instance.get_or_insert_default();
        instance.set_state(moves::wanted_state(instance.desired()));
        if !evacuates {
            instance.set_task(pb::instance::Task::Unspecified);
        }
        instance.launch_time.get_or_insert(timestamp(now));
        instance.update_time = Some(timestamp(now));
    }
    fn cut_off(&mut self, fault: &pb::Fault, _: SystemTime) {
        operations::cut_off(self, fault);
    }
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime) {
        if moves::stay_after_all(self, &fault, now) {
            return;
        }
        // What it cannot come back from by itself: a move or an evacuation that was under way.
        self.operations.iter_mut().for_each(|operation| operation.broken = true);
        self.evacuated_from = None;
        let instance = self.instance.get_or_insert_default();
        instance.set_state(pb::instance::State::Error);
        instance.set_task(pb::instance::Task::Unspecified);
        instance.fault = Some(fault);
        instance.update_time = Some(timestamp(now));
    }
    fn come_back(&mut self, now: SystemTime) {
        let resized = self.resized_from.is_some();
        let instance = self.instance.get_or_insert_default();
        let state = moves::wanted_state(instance.desired());
        instance.set_state(if resized { pb::instance::State::Resized } else { state });
        instance.fault = None;
        instance.update_time = Some(timestamp(now));
    }
    fn unwant(&mut self, now: SystemTime) {
        self.operations.clear();
        (self.evacuated_from, self.resized_from) = (None, None);
        let instance = self.instance.get_or_insert_default();
        instance.previous_host.clear();
        instance.set_desired(pb::instance::Desired::Absent);
        instance.set_task(pb::instance::Task::Deleting);
        for attachment in &mut instance.attachments {
            attachment.set_state(pb::attachment::State::Detaching);
        }
        generation::grow(&mut instance.generation);
        instance.update_time = Some(timestamp(now));
    }
    fn bury(&mut self, now: SystemTime) {
        let instance = self.instance.get_or_insert_default();
        instance.set_state(pb::instance::State::Deleted);
        instance.set_task(pb::instance::Task::Unspecified);
        instance.set_power_state(pb::instance::PowerState::Unspecified);
        instance.addresses.clear();
        instance.attachments.clear();
        instance.host.clear();
        instance.delete_time = Some(timestamp(now));
        instance.update_time = Some(timestamp(now));
    }
}

#[cfg(test)]
mod tests {
    use kilonova_proto::types::v1::instance::Desired;

    use super::*;

    #[test]
    fn an_attempt_that_was_refused_drops_its_own_receipt_only_if_another_says_that_something_is_there() {
        let receipts = |sites: &[(&str, u32)]| -> Vec<Receipt> {
            let receipt = |(host, attempt): &(&str, u32)| Receipt {
                host: (*host).to_owned(),
                attempt: *attempt,
                ..Default::default()
            };
            sites.iter().map(receipt).collect()
        };
        let mut record =
            InstanceRecord { receipts: receipts(&[("h1", 1), ("h2", 2), ("h1", 3)]), ..Default::default() };
        record.drop_refused("h1", 3, true);
        assert_eq!(record.receipts, receipts(&[("h1", 1), ("h2", 2)]));
        record.drop_refused("h2", 2, true);
        let found: Vec<bool> = record.receipts.iter().map(|receipt| receipt.found).collect();
        assert_eq!(found, [false, true], "it is the only one at h2, where something was found");
    }

    #[test]
    fn what_is_of_a_later_attempt_than_its_receipt_stays() {
        let receipt = |host: &str, attempt| Receipt { host: host.into(), attempt, ..Default::default() };
        let mut instance = pb::Instance { host: "h2".into(), attempt: 2, ..Default::default() };
        instance.set_state(pb::instance::State::Active);
        let receipts = vec![receipt("h1", 1), receipt("h2", 2)];
        let mut record = InstanceRecord { instance: Some(instance), receipts, ..Default::default() };
        record.note_later(&receipt("h1", 1), 3);
        let later = Receipt { found: true, ..receipt("h1", 3) };
        assert_eq!(record.receipts, [later.clone(), receipt("h2", 2)]);
        assert!(record.is_to_stay(&later));
        record.receipts.push(receipt("h1", 1));
        record.note_later(&receipt("h1", 1), 3);
        assert_eq!(record.receipts, [later, receipt("h2", 2)], "that is known");
    }

    #[test]
    fn what_was_found_is_not_to_be_removed_while_the_instance_is_wanted() {
        let mut instance = pb::Instance { host: "h1".into(), attempt: 1, ..Default::default() };
        instance.set_state(pb::instance::State::Active);
        let receipts = vec![Receipt { host: "h1".into(), attempt: 1, ..Default::default() }];
        let mut record = InstanceRecord { instance: Some(instance), receipts, ..Default::default() };
        let now = SystemTime::UNIX_EPOCH;
        assert!(!record.note_found("h1", now), "that is known");
        assert!(record.note_found("h2", now) && !record.note_found("h2", now), "once");
        assert_eq!(moves::may_run_at(&record), ["h2"]);
        let desired = |record: &InstanceRecord, host: &str| {
            record.seen_by(host, String::new()).map(|instance| instance.desired())
        };
        let (wanted, absent) = (Desired::Unspecified, Desired::Absent);
        assert_eq!([desired(&record, "h1"), desired(&record, "h2")], [Some(wanted), None]);
        record.receipts[1].found = false;
        assert_eq!(desired(&record, "h2"), Some(absent), "left over of an attempt");
        record.receipts[1].found = true;
        record.set_absent(now, now);
        assert_eq!(desired(&record, "h2"), Some(absent), "with the instance it goes");
    }
}
