//! No trap states: from whatever an instance, its volume and its hosts come to, some command of a user or an operator other than a
//! delete leads back to an instance that runs, or is shut down, where its host is there.
//!
//! A random walk of commands, steps and failures over the pure functions, with a host that does what the plan asks of it, fails, or
//! is not heard. Then all that is under way comes to its end, and the ways out are searched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use kilonova_model::{Epoch, Error, InstanceId, Reason, VolumeId};
use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation, Receipt, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::attachment::State as AttachmentState;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::volume::State as VolumeState;
use proptest::prelude::*;
use tokio::time::Instant;

use crate::attach;
use crate::engine::leave_host;
use crate::history;
use crate::moves::ask::{self, Asked};
use crate::moves::evacuate;
use crate::moves::{self, others};
use crate::placed::{Phase, Placed};
use crate::plan::{Decision, Leave, View, plan};
use crate::power;
use crate::reach::Standing;
use crate::requests::Acceptance;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const LONG: Duration = Duration::from_secs(3600);
/// The last is always there.
const HOSTS: [&str; 4] = ["h1", "h2", "h3", "h4"];
/// Most steps until all that is under way has ended.
const STEPS: usize = 60;
/// Most commands of a way out.
const COMMANDS: usize = 3;

/// What a host makes of what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Does,
    Fails,
    /// It does it, and is not heard.
    Unheard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Stop,
    Start,
    Reboot,
    /// An operator vouches for every other host that may run it.
    RebootVouching,
    Attach,
    Detach,
    Migrate,
    LiveMigrate,
    Confirm,
    Revert,
    Rebuild,
    Evacuate,
    /// An operator vouches for every other host that may run it.
    EvacuateVouching,
    Fence(usize),
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Asked(Command),
    Step(Answer),
    Leaves(usize),
    Returns(usize),
    GuestLost,
    /// A host has a copy that no attempt put there.
    Found(usize),
}

const COMMANDS_OF_USERS: [Command; 11] = [
    Command::Stop,
    Command::Start,
    Command::Reboot,
    Command::Attach,
    Command::Detach,
    Command::Migrate,
    Command::LiveMigrate,
    Command::Confirm,
    Command::Revert,
    Command::Rebuild,
    Command::Evacuate,
];

fn event() -> impl Strategy<Value = Event> {
    let answer = prop_oneof![4 => Just(Answer::Does), 1 => Just(Answer::Fails), 1 => Just(Answer::Unheard)];
    prop_oneof![
        4 => proptest::sample::select(&COMMANDS_OF_USERS[..]).prop_map(Event::Asked),
        1 => (0..3_usize).prop_map(|host| Event::Asked(Command::Fence(host))),
        12 => answer.prop_map(Event::Step),
        1 => (0..3_usize).prop_map(Event::Leaves),
        1 => (0..3_usize).prop_map(Event::Returns),
        1 => Just(Event::GuestLost),
        1 => (0..3_usize).prop_map(Event::Found),
    ]
}

#[derive(Debug, Clone)]
struct World {
    id: InstanceId,
    disk: VolumeId,
    record: InstanceRecord,
    volume: VolumeRecord,
    registered: BTreeSet<&'static str>,
    fenced: BTreeSet<&'static str>,
    /// The hosts with a copy of the guest.
    copies: BTreeSet<String>,
}

fn fault(reason: Reason, host: &str) -> pb::Fault {
    history::fault(&Error::new(reason, "x").with("host", host), host, 1, NOW)
}

