//! What can go wrong, as callers see it: one table of reasons, each with the gRPC code it travels under.
//!
//! A [`Reason`] is the contract; texts may change, reasons do not. `docs/errors.md` says for each what the
//! caller should do. The rule that retries rest on: `UNAVAILABLE` means that nothing happened.

mod advice;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The `domain` of every `google.rpc.ErrorInfo` Kilonova sends.
pub const DOMAIN: &str = "kilonova";

/// The gRPC codes Kilonova answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong whatever the state of the system.
    InvalidArgument,
    /// What the request names does not exist.
    NotFound,
    /// What the request would create exists.
    AlreadyExists,
    /// The system is not in a state that allows the request.
    FailedPrecondition,
    /// Somebody else changed it first; read and try again.
    Aborted,
    /// The caller may not do this.
    PermissionDenied,
    /// A quota or a limit is used up.
    ResourceExhausted,
    /// A position in a stream or list is no longer there.
    OutOfRange,
    /// This version does not do that.
    Unimplemented,
    /// Not now, and certainly not done.
    Unavailable,
    /// The deadline passed; it may have been done.
    DeadlineExceeded,
    /// The answer was lost; it may have been done.
    Unknown,
    /// A defect in Kilonova; it may have been done.
    Internal,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal => $code:ident;)*) => {
        /// Why a request was refused or a resource failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The text that goes over the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim(),)* }
            }

            /// The gRPC code it travels under.
            #[must_use]
            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// One or more fields are wrong; `BadRequest` names them.
    ValidationFailed = "VALIDATION_FAILED" => InvalidArgument;
    /// The page token is not one this list gave out, or the filter changed between pages.
    PageTokenInvalid = "PAGE_TOKEN_INVALID" => InvalidArgument;
    /// The request id was used before for a different request.
    RequestIdReused = "REQUEST_ID_REUSED" => InvalidArgument;
    /// No such instance, or not in this project.
    InstanceNotFound = "INSTANCE_NOT_FOUND" => NotFound;
    /// No such volume, or not in this project.
    VolumeNotFound = "VOLUME_NOT_FOUND" => NotFound;
    /// No such snapshot, or not in this project.
    SnapshotNotFound = "SNAPSHOT_NOT_FOUND" => NotFound;
    /// No such flavor.
    FlavorNotFound = "FLAVOR_NOT_FOUND" => NotFound;
    /// No such image.
    ImageNotFound = "IMAGE_NOT_FOUND" => NotFound;
    /// No such server group, or not in this project.
    ServerGroupNotFound = "SERVER_GROUP_NOT_FOUND" => NotFound;
    /// No such aggregate.
    AggregateNotFound = "AGGREGATE_NOT_FOUND" => NotFound;
    /// No such host.
    HostNotFound = "HOST_NOT_FOUND" => NotFound;
    /// A resource of that id exists.
    ResourceExists = "RESOURCE_EXISTS" => AlreadyExists;
    /// A project's quota does not allow it.
    QuotaExceeded = "QUOTA_EXCEEDED" => ResourceExhausted;
    /// The resource is in a state that does not allow it.
    InvalidState = "INVALID_STATE" => FailedPrecondition;
    /// The `etag` is not the current one.
    EtagMismatch = "ETAG_MISMATCH" => Aborted;
    /// Others kept changing the same record; nothing was done.
    Conflict = "CONFLICT" => Aborted;
    /// No host passes the filters (stored with the instance).
    NoValidHost = "NO_VALID_HOST" => FailedPrecondition;
    /// No storage backend passes the filters (stored with the volume).
    NoValidBackend = "NO_VALID_BACKEND" => FailedPrecondition;
    /// The host or backend no longer has room for what it was asked to take.
    ClaimRefused = "CLAIM_REFUSED" => FailedPrecondition;
    /// The host or backend is still removing an earlier one of the same id, which holds its room.
    StillRemoving = "STILL_REMOVING" => FailedPrecondition;
    /// The host or backend has one of the same id that was made for another generation; it has to be removed first.
    OlderGenerationPresent = "OLDER_GENERATION_PRESENT" => FailedPrecondition;
    /// The host's administrator does not let it take new work.
    HostDisabled = "HOST_DISABLED" => FailedPrecondition;
    /// The driver failed to make the guest or the volume.
    DriverFailed = "DRIVER_FAILED" => Internal;
    /// The host did not finish the build in time.
    BuildTimeout = "BUILD_TIMEOUT" => DeadlineExceeded;
    /// The host did not do in time what was asked of what it holds.
    OperationTimeout = "OPERATION_TIMEOUT" => DeadlineExceeded;
    /// The host no longer has what was made there.
    BuildLost = "BUILD_LOST" => Internal;
    /// As many hosts failed or refused it as the configuration allows (`max_attempts`, `max_refusals`).
    MaxAttemptsExceeded = "MAX_ATTEMPTS_EXCEEDED" => FailedPrecondition;
    /// The command was addressed to another host.
    WrongHost = "WRONG_HOST" => FailedPrecondition;
    /// The command was addressed to another incarnation of this host.
    StaleEpoch = "STALE_EPOCH" => FailedPrecondition;
    /// A newer command for the same resource was seen.
    StaleGeneration = "STALE_GENERATION" => FailedPrecondition;
    /// An agent spoke for a host that is not its own.
    NotOwnHost = "NOT_OWN_HOST" => PermissionDenied;
    /// This version, or this installation, does not serve the method.
    MethodNotImplemented = "METHOD_NOT_IMPLEMENTED" => Unimplemented;
    /// The peer speaks a version this one does not.
    UnsupportedVersion = "UNSUPPORTED_VERSION" => Unimplemented;
    /// The resume token is from another incarnation or too old; start again without one.
    ResumeTokenExpired = "RESUME_TOKEN_EXPIRED" => OutOfRange;
    /// The watcher reads too slowly; reconnect with the last token.
    SlowConsumer = "SLOW_CONSUMER" => ResourceExhausted;
    /// The service has as much work as it takes at once.
    Overloaded = "OVERLOADED" => ResourceExhausted;
    /// The service is starting.
    NotReady = "NOT_READY" => Unavailable;
    /// The service is stopping.
    Draining = "DRAINING" => Unavailable;
    /// The store cannot be reached.
    StoreUnavailable = "STORE_UNAVAILABLE" => Unavailable;
    /// No member of the service is ready.
    NoEndpoint = "NO_ENDPOINT" => Unavailable;
    /// No such host is registered.
    NoSuchHost = "NO_SUCH_HOST" => Unavailable;
    /// The member could not be reached.
    ConnectFailed = "CONNECT_FAILED" => Unavailable;
    /// The deadline passed before or while the request ran.
    DeadlineExceeded = "DEADLINE_EXCEEDED" => DeadlineExceeded;
    /// The connection broke after the request was sent.
    ConnectionLost = "CONNECTION_LOST" => Unknown;
    /// The store did not say whether it committed.
    StoreOutcomeUnknown = "STORE_OUTCOME_UNKNOWN" => Unknown;
    /// A defect in Kilonova.
    Internal = "INTERNAL" => Internal;
}

