//! The nouns of Kilonova: ids, resources, states, placement records and errors.
//!
//! Pure: no I/O, no clock, no async. [`check`] is the one place where input from the wire is checked: past it, ids
//! and names are types, and records stay the protobuf messages they are stored as.

pub mod aggregate;
pub mod check;
pub mod error;
pub mod ids;
pub mod numa;
pub mod numa_spec;
pub mod page;
pub mod pci;
pub mod time;
pub mod version;

pub use error::{Code, Error, FieldViolation, Reason};
pub use ids::{
    AggregateId, Attempt, CellName, Epoch, FlavorId, Generation, HostName, ImageId, InstanceId, InvalidId,
    ProjectId, RequestId, Revision, ServerGroupId, ServiceKind, SnapshotId, StoreId, VolumeId, ZoneName,
};
pub use version::Version;
