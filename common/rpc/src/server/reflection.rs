//! Server reflection, v1 and v1alpha, over the pruned descriptors and those of what every server has.

use prost_types::FileDescriptorSet;
use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::{Builder, Error};

use super::gate::{Handler, handler};

pub(super) const V1: &str = "grpc.reflection.v1.ServerReflection";
pub(super) const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// The descriptors of the services that every server has.
pub(super) const BUILT_IN: [&[u8]; 3] =
    [tonic_health::pb::FILE_DESCRIPTOR_SET, v1::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET];

/// Both reflection services. Error details travel as `Any`, so tools need their types to show them.
pub(super) fn services(served: &FileDescriptorSet) -> Result<[(&'static str, Handler); 2], Error> {
    let configure = || {
        let described = Builder::configure()
            .register_file_descriptor_set(served.clone())
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false);
        BUILT_IN.into_iter().fold(described, Builder::register_encoded_file_descriptor_set)
    };
    Ok([(V1, handler(configure().build_v1()?)), (V1ALPHA, handler(configure().build_v1alpha()?))])
}