impl World {
    /// On h1, with nothing attached.
    fn new() -> Self {
        let (id, disk) = (InstanceId::generate(), VolumeId::generate());
        let mut record = InstanceRecord::default();
        let instance = record.instance.get_or_insert_default();
        (instance.id, instance.generation) = (id.to_string(), 1);
        instance.set_desired(pb::instance::Desired::Running);
        instance.set_state(State::Building);
        record.set_place(&Alternate { host: "h1".into(), ..Default::default() }, NOW, NOW);
        record.set_ready(NOW, NOW);
        let mut volume = VolumeRecord::default();
        let resource = volume.volume.get_or_insert_default();
        resource.id = disk.to_string();
        resource.set_state(VolumeState::Available);
        let registered = HOSTS.into();
        let copies = ["h1".to_owned()].into();
        Self { id, disk, record, volume, registered, fenced: BTreeSet::new(), copies }
    }

    fn standing(&self, host: &str) -> Standing {
        match (self.registered.contains(host), self.fenced.contains(host)) {
            (true, _) => Standing::Registered,
            (false, true) => Standing::Fenced,
            (false, false) => Standing::Gone,
        }
    }

    /// Asks, as the transaction that accepts would judge it.
    fn ask(&mut self, command: Command) -> bool {
        let acceptance = Acceptance { conductor: "c1", arrived: NOW, request_id: "" };
        let mut record = self.record.clone();
        let there = |host: &str| self.registered.contains(host);
        let home = record.resource().host.clone();
        let back = record.resized_from.as_ref().map(|place| place.host.clone()).unwrap_or_default();
        let standing = |host: &str| self.standing(host);
        let others = moves::may_run_at(&record);
        let vouching = matches!(command, Command::RebootVouching | Command::EvacuateVouching);
        let vouched_hosts: &[String] = if vouching { &others } else { &[] };
        let power = |record: &mut InstanceRecord, kind: Kind| {
            let operation = Operation { kind: kind.into(), hard: kind == Kind::Reboot, ..Default::default() };
            let asked = power::begin(record, (operation, vouched_hosts), &standing, NOW, NOW);
            if asked.is_ok() {
                history::begin(&mut record.actions, kind, "", NOW);
            }
            asked.is_ok()
        };
        let ask = |record: &mut InstanceRecord, asked: Asked, there: bool| {
            there && ask::begin(record, &asked, &standing, NOW, NOW, acceptance).is_ok()
        };
        let migrate = |live| Asked::Migrate { live, target_host: String::new() };
        let taken = match command {
            Command::Stop => power(&mut record, Kind::Stop),
            Command::Start => power(&mut record, Kind::Start),
            Command::Reboot | Command::RebootVouching => power(&mut record, Kind::Reboot),
            Command::Migrate => ask(&mut record, migrate(false), there(&home)),
            Command::LiveMigrate => ask(&mut record, migrate(true), there(&home)),
            Command::Rebuild => ask(&mut record, Asked::Rebuild(pb::Image::default()), there(&home)),
            Command::Confirm => ask(&mut record, Asked::Confirm, there(&home)),
            Command::Revert => {
                ask(&mut record, Asked::Revert, there(&back) && self.standing(&home) != Standing::Gone)
            }
            Command::Evacuate | Command::EvacuateVouching => {
                let asked = evacuate::Asked { target_host: "", vouched_hosts };
                evacuate::begin(&mut record, asked, &standing, NOW, acceptance).is_ok()
            }
            Command::Attach | Command::Detach => {
                let kind = if command == Command::Attach { Kind::AttachVolume } else { Kind::DetachVolume };
                let what = attach::What { kind, volume: self.disk, timeout: LONG, standing: standing(&home) };
                match attach::begin(&record, &self.volume, what, NOW, acceptance) {
                    Ok((instance, volume)) => {
                        (record, self.volume) = (instance, volume);
                        true
                    }
                    Err(_) => false,
                }
            }
            Command::Fence(host) => {
                let host = HOSTS[host];
                return !self.registered.contains(host) && self.fenced.insert(host);
            }
        };
        if taken {
            self.record = record;
        }
        taken
    }

