//! What an error of the etcd client means: not done, maybe done, or never to be done.
//!
//! Of a write only what etcd itself says before it proposes it is certain. It checks its quota before, and again when it
//! applies the transaction: then it answers "space exceeded" of what it has done. And tonic makes statuses with
//! etcd's codes of errors of HTTP/2, as RESOURCE_EXHAUSTED of ENHANCE_YOUR_CALM: so a code alone says nothing.

use std::error::Error as StdError;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use crate::StoreError;

/// What every message of etcd's own begins with.
const OF_ETCD: &str = "etcdserver: ";
const TOO_MANY: &str = "etcdserver: too many requests";
const NO_LEADER: &str = "etcdserver: no leader";
const OLD_REVISION: &str = "etcdserver: revision of auth store is old";
const INVALID_TOKEN: &str = "etcdserver: invalid auth token";

/// Whether a call changes anything, and so what a lost answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing to be done, so never done.
    Read,
    /// Doing it twice is as good as once.
    Repeatable,
    /// At most once.
    Write,
}

/// An error, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    LeaseGone,
    Denied(String),
    /// Certainly not done; the same call passes with a new token.
    TokenOld(String),
    /// The revision asked for is compacted, or not reached yet.
    NoSuchRevision,
    /// Certainly not done.
    NotDone(String),
    /// Perhaps done.
    MaybeDone(String),
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(status),
            Error::TransportError(cause) if never_connected(cause) => Self::NotDone(error.to_string()),
            Error::LeaseKeepAliveError(message) if message == "lease not found" => Self::LeaseGone,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
                Self::NotDone(error.to_string())
            }
            _ => Self::MaybeDone(error.to_string()),
        }
    }

    fn of_status(status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound if message.contains("requested lease not found") => Self::LeaseGone,
            Code::OutOfRange if message.contains("required revision") => Self::NoSuchRevision,
            // Users or roles were changed since the token was given: judged before anything is written.
            Code::InvalidArgument if message == OLD_REVISION => Self::TokenOld(message),
            Code::Unauthenticated if message == INVALID_TOKEN => Self::TokenOld(message),
            Code::PermissionDenied
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::FailedPrecondition
                if message.starts_with(OF_ETCD) =>
            {
                Self::Denied(message)
            }
            Code::ResourceExhausted if message == TOO_MANY => Self::NotDone(message),
            // A member says this before it passes a request on.
            Code::Unavailable if message == NO_LEADER => Self::NotDone(message),
            Code::Unavailable if never_connected(status) => Self::NotDone(message),
            _ => Self::MaybeDone(if message.is_empty() { status.code().to_string() } else { message }),
        }
    }

    /// Whether trying at once again, perhaps at another member, is safe and may help.
    pub(super) fn is_worth_repeating(&self, effect: Effect) -> bool {
        match self {
            Self::NotDone(_) | Self::TokenOld(_) => true,
            Self::MaybeDone(_) => effect != Effect::Write,
            Self::LeaseGone | Self::Denied(_) | Self::NoSuchRevision => false,
        }
    }

    pub(super) fn into_error(self, effect: Effect) -> StoreError {
        match self {
            Self::LeaseGone => StoreError::LeaseGone,
            Self::Denied(message) => StoreError::Denied { message },
            Self::NoSuchRevision => StoreError::unavailable("the revision is not kept"),
            Self::NotDone(message) | Self::TokenOld(message) => StoreError::unavailable(message),
            Self::MaybeDone(message) if effect == Effect::Read => StoreError::unavailable(message),
            Self::MaybeDone(message) => StoreError::unknown(message),
        }
    }
}

/// Whether the request never left this process.
fn never_connected(error: &(dyn StdError + 'static)) -> bool {
    error.is::<ConnectError>() || error.source().is_some_and(never_connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_may_have_been_done() {
        let of = |code, message: &str| Failure::of(&Error::GRpcStatus(Status::new(code, message)));
        let write = |code, message: &str| of(code, message).into_error(Effect::Write);
        assert_eq!(write(Code::NotFound, "etcdserver: requested lease not found"), StoreError::LeaseGone);
        assert!(matches!(
            write(Code::PermissionDenied, "etcdserver: permission denied"),
            StoreError::Denied { .. }
        ));
        let not_done = [
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
        ];
        for (code, message) in not_done {
            assert!(!write(code, message).maybe_executed(), "{message}");
            assert!(of(code, message).is_worth_repeating(Effect::Write), "{message}");
        }
        let maybe = [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "error reading a body from connection"),
            (Code::Unknown, "transport error"),
            (Code::Cancelled, "Timeout expired"),
            (Code::DeadlineExceeded, ""),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::ResourceExhausted, "h2 protocol error: enhance_your_calm"),
            (Code::PermissionDenied, "h2 protocol error: inadequate security"),
            (Code::FailedPrecondition, "said by whatever stands before etcd"),
        ];
        for (code, message) in maybe {
            assert!(write(code, message).maybe_executed(), "{message}");
            assert!(!of(code, message).is_worth_repeating(Effect::Write), "{message}");
            assert!(!of(code, message).into_error(Effect::Read).maybe_executed(), "{message}");
            assert!(of(code, message).is_worth_repeating(Effect::Read), "{message}");
        }
    }
}
