//! Instances against what compute hosts have.
//!
//! | record                    | the host has         | then            |
//! |---------------------------|----------------------|-----------------|
//! | none, or gone             | a guest              | `GUEST_ORPHAN`  |
//! | elsewhere                 | a guest              | `GUEST_ORPHAN`, kept: nothing says which copy is the newer |
//! | none, gone, or elsewhere  | room held, no guest  | `CLAIM_ORPHAN`  |
//! | ERROR, there              | room held, no guest  | `CLAIM_ORPHAN`  |
//! | there                     | no guest             | `GUEST_MISSING` |
//! | ERROR, was lost there     | its guest            | `LOST_FOUND`    |
//! | ACTIVE, or STOPPED        | shut down, or runs   | `POWER_DRIFT`   |
//! | something under way       | anything             | passed over     |
//! | any                       | work that goes on    | passed over     |

use kilonova_model::{Attempt, Generation, InstanceId};
use kilonova_proto::compute::v1::Guest;
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::instance::{PowerState, State};
use kilonova_runtime::agent::ledger::Stamp;

use super::World;
use super::finding::{At, Finding, Heal};
use super::world::{Guests, Standing, is_settled, standing, was_lost};
use crate::cache::Entry;
use crate::placed::{Phase, Placed};

/// What does not agree of instances and guests.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let mut found = Vec::new();
    for (host, there) in &world.computes {
        for (id, guest) in there.guests.iter().filter(|(_, guest)| !guest.busy) {
            found.extend(of_guest(world, host, there, *id, guest));
        }
    }
    for (id, entry) in &world.instances {
        found.extend(missing(world, *id, entry));
    }
    found
}

fn of_guest(world: &World, host: &str, there: &Guests, id: InstanceId, guest: &Guest) -> Option<Finding> {
    let stamp = Stamp { generation: Generation(guest.generation), attempt: Attempt(guest.attempt) };
    let at = At { host: host.to_owned(), epoch: there.epoch, stamp };
    let entry = world.instances.get(&id);
    let project = entry.map_or("", |entry| entry.record.project_id());
    let finding = |kind, cause| Finding::new(kind, id, cause).of(project).on(host).resting_on(at.seen());
    let room = || {
        let Guest { vcpus, ram_mib, disk_gib, .. } = guest;
        format!("the host holds {vcpus} VCPUs, {ram_mib} MiB and {disk_gib} GiB for it and has no guest")
    };
    match standing(entry, host) {
        Standing::Unwanted(why) if guest.present => {
            let cause = format!("the host has a guest ({}), and {why}", power(guest.power_state()));
            if let Some(entry) = entry.filter(|entry| entry.record.is_wanted()) {
                let cause = match entry.record.status().host.as_str() {
                    "" => format!(
                        "{cause}: it may be the last copy, and is kept; a delete of the instance removes it"
                    ),
                    home => format!(
                        "{cause}: it may be the newer copy, and is kept; `kilonova instance reboot --hard --vouch {host}` goes on \
                         with the one on {home} and removes this"
                    ),
                };
                return Some(finding(Kind::GuestOrphan, cause));
            }
            Some(finding(Kind::GuestOrphan, cause).healed_by(Heal::Terminate(id, at.clone())))
        }
        Standing::Unwanted(why) if guest.claimed => {
            let cause = format!("{}, and {why}", room());
            Some(finding(Kind::ClaimOrphan, cause).healed_by(Heal::Terminate(id, at.clone())))
        }
        Standing::Belongs(entry)
            if guest.present
                && was_lost(entry.record.as_ref(), guest.attempt)
                && entry.record.resource().host == host =>
        {
            let cause = format!(
                "its record says that it was lost, and the host has its guest ({})",
                power(guest.power_state())
            );
            let finding = finding(Kind::LostFound, cause).resting_on([entry.revision.0]);
            Some(finding.healed_by(Heal::InstanceFound(id, entry.clone())))
        }
        Standing::Belongs(entry) if guest.present => {
            let cause = wrong_power(&entry.record, host, guest.power_state())?;
            Some(finding(Kind::PowerDrift, cause).resting_on([entry.revision.0]))
        }
        Standing::Belongs(entry) if guest.claimed && entry.record.status().phase == Phase::Failed => {
            let cause = format!("{}, and its record is in ERROR", room());
            Some(finding(Kind::ClaimOrphan, cause).healed_by(Heal::Terminate(id, at.clone())))
        }
        _ => None,
    }
}

