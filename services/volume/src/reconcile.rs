//! What the conductor's record of a volume says to its backend.

use kilonova_model::{Attempt, Generation, HostName, VolumeId};
use kilonova_proto::types::v1::Volume;
use kilonova_proto::types::v1::volume::{Desired, State};
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::reconcile::{Record, Standing};

/// Reads a record; `None` if the volume does not belong on `host`.
pub fn record(host: &HostName, volume: &Volume) -> Option<Record<VolumeId>> {
    if volume.host != host.as_str() {
        return None;
    }
    let standing = match (volume.desired(), volume.state()) {
        (Desired::Absent, _) | (_, State::Deleted | State::Deleting) => Standing::Unwanted,
        (_, State::Creating) => Standing::Making,
        (_, State::Error) => Standing::Broken,
        _ => Standing::There,
    };
    let stamp = Stamp { generation: Generation(volume.generation), attempt: Attempt(volume.attempt) };
    Some(Record { id: VolumeId::parse(&volume.id).ok()?, stamp, standing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_is_due() {
        let host = HostName::parse("node1@fast").unwrap();
        let standing = |state: State, desired: Desired, on: &str| {
            let volume = Volume {
                id: VolumeId::generate().to_string(),
                state: state.into(),
                desired: desired.into(),
                host: on.into(),
                ..Volume::default()
            };
            record(&host, &volume).map(|record| record.standing)
        };
        assert_eq!(standing(State::Available, Desired::Present, "node1@slow"), None);
        assert_eq!(standing(State::Creating, Desired::Absent, "node1@fast"), Some(Standing::Unwanted));
        assert_eq!(standing(State::Creating, Desired::Present, "node1@fast"), Some(Standing::Making));
        assert_eq!(standing(State::InUse, Desired::Present, "node1@fast"), Some(Standing::There));
        assert_eq!(standing(State::Error, Desired::Present, "node1@fast"), Some(Standing::Broken));
    }
}
