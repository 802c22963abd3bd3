//! Ids, names and counters, each its own type, so that one can never stand in for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An id or name that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What was being read, for example `instance id`.
    pub kind: &'static str,
    /// The text that was given, cut to 80 characters.
    pub value: String,
    /// What the text must look like.
    pub rule: &'static str,
}

impl InvalidId {
    fn new(kind: &'static str, value: &str, rule: &'static str) -> Self {
        Self { kind, value: value.chars().take(80).collect(), rule }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id: a UUIDv7, so that ids sort by the time they were made.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Reads the canonical text form.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                match Uuid::try_parse(text) {
                    Ok(uuid) if text.len() == 36 => Ok(Self(uuid)),
                    _ => Err(InvalidId::new($kind, text, "a UUID such as 0192d3a4-5b6c-7d8e-9f01-23456789abcd")),
                }
            }

            /// The bare UUID.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }
    };
}

uuid_id!(
    /// Names a store: which of all the stores a cell had.
    StoreId, "store id"
);
uuid_id!(
    /// Names one instance for ever.
    InstanceId, "instance id"
);
uuid_id!(
    /// Names one volume for ever.
    VolumeId, "volume id"
);
uuid_id!(
    /// Names one snapshot for ever.
    SnapshotId, "snapshot id"
);
uuid_id!(
    /// Names one server group for ever.
    ServerGroupId, "server group id"
);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks the form and takes the text.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new($kind, text, $rule))
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

/// One path segment of a key: letters, digits, `.`, `_`, `-`, `@`, starting with a letter or digit.
fn is_segment(text: &str, max: usize) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && text.len() <= max
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@'))
}

name!(
    /// The name under which one member of a service is known: a hypervisor, a storage backend
    /// (`host@backend` as in Cinder), or one conductor, scheduler or api process.
    HostName, "host name",
    "1 to 128 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 128)
);
name!(
    /// The tenant that owns resources and quota.
    ProjectId, "project id",
    "1 to 64 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 64)
);
name!(
    /// One independent Kilonova: nothing crosses from cell to cell.
    CellName, "cell name",
    "1 to 63 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 63)
);
name!(
    /// The id of an aggregate of compute hosts, chosen by the operator, for example `ssd`.
    AggregateId, "aggregate id",
    "1 to 64 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 64)
);
name!(
    /// A flavor's id, chosen by the operator, for example `m1.small`.
    FlavorId, "flavor id",
    "1 to 64 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 64)
);
name!(
    /// An image's id, chosen by the operator or a UUID.
    ImageId, "image id",
    "1 to 64 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 64)
);
name!(
    /// An availability zone.
    ZoneName, "availability zone",
    "1 to 63 letters, digits, '.', '_', '-' or '@', starting with a letter or digit",
    |text| is_segment(text, 63)
);
name!(
    /// What makes a mutation idempotent: the same id again gets the first answer again.
    RequestId, "request id",
    "1 to 64 letters, digits, '.', '_', '-' or '@', starting with a letter or digit; a UUID is the usual choice",
    |text| is_segment(text, 64)
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// One incarnation of one member of a service; a later incarnation has a greater one. 0 is none.
    Epoch, u64
);
counter!(
    /// Counts the changes of what is wanted of a resource.
    Generation, u64
);
counter!(
    /// A point in the store's history; every committed transaction has a greater one.
    Revision, u64
);
counter!(
    /// Counts the hosts or backends on which a build was tried, starting at 1. 0 is none yet.
    Attempt, u32
);

/// The five kinds of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// The public edge.
    Api,
    /// The owner of records.
    Conductor,
    /// The one that answers "where".
    Scheduler,
    /// The agent of one hypervisor.
    Compute,
    /// The agent of one storage backend.
    Volume,
}

impl ServiceKind {
    /// All five, in the order of their ports.
    pub const ALL: [Self; 5] = [Self::Api, Self::Conductor, Self::Scheduler, Self::Volume, Self::Compute];

    /// The name used in keys, metrics, flags and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Conductor => "conductor",
            Self::Scheduler => "scheduler",
            Self::Compute => "compute",
            Self::Volume => "volume",
        }
    }

    /// The port the service listens on unless told otherwise.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Api => 7770,
            Self::Conductor => 7771,
            Self::Scheduler => 7772,
            Self::Volume => 7773,
            Self::Compute => 7774,
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ServiceKind {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            InvalidId::new("service", text, "one of api, conductor, scheduler, volume, compute")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_are_time_ordered() {
        let ids: Vec<InstanceId> = (0..1000).map(|_| InstanceId::generate()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn ids_take_only_the_canonical_form() {
        let id = InstanceId::generate();
        assert_eq!(InstanceId::parse(&id.to_string()), Ok(id));
        assert!(InstanceId::parse(&id.uuid().simple().to_string()).is_err());
        assert!(InstanceId::parse("vm-1").unwrap_err().to_string().contains("instance id \"vm-1\""));
    }

    #[test]
    fn names_cannot_leave_their_key_segment() {
        for bad in ["", "a/b", "../x", "-a", "a b", "ü"] {
            assert!(HostName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(HostName::parse("node1@lvm").is_ok());
        assert!(HostName::parse(&"h".repeat(129)).is_err());
    }

    #[test]
    fn service_kinds_read_back() {
        for kind in ServiceKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("nova".parse::<ServiceKind>().is_err());
    }
}