/// How a guest's power is not as its record says.
fn wrong_power(record: &InstanceRecord, host: &str, power_state: PowerState) -> Option<String> {
    let instance = record.resource();
    let wrong = match instance.state() {
        State::Active => matches!(power_state, PowerState::Shutdown | PowerState::Crashed),
        State::Stopped => matches!(power_state, PowerState::Running | PowerState::Paused),
        _ => false,
    };
    let state = instance.state().as_str_name().trim_start_matches("STATE_");
    (wrong && instance.host == host)
        .then(|| format!("its record says {state}, and the guest is {}", power(power_state)))
}

fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::Unspecified => "power not known",
        state => state.as_str_name().trim_start_matches("POWER_STATE_"),
    }
}

/// An instance whose host answers and does not have it.
fn missing(world: &World, id: InstanceId, entry: &Entry<InstanceRecord>) -> Option<Finding> {
    let record = &entry.record;
    let instance = record.resource();
    let there = world.computes.get(&instance.host).filter(|_| is_settled(record.as_ref()))?;
    let guest = there.guests.get(&id);
    if guest.is_some_and(|guest| guest.present || guest.busy) {
        return None;
    }
    let state = instance.state().as_str_name().trim_start_matches("STATE_");
    let finding =
        Finding::new(Kind::GuestMissing, id, format!("its record says {state}, and the host has no guest"))
            .of(&instance.project_id)
            .on(&instance.host)
            .resting_on([entry.revision.0, there.epoch.0]);
    Some(finding.healed_by(Heal::InstanceLost(id, entry.clone())))
}

#[cfg(test)]
mod tests {
    use kilonova_proto::conductor::v1::Operation;
    use kilonova_proto::types::v1 as pb;
    use kilonova_proto::types::v1::instance::Desired;

    use super::super::fixtures::{HOST, entry, guest, instance, kinds, receipt, world};
    use super::*;

    /// What is found of one instance with this record, if any, and this guest, if any.
    fn found(record: Option<InstanceRecord>, guest: Option<Guest>) -> Vec<(Kind, bool)> {
        let (mut world, id) = (world(), InstanceId::generate());
        if let Some(record) = record {
            world.instances.insert(id, entry(record));
        }
        if let Some(guest) = guest {
            world.computes.get_mut(HOST).unwrap().guests.insert(id, guest);
        }
        kinds(&judge(&world))
    }

    fn record(state: State, host: &str) -> Option<InstanceRecord> {
        Some(instance(InstanceId::generate(), state, host))
    }

    fn running() -> Option<Guest> {
        Some(guest(InstanceId::generate()))
    }

    fn with(change: impl FnOnce(&mut Guest)) -> Option<Guest> {
        let mut guest = guest(InstanceId::generate());
        change(&mut guest);
        Some(guest)
    }

    #[test]
    fn what_agrees_is_not_found() {
        for state in [State::Active, State::Resized, State::Error] {
            assert_eq!(found(record(state, HOST), running()), []);
        }
        assert_eq!(found(record(State::Error, HOST), None), []);
        assert_eq!(found(record(State::Deleted, ""), None), []);
        assert_eq!(found(record(State::Active, "h2"), None), [], "h2 was not asked");
    }

