//! Server reflection, v1 and v1alpha, over the pruned descriptors and those of what every server has.

use prost_types::FileDescriptorSet;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::{Builder, Error};

use super::gate::{Handler, handler};
use super::health_list;

pub(super) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(super) const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The descriptors of the services that every server has.
pub(super) fn built_in() -> [Vec<u8>; 3] {
    [health_list::descriptors(), v1::FILE_DESCRIPTOR_SET.to_vec(), v1alpha::FILE_DESCRIPTOR_SET.to_vec()]
}

/// Both reflection services. Error details travel as `Any`, so tools need their types to show them.
pub(super) fn services(served: &FileDescriptorSet) -> Result<[(&'static str, Handler); 2], Error> {
    let built_in = built_in();
    let configure = || {
        let described = Builder::configure()
            .register_file_descriptor_set(served.clone())
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false);
        built_in.iter().fold(described, |builder, set| builder.register_encoded_file_descriptor_set(set))
    };
    Ok([(V1, handler(configure().build_v1()?)), (V1ALPHA, handler(configure().build_v1alpha()?))])
}
