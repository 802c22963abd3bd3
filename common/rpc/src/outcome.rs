//! What a failed call means to its caller: certainly not done, perhaps done, or refused.

use kilonova_model::{Error, Reason};
use tonic::{Code, Status};

use crate::status::{from_status, is_never_sent, reason_of};

/// A failed call, by what its caller may do next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// It was not executed: trying again, also elsewhere, is safe.
    #[error("not executed: {}", .0.message())]
    NotExecuted(Status),
    /// It may have been executed: ask before doing anything that must not happen twice.
    #[error("perhaps executed: {}", .0.message())]
    MaybeExecuted(Status),
    /// The callee decided against it: the same call again gets the same answer.
    #[error("refused: {}", .0.message())]
    Refused(Status),
}

impl CallError {
    /// The status behind it.
    #[must_use]
    pub fn status(&self) -> &Status {
        match self {
            Self::NotExecuted(status) | Self::MaybeExecuted(status) | Self::Refused(status) => status,
        }
    }

    /// The status behind it, taken.
    #[must_use]
    pub fn into_status(self) -> Status {
        match self {
            Self::NotExecuted(status) | Self::MaybeExecuted(status) | Self::Refused(status) => status,
        }
    }

    /// The reason the callee or this process gave.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        reason_of(self.status())
    }

    /// The error it carries, if it is one of ours.
    #[must_use]
    pub fn error(&self) -> Option<Error> {
        from_status(self.status())
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        classify(status)
    }
}

/// Sorts a status.
#[must_use]
pub fn classify(status: Status) -> CallError {
    if is_never_sent(&status) {
        return CallError::NotExecuted(status);
    }
    match status.code() {
        Code::ResourceExhausted if reason_of(&status) == Some(Reason::QuotaExceeded) => {
            CallError::Refused(status)
        }
        Code::ResourceExhausted => CallError::NotExecuted(status),
        Code::Unavailable if reason_of(&status).is_some() => CallError::NotExecuted(status),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Aborted => CallError::Refused(status),
        _ => CallError::MaybeExecuted(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{never_sent, to_status};

    fn kind(status: Status) -> &'static str {
        match classify(status) {
            CallError::NotExecuted(_) => "not",
            CallError::MaybeExecuted(_) => "maybe",
            CallError::Refused(_) => "refused",
        }
    }

    #[test]
    fn every_code_has_its_meaning() {
        let table = [
            (Code::Cancelled, "maybe"),
            (Code::Unknown, "maybe"),
            (Code::InvalidArgument, "refused"),
            (Code::DeadlineExceeded, "maybe"),
            (Code::NotFound, "refused"),
            (Code::AlreadyExists, "refused"),
            (Code::PermissionDenied, "refused"),
            (Code::ResourceExhausted, "not"),
            (Code::FailedPrecondition, "refused"),
            (Code::Aborted, "refused"),
            (Code::OutOfRange, "refused"),
            (Code::Unimplemented, "refused"),
            (Code::Internal, "maybe"),
            (Code::Unavailable, "maybe"),
            (Code::DataLoss, "maybe"),
            (Code::Unauthenticated, "refused"),
        ];
        for (code, expected) in table {
            assert_eq!(kind(Status::new(code, "x")), expected, "{code:?}");
        }
    }

    #[test]
    fn unavailable_means_not_executed_only_from_one_of_us() {
        assert_eq!(kind(to_status(&Error::new(Reason::NotReady, "x"))), "not");
        assert_eq!(kind(to_status(&Error::new(Reason::NoEndpoint, "x"))), "not");
        assert_eq!(kind(to_status(&Error::new(Reason::ConnectionLost, "x"))), "maybe");
    }

    #[test]
    fn a_quota_is_a_refusal_and_overload_is_not() {
        assert_eq!(kind(to_status(&Error::new(Reason::QuotaExceeded, "x"))), "refused");
        assert_eq!(kind(to_status(&Error::new(Reason::Overloaded, "x"))), "not");
    }

    #[test]
    fn a_deadline_that_was_over_before_the_call_is_not_executed() {
        let over = Error::new(Reason::DeadlineExceeded, "x");
        assert_eq!(kind(never_sent(&over)), "not");
        assert_eq!(kind(to_status(&over)), "maybe");
    }
}