    fn decide(&self, late: bool) -> Decision {
        let now = Instant::now();
        let record = &self.record;
        let deadline = if late { now } else { now + LONG };
        plan(&View {
            status: &record.status(),
            receipts: record.receipts(),
            keeps: &record.keeps(),
            placing: record.is_placing(),
            building_at: record.building_at().as_ref(),
            acts_at: &record.acts_at(),
            clears: &record.clears(),
            clears_for: record.clears_for().as_deref(),
            moves: record.moves(),
            lets_go: record.lets_go(),
            starts: record.starts(),
            tried: record.tried().len(),
            refusals: record.refusals(),
            alternates: 0,
            operation: record.operation(),
            since: now,
            deadline,
            operation_deadline: deadline,
            kept: LONG,
            sent: &[],
            epoch_of: &|host| self.registered.contains(host).then_some(Epoch(1)),
            gone_for: &|_| LONG,
            is_fenced: &|host| self.standing(host) == Standing::Fenced,
            is_unreachable: &|_| true,
            now,
            max_attempts: 3,
            max_refusals: 20,
            only_place: false,
            settling: Duration::ZERO,
            resend: Duration::from_secs(10),
            leave_timeout: LONG,
            gone_after: Duration::from_secs(30),
        })
    }

    /// Takes one step; says whether there was one.
    fn step(&mut self, answer: Answer, late: bool) -> bool {
        let decision = self.decide(late);
        let record = &mut self.record;
        match decision {
            Decision::Wait(_) | Decision::Done | Decision::Purge => return false,
            Decision::Select | Decision::TakeAlternate => self.place(),
            Decision::GiveUp => self.fail(fault(Reason::MaxAttemptsExceeded, "")),
            Decision::LeaveHost(_) => {
                let host = record.building_at().unwrap_or_default().host;
                leave_host(record, fault(Reason::BuildTimeout, &host), NOW);
            }
            Decision::Build => self.build(answer),
            Decision::Operate => self.operate(answer),
            Decision::GiveUpOperation(why) => {
                let host = self.who(why);
                self.record.host_did_not(&fault(Reason::OperationTimeout, &host), NOW, NOW);
            }
            Decision::GoOn => {
                record.clears().iter().for_each(|host| record.give_up_at(host));
                record.cleared(NOW);
            }
            Decision::SkipHost => {
                record.give_up_at(&record.acts_at().host);
                record.host_did(NOW, NOW);
            }
            Decision::Conclude => self.conclude(),
            Decision::Terminate(receipt) => return self.terminate(&receipt, answer),
            Decision::Finish { .. } => unreachable!("nothing is deleted"),
        }
        true
    }

    /// As `Engine::kept_for` has it: not before the host that has to have it is heard to do so.
    fn terminate(&mut self, receipt: &Receipt, answer: Answer) -> bool {
        if let Some(keeper) = self.record.keeper(receipt).filter(|keeper| !self.copies.contains(keeper)) {
            let lacks = self.registered.contains(keeper.as_str());
            let is_cleared = lacks && self.record.clears().contains(&receipt.host);
            if is_cleared {
                self.record.host_did_not(&fault(Reason::InstanceNotFound, &keeper), NOW, NOW);
            }
            return is_cleared;
        }
        if answer == Answer::Does {
            self.copies.remove(&receipt.host);
            self.record.drop_receipt(&receipt.host, receipt.attempt);
        }
        true
    }

    /// The host for which an operation is given up.
    fn who(&self, why: Leave) -> String {
        let clears = self.record.clears();
        let needed = self.record.clears_for().filter(|_| why == Leave::NotRegistered && !clears.is_empty());
        let at_fault = |host: &String| why == Leave::Late || !self.registered.contains(host.as_str());
        needed.into_iter().chain(clears).find(at_fault).unwrap_or_else(|| self.record.acts_at().host)
    }