    #[test]
    fn a_guest_that_no_record_wants_is_an_orphan() {
        let orphan = [(Kind::GuestOrphan, true)];
        assert_eq!(found(None, running()), orphan);
        assert_eq!(found(record(State::Deleted, ""), running()), orphan);
        let kept = [(Kind::GuestOrphan, false)];
        assert_eq!(found(record(State::Active, "h2"), running()), kept, "h2 was not asked");
        assert_eq!(found(record(State::Error, ""), running()), kept, "it may be the last copy");
    }

    #[test]
    fn what_a_conductor_is_still_to_do_is_left_to_it() {
        let mut left = record(State::Active, "h2");
        left.as_mut().unwrap().receipts.push(receipt(HOST));
        assert_eq!(found(left, running()), []);
        assert_eq!(found(record(State::Building, "h2"), running()), []);
        let mut moves = record(State::Active, "h2");
        moves.as_mut().unwrap().operations.push(Operation::default());
        assert_eq!(found(moves, running()), []);
        let mut goes = record(State::Active, HOST);
        goes.as_mut().unwrap().instance.as_mut().unwrap().set_desired(Desired::Absent);
        assert_eq!(found(goes, None), []);
        assert_eq!(found(None, with(|guest| guest.busy = true)), []);
    }

    #[test]
    fn an_instance_keeps_its_guest_where_it_came_from_until_that_is_confirmed() {
        let mut resized = record(State::Resized, "h2");
        let from = kilonova_proto::conductor::v1::Place { host: HOST.into(), ..Default::default() };
        resized.as_mut().unwrap().resized_from = Some(from);
        assert_eq!(found(resized, with(|guest| guest.set_power_state(PowerState::Shutdown))), []);
    }

    #[test]
    fn an_instance_without_its_guest_is_lost() {
        let lost = [(Kind::GuestMissing, true)];
        for state in [State::Active, State::Stopped, State::Resized] {
            assert_eq!(found(record(state, HOST), None), lost);
            assert_eq!(found(record(state, HOST), with(|guest| guest.present = false)), lost);
        }
        let being_made = with(|guest| (guest.present, guest.busy) = (false, true));
        assert_eq!(found(record(State::Active, HOST), being_made), []);
        assert_eq!(found(record(State::Building, HOST), None), []);
    }

    #[test]
    fn a_lost_instance_whose_guest_is_there_is_found() {
        let mut lost = record(State::Error, HOST).unwrap();
        let fault = pb::Fault { reason: "BUILD_LOST".into(), ..Default::default() };
        lost.instance.as_mut().unwrap().fault = Some(fault);
        assert_eq!(found(Some(lost.clone()), running()), [(Kind::LostFound, true)]);
        assert_eq!(found(Some(lost.clone()), None), []);
        assert_eq!(found(Some(lost.clone()), with(|guest| guest.attempt = 2)), [], "not what was lost");
        lost.set_found(std::time::SystemTime::UNIX_EPOCH);
        assert_eq!((lost.resource().state(), &lost.resource().fault), (State::Active, &None));
        assert_eq!(lost.receipts.len(), 1);
    }

    #[test]
    fn room_without_a_guest_is_given_back() {
        let claim = [(Kind::ClaimOrphan, true)];
        let room = || with(|guest| guest.present = false);
        assert_eq!(found(None, room()), claim);
        assert_eq!(found(record(State::Error, HOST), room()), claim);
        assert_eq!(found(record(State::Active, "h2"), room()), claim);
        assert_eq!(found(record(State::Building, HOST), room()), []);
    }

    #[test]
    fn power_is_only_told() {
        let drift = [(Kind::PowerDrift, false)];
        let off = || with(|guest| guest.set_power_state(PowerState::Shutdown));
        assert_eq!(found(record(State::Active, HOST), off()), drift);
        assert_eq!(found(record(State::Stopped, HOST), running()), drift);
        assert_eq!(found(record(State::Stopped, HOST), off()), []);
        assert_eq!(found(record(State::Active, HOST), with(|guest| guest.power_state = 0)), []);
    }
}
