//! What to do about what an earlier incarnation left: the conductor's records against the hypervisor's guests.
//!
//! | record says           | guest                | then                                                    |
//! |-----------------------|----------------------|---------------------------------------------------------|
//! | nothing, or elsewhere | is there             | nobody wants it: destroyed, reported gone               |
//! | to be absent          | is there, or not     | destroyed if there, reported gone                       |
//! | building              | of that generation   | the build had been done: reported ready                 |
//! | building              | is not there         | the build was lost: reported failed, BUILD_LOST         |
//! | anything else         | is there             | belongs here; nothing to do                             |
//! | anything else         | is not there         | said in the log: it is not this agent's to decide       |
//!
//! Commands may arrive meanwhile. They are newer than what was found, and the ledger lets them win.

use std::collections::BTreeMap;

use kilonova_model::{Attempt, Generation, HostName, InstanceId};
use kilonova_proto::types::v1::Instance;
use kilonova_proto::types::v1::instance::{Desired, State};
use kilonova_runtime::agent::ledger::Stamp;

/// What to do about one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Remove what there is of it and report it gone.
    Unwanted(InstanceId, Stamp),
    /// Report it ready.
    Ready(InstanceId, Stamp),
    /// Report its build lost.
    Lost(InstanceId, Stamp),
    /// A guest that should be there is not.
    Missing(InstanceId),
}

/// Decides about everything that is not as it should be. `guests` is what was found when the agent started, with the
/// command that made each.
pub fn plan(host: &HostName, records: &[Instance], guests: &BTreeMap<InstanceId, Stamp>) -> Vec<Verdict> {
    let mut unclaimed = guests.clone();
    let mut verdicts = Vec::new();
    for record in records {
        let Ok(id) = InstanceId::parse(&record.id) else { continue };
        if record.host == host.as_str() {
            verdicts.extend(verdict(id, record, unclaimed.remove(&id)));
        }
    }
    verdicts.extend(unclaimed.into_iter().map(|(id, stamp)| Verdict::Unwanted(id, stamp)));
    verdicts
}

fn verdict(id: InstanceId, record: &Instance, guest: Option<Stamp>) -> Option<Verdict> {
    let stamp = Stamp { generation: Generation(record.generation), attempt: Attempt(record.attempt) };
    if record.desired() == Desired::Absent || record.state() == State::Deleted {
        return Some(Verdict::Unwanted(id, stamp));
    }
    match (record.state(), guest) {
        (State::Building, Some(made)) => {
            (made.generation == stamp.generation).then_some(Verdict::Ready(id, stamp))
        }
        (State::Building, None) => Some(Verdict::Lost(id, stamp)),
        (State::Error, None) | (_, Some(_)) => None,
        (_, None) => Some(Verdict::Missing(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: u64, attempt: u32) -> Stamp {
        Stamp { generation: Generation(generation), attempt: Attempt(attempt) }
    }

    fn verdicts(record: Option<(State, Desired, &str)>, guest: Option<Stamp>) -> Vec<Verdict> {
        let id = InstanceId::parse("0192d3a4-5b6c-7d8e-9f01-23456789abcd").unwrap();
        let records = record.map(|(state, desired, host)| Instance {
            id: id.to_string(),
            state: state.into(),
            desired: desired.into(),
            host: host.into(),
            generation: 2,
            attempt: 3,
            ..Instance::default()
        });
        let guests = guest.map(|stamp| (id, stamp)).into_iter().collect();
        let host = HostName::parse("node1").unwrap();
        plan(&host, records.as_slice(), &guests)
    }

    fn id() -> InstanceId {
        InstanceId::parse("0192d3a4-5b6c-7d8e-9f01-23456789abcd").unwrap()
    }

    #[test]
    fn guests_nobody_wants_are_removed() {
        let unwanted = |stamp| vec![Verdict::Unwanted(id(), stamp)];
        assert_eq!(verdicts(None, Some(at(1, 1))), unwanted(at(1, 1)));
        let elsewhere = Some((State::Active, Desired::Running, "node2"));
        assert_eq!(verdicts(elsewhere, Some(at(1, 1))), unwanted(at(1, 1)));
        assert_eq!(verdicts(elsewhere, None), []);
        for guest in [None, Some(at(1, 1))] {
            let deleting = Some((State::Active, Desired::Absent, "node1"));
            assert_eq!(verdicts(deleting, guest), unwanted(at(2, 3)));
        }
    }

    #[test]
    fn a_build_is_ready_lost_or_somebody_elses() {
        let building = Some((State::Building, Desired::Running, "node1"));
        assert_eq!(verdicts(building, Some(at(2, 1))), [Verdict::Ready(id(), at(2, 3))]);
        assert_eq!(verdicts(building, Some(at(1, 1))), []);
        assert_eq!(verdicts(building, None), [Verdict::Lost(id(), at(2, 3))]);
    }

    #[test]
    fn what_belongs_here_stays() {
        for state in [State::Active, State::Stopped, State::Error] {
            let record = Some((state, Desired::Running, "node1"));
            assert_eq!(verdicts(record, Some(at(1, 1))), []);
        }
        let active = Some((State::Active, Desired::Running, "node1"));
        assert_eq!(verdicts(active, None), [Verdict::Missing(id())]);
        assert_eq!(verdicts(Some((State::Error, Desired::Running, "node1")), None), []);
    }
}