    fn place(&mut self) {
        let not = [self.record.tried().to_vec(), moves::leaves(&self.record)].concat();
        let host = self.registered.iter().find(|host| not.iter().all(|other| other != *host));
        match host {
            Some(host) => {
                self.record.set_place(&Alternate { host: (*host).to_owned(), ..Default::default() }, NOW, NOW)
            }
            None => self.fail(fault(Reason::NoValidHost, "")),
        }
    }

    fn fail(&mut self, fault: pb::Fault) {
        if self.record.status().phase == Phase::Ready {
            self.record.host_did_not(&fault, NOW, NOW);
        } else {
            self.record.set_failed(fault, NOW);
        }
    }

    fn build(&mut self, answer: Answer) {
        let site = self.record.building_at().unwrap_or_default();
        if answer != Answer::Fails {
            self.copies.insert(site.host.clone());
        }
        match answer {
            Answer::Does => self.record.set_ready(NOW, NOW),
            Answer::Fails => {
                self.record.drop_receipt(&site.host, site.attempt);
                leave_host(&mut self.record, fault(Reason::DriverFailed, &site.host), NOW);
            }
            Answer::Unheard => leave_host(&mut self.record, fault(Reason::BuildTimeout, &site.host), NOW),
        }
    }

    fn operate(&mut self, answer: Answer) {
        let host = self.record.acts_at().host;
        match answer {
            _ if !self.copies.contains(&host) => {
                self.record.host_did_not(&fault(Reason::InstanceNotFound, &host), NOW, NOW);
            }
            Answer::Does => self.record.host_did(NOW, NOW),
            Answer::Fails => self.record.host_did_not(&fault(Reason::DriverFailed, &host), NOW, NOW),
            Answer::Unheard => self.record.host_did_not(&fault(Reason::OperationTimeout, &host), NOW, NOW),
        }
    }

    /// As `Callers::conclude` has it stored in the same transaction.
    fn conclude(&mut self) {
        let Some(operation) = self.record.operation().cloned() else { return };
        let undone = operation.undo_cause.is_some();
        if attach::is_of(self.volume.resource(), self.id) {
            match operation.kind() {
                Kind::AttachVolume if undone => attach::release(&mut self.volume, NOW),
                Kind::DetachVolume if !undone => attach::release(&mut self.volume, NOW),
                Kind::AttachVolume | Kind::DetachVolume | Kind::Evacuate => {
                    attach::complete(&mut self.volume, NOW)
                }
                _ => {}
            }
        }
        self.record.conclude(NOW);
    }

    /// A host that registers again removes what does not belong there, before it is ready.
    fn returns(&mut self, host: &'static str) {
        self.fenced.remove(host);
        if !self.registered.insert(host) {
            return;
        }
        self.record.note_told(host);
        let seen = self.record.seen_by(host, String::new());
        if seen.is_some_and(|seen| seen.desired() == pb::instance::Desired::Absent) {
            self.copies.remove(host);
            self.record.drop_receipt(host, u32::MAX);
        }
    }

    /// A host that is there has a copy that the record does not know of.
    fn find(&mut self, host: &'static str) {
        if self.registered.contains(host) && self.record.note_found(host, NOW) {
            self.copies.insert(host.to_owned());
        }
    }

    /// The guest is no longer where its record has it.
    fn lose_guest(&mut self) {
        let status = self.record.status();
        if status.phase == Phase::Ready && self.copies.remove(&status.host) {
            self.record.drop_receipt(&status.host, status.attempt);
            self.record.set_failed(fault(Reason::BuildLost, &status.host), NOW);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Asked(command) => _ = self.ask(command),
            Event::Step(answer) => _ = self.step(answer, false),
            Event::Leaves(host) => _ = self.registered.remove(HOSTS[host]),
            Event::Returns(host) => self.returns(HOSTS[host]),
            Event::GuestLost => self.lose_guest(),
            Event::Found(host) => self.find(HOSTS[host]),
        }
    }

