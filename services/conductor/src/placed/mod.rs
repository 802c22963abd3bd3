//! What instances and volumes have in common: something wanted, a place, attempts, receipts and a history.
//!
//! [`Placed`] lets one plan and one engine drive both.

pub mod generation;
mod instance;
mod snapshot;
mod volume;

pub use volume::rest;

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use kilonova_model::{InvalidId, Reason, ServerGroupId, ServiceKind};
use kilonova_proto::conductor::v1::{Alternate, Operation, Receipt};
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

/// A host, and the attempt that went there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// The host.
    pub host: String,
    /// The attempt.
    pub attempt: u32,
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
    /// Whether there is one place for it and no other, which is then waited for.
    fn has_only_place(&self) -> bool {
        false
    }
    /// Whether a place has to be found for it, and built at.
    fn is_placing(&self) -> bool {
        self.status().phase == Phase::Building
    }
    /// The number of the next attempt.
    fn next_attempt(&self) -> u32 {
        self.status().attempt + 1
    }
    /// Where it is being built; none while a place is looked for.
    fn building_at(&self) -> Option<Site> {
        let Status { host, attempt, .. } = self.status();
        (self.is_placing() && !host.is_empty()).then_some(Site { host, attempt })
    }
    /// What building it is called in its history.
    fn building(&self) -> &'static str {
        "build"
    }
    /// Where the host's part of the first operation is done.
    fn acts_at(&self) -> Site {
        let Status { host, attempt, .. } = self.status();
        Site { host, attempt }
    }
    /// Whether it is on its way to that place, where what was made ready for it is.
    fn is_going_to(&self, _: &Site) -> bool {
        false
    }
    /// Whether it is evacuated from a host.
    fn is_rescued_from(&self, _: &str) -> bool {
        false
    }
    /// The hosts that are to keep what they have of it.
    fn keeps(&self) -> Vec<String> {
        let host = self.status().host;
        if host.is_empty() { Vec::new() } else { vec![host] }
    }
    /// The hosts that have to say that nothing is left there, before the first operation goes on.
    fn clears(&self) -> Vec<String> {
        Vec::new()
    }
    /// The host whose copy is the one to go on with once those are cleared.
    fn clears_for(&self) -> Option<String> {
        None
    }
    /// Whether the first operation moves it between hosts.
    fn moves(&self) -> bool {
        false
    }
    /// Whether it was once where users could work with it.
    fn was_there(&self) -> bool {
        false
    }
    /// The host that has to have it before what another has of it is removed: it is to be there, and what the other has may have
    /// been what users worked with.
    fn keeper(&self, receipt: &Receipt) -> Option<String> {
        let Status { wanted, phase, host, .. } = self.status();
        let there = wanted == Wanted::Present && matches!(phase, Phase::Ready | Phase::Failed);
        let is_prepared = only_prepared(self.receipts(), &receipt.host);
        // In ERROR nothing runs where it is to be: even what was given up may be the last copy.
        let is_void = receipt.given_up && phase == Phase::Ready;
        if !there || !self.was_there() || is_prepared || is_void {
            return None;
        }
        let keeper = if self.clears().is_empty() { Some(host) } else { self.clears_for() };
        keeper.filter(|keeper| !keeper.is_empty() && *keeper != receipt.host)
    }
    /// Whether its host has only to stop running it, for the first operation.
    fn lets_go(&self) -> bool {
        false
    }
    /// Whether its host makes it run, for the first operation.
    fn starts(&self) -> bool {
        false
    }
    /// Notes that a host is told that it does not belong there; says whether that is to be stored first.
    fn note_told(&mut self, _host: &str) -> bool {
        false
    }
    /// Whether a host is to have something of it.
    fn belongs_on(&self, host: &str) -> bool {
        self.status().phase != Phase::Gone && self.keeps().iter().any(|kept| kept == host)
    }
    /// The record as a host sees it that it belongs on.
    fn seen_at(&self, _host: &str, etag: String) -> Self::Resource {
        self.shown(etag)
    }
    /// The record as a host sees it that is to remove what it may have of it.
    fn left_at(&self, receipt: &Receipt, etag: String) -> Self::Resource;
    /// The record as a host has to see it that compares it with what it has; none if nothing of it can be there, or what is there is to
    /// stay, for good or until the host that has to have it says that it does: then this one is told to remove it.
    fn seen_by(&self, host: &str, etag: String) -> Option<Self::Resource> {
        let there = || self.receipts().iter().filter(|receipt| receipt.host == host);
        if self.belongs_on(host) {
            return there().next().map(|_| self.seen_at(host, etag));
        }
        let left = there().filter(|receipt| !self.is_to_stay(receipt) && self.keeper(receipt).is_none());
        left.max_by_key(|receipt| receipt.attempt).map(|receipt| self.left_at(receipt, etag))
    }
    /// True if it is to be somewhere.
    fn is_wanted(&self) -> bool {
        let status = self.status();
        status.wanted == Wanted::Present && status.phase != Phase::Gone
    }
    /// Whether a host has something that no attempt put there, and that nobody asked to remove.
    fn is_to_stay(&self, receipt: &Receipt) -> bool {
        stays(receipt, self.status().wanted, &self.clears())
    }
    /// The cause of its failure, if it failed.
    fn fault(&self) -> Option<&pb::Fault>;
    /// The server group it is a member of.
    fn group(&self) -> Option<ServerGroupId> {
        None
    }
    /// What it takes of the project's quota.
    fn usage(&self) -> pb::QuotaUsage;

    /// Keeps why it goes where it goes.
    fn set_placement(&mut self, _: pb::PlacementDecision) {}
    /// The history.
    fn actions(&self) -> &[pb::Action];
    /// The history, to add to.
    fn actions_mut(&mut self) -> &mut Vec<pb::Action>;
    /// The hosts tried.
    fn tried(&self) -> &[String];
    /// Why the attempts so far came to nothing, oldest first.
    fn failed_attempts(&self) -> &[pb::Fault] {
        &[]
    }
    /// How many of them refused it and did nothing for it.
    fn refusals(&self) -> usize {
        0
    }
    /// The host that is being tried refuses it.
    fn count_refusal(&mut self) {}
    /// Where to try next.
    fn alternates_mut(&mut self) -> &mut Vec<Alternate>;
    /// How many places are left to try.
    fn alternates(&self) -> usize;
    /// Where something of it may be.
    fn receipts(&self) -> &[Receipt];
    /// What is being done with it now that it is there.
    fn operation(&self) -> Option<&Operation>;
    /// When the record may be removed.
    fn expiry(&self) -> Option<SystemTime>;

    /// Has its generation, and those of its operations, go on after one that a host has taken; says whether they were not.
    fn continue_after(&mut self, taken: u64) -> bool;
    /// It is accepted: present is wanted.
    fn set_counted(&mut self, counted: bool);
    /// A host is being looked for, on the next attempt.
    fn set_place(&mut self, place: &Alternate, deadline: SystemTime, now: SystemTime);
    /// The attempt at its present host came to nothing; it has no host now.
    fn set_attempt_failed(&mut self, fault: pb::Fault, now: SystemTime);
    /// It is there. What follows has until `until`.
    fn set_ready(&mut self, until: SystemTime, now: SystemTime);
    /// The host did its part of the operation. What follows has until `until`.
    fn host_did(&mut self, until: SystemTime, now: SystemTime);
    /// The host that had to be cleared is. What follows has until `until`.
    fn cleared(&mut self, _until: SystemTime) {}
    /// The host did not do its part and will not; what has to be done about that has until then.
    fn host_did_not(&mut self, fault: &pb::Fault, again_until: SystemTime, now: SystemTime);
    /// Whether the host's part of the first operation destroys or moves what is there, so that it is not to be done twice.
    fn is_done_once(&self) -> bool {
        false
    }
    /// Nobody can say whether the host did its part of the operation: it ends, and nothing is done about it.
    fn set_in_doubt(&mut self, fault: &pb::Fault, now: SystemTime) {
        self.host_did_not(fault, now, now);
    }
    /// All that had to be done elsewhere for the operation is done.
    fn conclude(&mut self, now: SystemTime);
    /// It failed for good.
    fn set_failed(&mut self, fault: pb::Fault, now: SystemTime);
    /// What was given up as lost is there.
    fn set_found(&mut self, now: SystemTime);
    /// The user wants it gone.
    fn set_absent(&mut self, deadline: SystemTime, now: SystemTime);
    /// It is gone.
    fn set_gone(&mut self, expiry: SystemTime, now: SystemTime);
    /// The host holds nothing of it any more, up to that attempt.
    fn drop_receipt(&mut self, host: &str, attempt: u32);
    /// The resource goes on without what a host has of it.
    fn give_up_at(&mut self, host: &str);
    /// A host has it that it is not known to be on, as after a store that was put back; says whether that is new.
    fn note_found(&mut self, host: &str, now: SystemTime) -> bool;
    /// What a host has is of that attempt, that receipt's or a later one, and of a later record than this.
    fn note_later(&mut self, receipt: &Receipt, attempt: u32);
    /// The host did nothing for that attempt, because of what it has of earlier ones: their receipts stay. Without any, this one
    /// does, for it is then the only one that says that something is there; what is there was `found`, unless it is being removed.
    fn drop_refused(&mut self, host: &str, attempt: u32, found: bool);
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
        fn operation(&self) -> Option<&Operation> {
            self.operations.first()
        }
        fn expiry(&self) -> Option<SystemTime> {
            self.expire_time.as_ref().and_then(system_time)
        }
        fn continue_after(&mut self, taken: u64) -> bool {
            let next = self.operations.first().map_or(self.resource().generation, |first| first.generation);
            let mut later = taken;
            $crate::placed::generation::grow(&mut later);
            let Some(ahead) = later.checked_sub(next).filter(|_| taken >= next) else { return false };
            *self.generation_mut() += ahead;
            self.operations.iter_mut().for_each(|operation| operation.generation += ahead);
            true
        }
        fn set_counted(&mut self, counted: bool) {
            self.counted = counted;
        }
        fn set_place(&mut self, place: &Alternate, deadline: SystemTime, now: SystemTime) {
            let prepared = self.status().phase == Phase::Ready;
            let attempt = self.put_at(place, now);
            self.tried_hosts.push(place.host.clone());
            self.receipts.push(Receipt {
                host: place.host.clone(),
                attempt,
                create_time: Some(timestamp(now)),
                prepared,
                ..Default::default()
            });
            self.deadline_time = Some(timestamp(deadline));
        }
        fn set_attempt_failed(&mut self, fault: pb::Fault, now: SystemTime) {
            self.deadline_time = None;
            self.leave(fault, now);
        }
        fn set_ready(&mut self, until: SystemTime, now: SystemTime) {
            self.deadline_time = None;
            self.alternates.clear();
            self.arrive(until, now);
        }
        fn set_failed(&mut self, fault: pb::Fault, now: SystemTime) {
            self.deadline_time = None;
            self.alternates.clear();
            self.cut_off(&fault, now);
            self.give_up(fault, now);
        }
        fn set_found(&mut self, now: SystemTime) {
            let Status { host, attempt, .. } = self.status();
            self.receipts.retain(|receipt| receipt.host != host || !receipt.found);
            if !self.receipts.iter().any(|receipt| receipt.host == host && receipt.attempt == attempt) {
                let create_time = Some(timestamp(now));
                self.receipts.push(Receipt { host, attempt, create_time, ..Default::default() });
            }
            self.come_back(now);
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
        fn give_up_at(&mut self, host: &str) {
            let there = self.receipts.iter_mut().filter(|receipt| receipt.host == host);
            there.for_each(|receipt| receipt.given_up = true);
        }
        fn note_later(&mut self, receipt: &Receipt, attempt: u32) {
            let is_it = |one: &Receipt| one.host == receipt.host && one.attempt == receipt.attempt;
            let is_known = |one: &Receipt| one.host == receipt.host && one.attempt >= attempt && !is_it(one);
            if self.receipts.iter().any(is_known) {
                return self.receipts.retain(|one| !is_it(one));
            }
            let left = self.receipts.iter_mut().filter(|one| is_it(one));
            left.for_each(|one| (one.attempt, one.found, one.prepared) = (attempt, true, false));
        }
        fn note_found(&mut self, host: &str, now: SystemTime) -> bool {
            let is_known = self.receipts.iter().any(|receipt| receipt.host == host);
            if is_known || !self.is_wanted() {
                return false;
            }
            let (host, create_time) = (host.to_owned(), Some(timestamp(now)));
            self.receipts.push(Receipt { host, create_time, found: true, ..Default::default() });
            true
        }
        fn drop_refused(&mut self, host: &str, attempt: u32, found: bool) {
            let refused = |receipt: &Receipt| receipt.host == host && receipt.attempt == attempt;
            if self.receipts.iter().any(|receipt| receipt.host == host && receipt.attempt != attempt) {
                self.receipts.retain(|receipt| !refused(receipt));
            }
            self.receipts
                .iter_mut()
                .filter(|receipt| refused(receipt))
                .for_each(|receipt| (receipt.found, receipt.prepared) = (found, receipt.prepared && !found));
        }
        fn project_id(&self) -> &str {
            &self.resource().project_id
        }
        fn fault(&self) -> Option<&pb::Fault> {
            self.resource().fault.as_ref()
        }
    };
}

