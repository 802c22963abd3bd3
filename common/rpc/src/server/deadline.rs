//! Deadlines as they arrive, `grpc-timeout` in the request's headers, and what callers hear when they pass.

use std::time::Duration;

use http::HeaderMap;
use kilonova_model::{Error, Reason};

use crate::wire::timeout::{self, GRPC_TIMEOUT};

/// The time the caller allows, if it says so. Text that is no timeout is refused: a caller that meant to limit
/// the call would otherwise wait for ever.
pub(super) fn allowed(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    timeout::parse(value).map(Some).ok_or_else(|| {
        Error::new(Reason::ValidationFailed, "the grpc-timeout header is not up to 8 digits and a unit")
            .with("grpc_timeout", value.to_str().unwrap_or_default())
    })
}

/// What a caller hears whose time was over before the work began.
pub(super) fn expired() -> Error {
    Error::new(Reason::DeadlineExceeded, "the deadline had passed when the request arrived; nothing was done")
        .with("executed", "no")
}

/// What a caller hears whose time ended while its request ran.
pub(super) fn exceeded() -> Error {
    Error::new(Reason::DeadlineExceeded, "the deadline passed while the request ran; it may have been done")
        .with("executed", "maybe")
}