    /// All that is under way comes to its end, in time or late.
    fn settle(&mut self) {
        for _ in 0..STEPS {
            if !self.step(Answer::Does, false) && !self.step(Answer::Does, true) {
                return;
            }
        }
        panic!("it never comes to rest: {self:#?}");
    }

    /// It runs, or is shut down, on a host that is there, and its volume agrees.
    fn is_well(&self) -> bool {
        let instance = self.record.resource();
        let volume = self.volume.resource();
        let with = instance.attachments.iter().map(pb::Attachment::state).collect::<Vec<_>>();
        let agree = match volume.state() {
            VolumeState::Available => with.is_empty(),
            VolumeState::InUse => with == [AttachmentState::Attached],
            _ => false,
        };
        matches!(instance.state(), State::Active | State::Stopped)
            && instance.task() == Task::Unspecified
            && self.record.operations.is_empty()
            && self.registered.contains(instance.host.as_str())
            && self.copies.contains(&instance.host)
            && agree
    }

    /// Whether some host has a copy that ran, or was to run.
    fn has_a_copy(&self) -> bool {
        let is_copy = |receipt: &Receipt| !receipt.prepared && self.copies.contains(&receipt.host);
        self.record.receipts.iter().any(is_copy)
    }

    /// The commands that lead to an instance that is well.
    fn way_out(&self, most: usize) -> Option<Vec<Command>> {
        if self.is_well() {
            return Some(Vec::new());
        }
        if most == 0 {
            return None;
        }
        let fences = (0..3).filter(|host| others_or_home(self).contains(HOSTS[*host])).map(Command::Fence);
        let commands = [Command::Reboot, Command::Revert, Command::Confirm, Command::Evacuate].into_iter();
        for command in commands.chain(fences).chain([Command::RebootVouching, Command::EvacuateVouching]) {
            let mut then = self.clone();
            if !then.ask(command) {
                continue;
            }
            then.settle();
            if let Some(mut rest) = then.way_out(most - 1) {
                rest.insert(0, command);
                return Some(rest);
            }
        }
        None
    }
}

fn others_or_home(world: &World) -> BTreeSet<String> {
    let mut hosts: BTreeSet<String> = others(&world.record).into_iter().collect();
    hosts.insert(world.record.resource().host.clone());
    hosts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, ..ProptestConfig::default() })]

    #[test]
    fn from_every_state_some_command_leads_out(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            world.happen(*event);
        }
        world.settle();
        let open = world.record.actions.iter().filter(|one| one.outcome() == pb::Outcome::InProgress).count();
        prop_assert_eq!(open, world.record.operations.len(), "what ended is said to have ended");
        prop_assert!(world.way_out(COMMANDS).is_some(), "a trap: {:#?}", world);
    }

    /// Whatever happens to hosts, one copy of an instance that nobody gave up is left.
    #[test]
    fn the_last_copy_is_never_removed(events in proptest::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in events {
            if matches!(event, Event::Asked(Command::Evacuate)) {
                continue;
            }
            let was_there = world.has_a_copy();
            world.happen(event);
            let is_there = world.has_a_copy() || !was_there || matches!(event, Event::GuestLost);
            prop_assert!(is_there, "after {event:?}: {world:#?}");
        }
    }
}

#[test]
fn what_is_under_way_ends_in_each_order_of_two_failures() {
    let answers = [Answer::Does, Answer::Fails, Answer::Unheard];
    let mut ends = BTreeMap::<State, usize>::new();
    for command in COMMANDS_OF_USERS {
        for first in answers {
            for second in answers {
                let mut world = World::new();
                world.ask(command);
                world.step(first, false);
                world.step(second, false);
                world.settle();
                *ends.entry(world.record.resource().state()).or_default() += 1;
                assert!(world.way_out(COMMANDS).is_some(), "{command:?} {first:?} {second:?}: {world:#?}");
            }
        }
    }
    assert!(ends.len() > 2, "{ends:?}");
}
