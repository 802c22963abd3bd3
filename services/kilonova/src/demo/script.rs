//! The requests of the demo: read from `demo.json`, where they stand as grpcurl would send them, and sent.

use kilonova_proto::FILE_DESCRIPTOR_SET;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::Client;
use crate::failure::Failure;

/// Everything that is sent, by chapter.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// What a user would ask for.
    pub create: Vec<Call>,
    /// Something for which there is no room.
    pub misfit: Vec<Call>,
}

/// One call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// `package.Service/Method`.
    pub method: String,
    /// The request in the protobuf JSON mapping.
    pub request: Value,
}

/// What calls made.
#[derive(Debug, Default)]
pub struct Made {
    /// Ids of instances, in order.
    pub instances: Vec<String>,
    /// Ids of volumes, in order.
    pub volumes: Vec<String>,
}

impl Script {
    /// Reads the script this binary was built with.
    pub fn read() -> Self {
        serde_json::from_str(include_str!("demo.json")).expect("tried by a test")
    }
}

/// Sends calls one after the other, as a user of the public api.
pub async fn send(client: &Client, calls: &[Call]) -> Result<Made, Failure> {
    let mut made = Made::default();
    for call in calls {
        match call.method.as_str() {
            "kilonova.api.v1.InstanceService/CreateInstance" => {
                let (request, mut instances) = (call.message()?, client.instances());
                let answer = client
                    .call(request, None, async |request| instances.create_instance(request).await)
                    .await?;
                made.instances.extend(answer.instances.into_iter().map(|instance| instance.id));
            }
            "kilonova.api.v1.VolumeService/CreateVolume" => {
                let (request, mut volumes) = (call.message()?, client.volumes());
                let answer =
                    client.call(request, None, async |request| volumes.create_volume(request).await).await?;
                made.volumes.extend(answer.volume.map(|volume| volume.id));
            }
            "kilonova.api.v1.FlavorService/CreateFlavor" => {
                let (request, mut flavors) = (call.message()?, client.flavors());
                client.call(request, None, async |request| flavors.create_flavor(request).await).await?;
            }
            other => return Err(Failure::failed(format!("the demo does not know the method {other}"))),
        }
    }
    Ok(made)
}

impl Call {
    /// The request, as the type its method takes.
    fn message<M: prost::Message + Default>(&self) -> Result<M, Failure> {
        let bad =
            |why: &dyn std::fmt::Display| Failure::failed(format!("the request of {}: {why}", self.method));
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| bad(&error))?;
        let input = self.method.split_once('/').and_then(|(service, method)| {
            let service = pool.get_service_by_name(service)?;
            service.methods().find(|candidate| candidate.name() == method).map(|method| method.input())
        });
        let input = input.ok_or_else(|| bad(&"there is no such method"))?;
        let message = DynamicMessage::deserialize(input, &self.request).map_err(|error| bad(&error))?;
        message.transcode_to().map_err(|error| bad(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::api::v1::{CreateFlavorRequest, CreateInstanceRequest};

    #[test]
    fn asks_for_five_instances_and_two_volumes() {
        let script = Script::read();
        let mut instances = 0;
        let mut volumes = 0;
        for call in &script.create {
            if call.method.ends_with("CreateInstance") {
                instances += call.message::<CreateInstanceRequest>().unwrap().count.max(1);
            } else {
                call.message::<kilonova_proto::api::v1::CreateVolumeRequest>().unwrap();
                volumes += 1;
            }
        }
        assert_eq!((instances, volumes), (5, 2));
        script.misfit[0].message::<CreateFlavorRequest>().unwrap();
        script.misfit[1].message::<CreateInstanceRequest>().unwrap();
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let call = Call {
            method: "kilonova.api.v1.InstanceService/CreateInstance".into(),
            request: serde_json::json!({ "instanze": {} }),
        };
        let failure = call.message::<CreateInstanceRequest>().unwrap_err().to_string();
        assert!(failure.contains("instanze"), "{failure}");
    }
}
