//! The nouns of Kilonova: ids, resources, states, placement records and errors.
//!
//! Pure: no I/O, no clock, no async. [`convert`] is the one place where input from the wire is checked;
//! everything past it works on these types.

pub mod error;
pub mod ids;

pub use error::{Code, Error, FieldViolation, Reason};
pub use ids::{
    Attempt, CellName, Epoch, FlavorId, Generation, HostName, ImageId, InstanceId, InvalidId, ProjectId,
    RequestId, Revision, ServerGroupId, ServiceKind, SnapshotId, VolumeId, ZoneName,
};
