//! The generated contracts: messages, clients and servers of every `kilonova.*.v1` package, and the descriptor set
//! that reflection serves. The documentation lives in `proto/`.

#![allow(missing_docs, clippy::all, rustdoc::all, reason = "generated code")]

pub mod codec;

macro_rules! package {
    ($name:ident) => {
        pub mod $name {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/kilonova.", stringify!($name), ".v1.rs"));
            }
        }
    };
}

package!(api);
package!(base);
package!(capability);
package!(compute);
package!(conductor);
package!(scheduler);
package!(types);
package!(volume);

/// Every contract with its comments, and what they import: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kilonova_descriptor.bin"));

/// The gRPC service config of every service (`proto/service_config.json`): the longest a call of each method may
/// take, and which methods may be tried again. Clients in other languages load the same file.
pub const SERVICE_CONFIG: &str = include_str!("../../../proto/service_config.json");
