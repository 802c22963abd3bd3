//! Instances against what compute hosts have.
//!
//! | record                    | the host has         | then            |
//! |---------------------------|----------------------|-----------------|
//! | none, gone, or elsewhere  | a guest              | `GUEST_ORPHAN`  |
//! | none, gone, or elsewhere  | room held, no guest  | `CLAIM_ORPHAN`  |
//! | ERROR, there              | room held, no guest  | `CLAIM_ORPHAN`  |
//! | there                     | no guest             | `GUEST_MISSING` |
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
use super::world::{Guests, Standing, is_settled, standing};
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
            Some(finding(Kind::GuestOrphan, cause).healed_by(Heal::Terminate(id, at.clone())))
        }
        Standing::Unwanted(why) if guest.claimed => {
            let cause = format!("{}, and {why}", room());
            Some(finding(Kind::ClaimOrphan, cause).healed_by(Heal::Terminate(id, at.clone())))
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