impl Code {
    /// The code as gRPC writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::Unknown => "UNKNOWN",
            Self::Internal => "INTERNAL",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or(UnknownReason)
    }
}

/// A reason this version does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reason is not one this version knows")]
pub struct UnknownReason;

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request, as in `instance.name`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// An error as the caller will see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The stable part.
    pub reason: Reason,
    /// One sentence for a person.
    pub message: String,
    /// The figures and names in the message, for programs.
    pub metadata: BTreeMap<String, String>,
    /// Which fields are wrong, for [`Reason::ValidationFailed`].
    pub violations: Vec<FieldViolation>,
    /// When to try again, where that can be said.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error without figures.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
        }
    }

    /// Adds one figure or name.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The answer to a request with wrong fields. The message names the first.
    #[must_use]
    pub fn invalid(violations: Vec<FieldViolation>) -> Self {
        let message = match violations.as_slice() {
            [] => "the request is not valid".to_owned(),
            [one] => format!("{}: {}", one.field, one.description),
            [first, rest @ ..] => format!("{}: {} (and {} more)", first.field, first.description, rest.len()),
        };
        Self { violations, ..Self::new(Reason::ValidationFailed, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_back_and_fit_error_info() {
        for reason in Reason::ALL {
            let text = reason.as_str();
            assert_eq!(text.parse(), Ok(*reason));
            assert!(text.len() <= 63 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{text}");
        }
    }

    #[test]
    fn the_message_of_a_bad_request_names_the_first_field() {
        let violation = |field: &str| FieldViolation { field: field.into(), description: "is empty".into() };
        let error = Error::invalid(vec![violation("name"), violation("flavor")]);
        assert_eq!(error.to_string(), "name: is empty (and 1 more)");
    }
}
