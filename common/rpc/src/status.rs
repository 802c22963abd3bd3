//! Our [`Error`] on the wire and back: a gRPC status with `ErrorInfo`, `BadRequest` and `RetryInfo` as details.

use std::collections::HashMap;
use std::sync::Arc;

use kilonova_model::error::DOMAIN;
use kilonova_model::{Code, Error, FieldViolation, Reason};
use tonic_types::{ErrorDetails, StatusExt};

/// Violations one status names, and the bytes of each of their texts and of the message with them: together they
/// stay under 8 KiB.
const MOST_VIOLATIONS: usize = 20;
const LONGEST_TEXT: usize = 128;
const LONGEST_MESSAGE: usize = 1 << 10;

/// The gRPC code for one of ours.
#[must_use]
pub fn to_code(code: Code) -> tonic::Code {
    match code {
        Code::InvalidArgument => tonic::Code::InvalidArgument,
        Code::NotFound => tonic::Code::NotFound,
        Code::AlreadyExists => tonic::Code::AlreadyExists,
        Code::FailedPrecondition => tonic::Code::FailedPrecondition,
        Code::Aborted => tonic::Code::Aborted,
        Code::PermissionDenied => tonic::Code::PermissionDenied,
        Code::ResourceExhausted => tonic::Code::ResourceExhausted,
        Code::OutOfRange => tonic::Code::OutOfRange,
        Code::Unimplemented => tonic::Code::Unimplemented,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        Code::Unknown => tonic::Code::Unknown,
        Code::Internal => tonic::Code::Internal,
    }
}

/// The status that carries `error` to a caller.
#[must_use]
pub fn to_status(error: &Error) -> tonic::Status {
    let metadata: HashMap<String, String> =
        error.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(error.reason.as_str(), DOMAIN, metadata);
    for violation in bounded(&error.violations) {
        details.add_bad_request_violation(violation.field, violation.description);
    }
    if error.retry_after.is_some() {
        details.set_retry_info(error.retry_after);
    }
    let longest = if error.violations.is_empty() { usize::MAX } else { LONGEST_MESSAGE };
    let message = clipped(&error.message, longest);
    tonic::Status::with_error_details(to_code(error.reason.code()), message, details)
}

/// The first violations, and how many more there are: details travel in a header, and peers bound its size.
fn bounded(violations: &[FieldViolation]) -> Vec<FieldViolation> {
    let mut sent: Vec<_> = violations
        .iter()
        .take(MOST_VIOLATIONS)
        .map(|violation| FieldViolation {
            field: clipped(&violation.field, LONGEST_TEXT),
            description: clipped(&violation.description, LONGEST_TEXT),
        })
        .collect();
    let more = violations.len() - sent.len();
    if more > 0 {
        sent.push(FieldViolation { field: String::new(), description: format!("and {more} more") });
    }
    sent
}

fn clipped(text: &str, longest: usize) -> String {
    match text.len() > longest {
        true => format!("{}...", &text[..text.floor_char_boundary(longest)]),
        false => text.to_owned(),
    }
}

/// The error a status carries, if it is one of ours and its reason is known here.
#[must_use]
pub fn from_status(status: &tonic::Status) -> Option<Error> {
    let details = status.check_error_details().ok()?;
    let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
    let mut error = Error::new(info.reason.parse().ok()?, status.message());
    error.metadata = info.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(bad_request) = details.bad_request() {
        error.violations = bad_request
            .field_violations
            .iter()
            .map(|violation| FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            })
            .collect();
    }
    error.retry_after = details.retry_info().and_then(|info| info.retry_delay);
    Some(error)
}

/// The reason a status carries, if it is one of ours and known here.
#[must_use]
pub fn reason_of(status: &tonic::Status) -> Option<Reason> {
    if status.details().is_empty() {
        return None;
    }
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.reason.parse().ok()
}

/// Marks a status as made here for a call that never left this process. Being the status's source and not one
/// of its details, it cannot come from a peer.
#[derive(Debug, thiserror::Error)]
#[error("the call did not leave this process")]
struct NeverSent;

/// Like [`to_status`], for a call that never left this process.
pub(crate) fn never_sent(error: &Error) -> tonic::Status {
    let mut status = to_status(error);
    status.set_source(Arc::new(NeverSent));
    status
}

/// Whether [`never_sent`] made this status.
pub(crate) fn is_never_sent(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some_and(|source| source.is::<NeverSent>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_error_survives_the_wire() {
        let violation =
            FieldViolation { field: "instance.name".into(), description: "is longer than 255 bytes".into() };
        let error =
            Error::invalid(vec![violation]).with("limit", 255).retry_after(Duration::from_millis(1500));
        let status = to_status(&error);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let headers = {
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            headers
        };
        let received = tonic::Status::from_header_map(&headers).unwrap();
        assert_eq!(from_status(&received), Some(error));
    }

    #[test]
    fn many_and_long_violations_still_fit_in_a_header() {
        let long = || FieldViolation { field: "ü".repeat(500), description: "é".repeat(500) };
        let status = to_status(&Error::invalid((0..100).map(|_| long()).collect()));
        assert!(status.details().len() < 8 << 10, "{}", status.details().len());
        let violations = from_status(&status).unwrap().violations;
        assert_eq!((violations.len(), violations[20].description.as_str()), (21, "and 80 more"));
        let exact: Vec<_> = (0..20).map(|_| long()).collect();
        assert_eq!(from_status(&to_status(&Error::invalid(exact))).unwrap().violations.len(), 20);
    }

    #[test]
    fn every_reason_keeps_its_code() {
        for &reason in Reason::ALL {
            let status = to_status(&Error::new(reason, "x"));
            assert_eq!(reason_of(&status), Some(reason));
            assert_eq!(status.code(), to_code(reason.code()));
        }
    }

    #[test]
    fn foreign_and_broken_details_are_nobodys_error() {
        let mut details = ErrorDetails::new();
        details.set_error_info("NO_ENDPOINT", "example.org", HashMap::new());
        let foreign = tonic::Status::with_error_details(tonic::Code::Unavailable, "x", details);
        let broken = tonic::Status::with_details(tonic::Code::Internal, "x", vec![0xff, 0xff, 0xff].into());
        for status in [foreign, broken, tonic::Status::internal("x")] {
            assert_eq!(from_status(&status), None);
            assert_eq!(reason_of(&status), None);
        }
    }

    #[test]
    fn the_never_sent_mark_does_not_cross_the_wire() {
        let status = never_sent(&Error::new(Reason::DeadlineExceeded, "over"));
        assert!(is_never_sent(&status));
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        assert!(!is_never_sent(&tonic::Status::from_header_map(&headers).unwrap()));
    }
}
