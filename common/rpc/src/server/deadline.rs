//! Deadlines as they arrive: `grpc-timeout` in the request's headers.

use std::time::Duration;

use http::HeaderMap;
use kilonova_model::{Error, Reason};
use tokio::time::Instant;

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
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    parse(text).map(Some).ok_or_else(|| {
        Error::new(Reason::ValidationFailed, "the grpc-timeout header is not up to 8 digits and a unit")
            .with("grpc_timeout", text)
    })
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_refuses_the_rest() {
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("0n"), Some(Duration::ZERO));
        for bad in ["", "S", "10", "123456789S", "-1S", "+1S", "1 S", "1é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