use shared;

/// The parts of [`Placed`] that differ, one implementation a record type.
trait Own {
    fn generation_mut(&mut self) -> &mut u64;
    /// Its operations come to nothing: each ends, at once or in the step that settles what else it is about.
    fn cut_off(&mut self, _fault: &pb::Fault, _now: SystemTime) {}
    fn put_at(&mut self, place: &Alternate, now: SystemTime) -> u32;
    fn leave(&mut self, fault: pb::Fault, now: SystemTime);
    fn arrive(&mut self, until: SystemTime, now: SystemTime);
    fn give_up(&mut self, fault: pb::Fault, now: SystemTime);
    /// It is as it was before it was given up as lost.
    fn come_back(&mut self, now: SystemTime);
    fn unwant(&mut self, now: SystemTime);
    fn bury(&mut self, now: SystemTime);
}

/// True if a host has something that no attempt put there, of a resource that is wanted, and is not to clear it.
#[must_use]
pub fn stays(receipt: &Receipt, wanted: Wanted, clears: &[String]) -> bool {
    receipt.found && wanted == Wanted::Present && !clears.contains(&receipt.host)
}

/// Whether what a host has was never to run: whatever removes it removes what earlier attempts left there, too.
#[must_use]
pub fn only_prepared(receipts: &[Receipt], host: &str) -> bool {
    receipts.iter().filter(|receipt| receipt.host == host).all(|receipt| receipt.prepared)
}

/// How long until `at`; nothing when it is past.
#[must_use]
pub fn until(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default()
}
