//! Deadlines as they arrive: `grpc-timeout` in the request's headers.

use std::time::Duration;

use http::HeaderMap;
use kilonova_model::{Error, Reason};
use tokio::time::Instant;

use crate::wire::timeout::{self, GRPC_TIMEOUT};

/// The moment after which nobody waits for the answer. In the extensions of every request that came with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The deadline of a request that has one.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// How much time is left.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

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
