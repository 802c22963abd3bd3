//! What the conductor's record of an instance says to its host.

use kilonova_model::{Attempt, Generation, HostName, InstanceId};
use kilonova_proto::types::v1::Instance;
use kilonova_proto::types::v1::instance::{Desired, State};
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::reconcile::{Record, Standing};

/// Reads a record; `None` if the instance does not belong on `host`.
pub fn record(host: &HostName, instance: &Instance) -> Option<Record<InstanceId>> {
    if instance.host != host.as_str() {
        return None;
    }
    let standing = match (instance.desired(), instance.state()) {
        (Desired::Absent, _) | (_, State::Deleted) => Standing::Unwanted,
        (_, State::Building) => Standing::Making,
        (_, State::Error) => Standing::Broken,
        _ => Standing::There,
    };
    let stamp = Stamp { generation: Generation(instance.generation), attempt: Attempt(instance.attempt) };
    Some(Record { id: InstanceId::parse(&instance.id).ok()?, stamp, standing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_is_due() {
        let host = HostName::parse("node1").unwrap();
        let standing = |state: State, desired: Desired, on: &str| {
            let instance = Instance {
                id: InstanceId::generate().to_string(),
                state: state.into(),
                desired: desired.into(),
                host: on.into(),
                generation: 2,
                attempt: 3,
                ..Instance::default()
            };
            record(&host, &instance).map(|record| record.standing)
        };
        assert_eq!(standing(State::Active, Desired::Running, "node2"), None);
        assert_eq!(standing(State::Building, Desired::Absent, "node1"), Some(Standing::Unwanted));
        assert_eq!(standing(State::Building, Desired::Running, "node1"), Some(Standing::Making));
        assert_eq!(standing(State::Stopped, Desired::Stopped, "node1"), Some(Standing::There));
        assert_eq!(standing(State::Error, Desired::Running, "node1"), Some(Standing::Broken));
    }
}
