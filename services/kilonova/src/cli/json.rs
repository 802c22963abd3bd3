//! Messages in the protobuf JSON mapping, with the field names of the contracts and 64-bit integers as strings.
//!
//! The mapping is made from the descriptors the contracts were compiled from, so it cannot drift from them.

use std::sync::LazyLock;

use kilonova_proto::{api, types};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde::{Serialize, Serializer};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(kilonova_proto::FILE_DESCRIPTOR_SET).expect("the contracts were compiled into it")
});

/// A message that can be shown as JSON.
pub trait Named: Message {
    /// Its full protobuf name.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ty => $name:literal;)*) => {
        $(impl Named for $message { const NAME: &'static str = $name; })*
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name,)*];
    };
}

named! {
    types::v1::Audit => "kilonova.types.v1.Audit";
    types::v1::Action => "kilonova.types.v1.Action";
    types::v1::Aggregate => "kilonova.types.v1.Aggregate";
    types::v1::Flavor => "kilonova.types.v1.Flavor";
    types::v1::Host => "kilonova.types.v1.Host";
    types::v1::Image => "kilonova.types.v1.Image";
    types::v1::Instance => "kilonova.types.v1.Instance";
    types::v1::PlacementDecision => "kilonova.types.v1.PlacementDecision";
    types::v1::Quota => "kilonova.types.v1.Quota";
    types::v1::ServerGroup => "kilonova.types.v1.ServerGroup";
    types::v1::Store => "kilonova.types.v1.Store";
    types::v1::ServiceMember => "kilonova.types.v1.ServiceMember";
    types::v1::Snapshot => "kilonova.types.v1.Snapshot";
    types::v1::Volume => "kilonova.types.v1.Volume";
    types::v1::Zone => "kilonova.types.v1.Zone";
    api::v1::EvaluateInstancePlacementResponse => "kilonova.api.v1.EvaluateInstancePlacementResponse";
    api::v1::EvaluateVolumePlacementResponse => "kilonova.api.v1.EvaluateVolumePlacementResponse";
    api::v1::WatchInstancesResponse => "kilonova.api.v1.WatchInstancesResponse";
}

/// Shows a message as JSON wherever serde is spoken.
#[derive(Debug)]
pub struct Json<'a, M>(pub &'a M);

impl<M: Named> Serialize for Json<'_, M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let descriptor = POOL.get_message_by_name(M::NAME).expect("named after the contracts");
        let message = DynamicMessage::decode(descriptor, self.0.encode_to_vec().as_slice())
            .expect("encoded by the same contracts");
        message.serialize_with_options(serializer, &SerializeOptions::new().use_proto_field_name(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_name_is_in_the_contracts() {
        for name in NAMES {
            assert!(POOL.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_mapping_is_protobuf_s_own() {
        let instance = types::v1::Instance {
            id: "i-1".into(),
            state: types::v1::instance::State::Active.into(),
            generation: 1 << 60,
            attempt: 2,
            create_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_value(Json(&instance)).unwrap(),
            json!({
                "id": "i-1",
                "state": "STATE_ACTIVE",
                "attempt": 2,
                "create_time": "2023-11-14T22:13:20Z",
                "generation": "1152921504606846976",
            })
        );
    }
}
