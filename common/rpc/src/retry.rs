//! Trying an idempotent call again: few attempts, full jitter, only where it cannot do harm.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::backoff::{Backoff, BackoffPolicy};
use crate::outcome::{CallError, classify};

/// How often and for how long to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. At least 1.
    pub attempts: u32,
    /// The delays between them.
    pub backoff: BackoffPolicy,
    /// No attempt starts after this.
    pub deadline: Option<Instant>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3, backoff: BackoffPolicy::retry(), deadline: None }
    }
}

/// Makes an idempotent call until it succeeds, is refused, or the policy ends. Repeats what was not executed,
/// and what came back `UNAVAILABLE`; waits at least as long as the callee asked for.
pub async fn retry_idempotent<T, F, Fut>(policy: RetryPolicy, mut call: F) -> Result<T, CallError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let mut backoff = Backoff::new(policy.backoff);
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(status) => classify(status),
        };
        let delay = backoff.next_delay();
        match next_attempt(&error, backoff.failures(), delay, &policy, Instant::now()) {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Err(error),
        }
    }
}

/// How long to wait before the next attempt; `None` to give up.
fn next_attempt(
    error: &CallError,
    made: u32,
    delay: Duration,
    policy: &RetryPolicy,
    now: Instant,
) -> Option<Duration> {
    let harmless = match error {
        CallError::NotExecuted(_) => true,
        CallError::MaybeExecuted(status) => status.code() == Code::Unavailable,
        CallError::Refused(_) => false,
    };
    if !harmless || made >= policy.attempts {
        return None;
    }
    let asked = error.error().and_then(|error| error.retry_after).unwrap_or_default();
    let delay = delay.max(asked);
    let fits = policy.deadline.is_none_or(|deadline| now + delay < deadline);
    fits.then_some(delay)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use kilonova_model::{Error, Reason};

    use crate::status::to_status;

    async fn attempts_on(status: fn() -> Status, policy: RetryPolicy) -> u32 {
        let made = Cell::new(0);
        let result: Result<(), _> = retry_idempotent(policy, || {
            made.set(made.get() + 1);
            async { Err(status()) }
        })
        .await;
        assert!(result.is_err());
        made.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_harmless_is_repeated() {
        let policy = RetryPolicy::default();
        assert_eq!(attempts_on(|| to_status(&Error::new(Reason::NoEndpoint, "x")), policy).await, 3);
        assert_eq!(attempts_on(|| Status::unavailable("x"), policy).await, 3);
        assert_eq!(attempts_on(|| Status::resource_exhausted("x"), policy).await, 3);
        assert_eq!(attempts_on(|| Status::unknown("x"), policy).await, 1);
        assert_eq!(attempts_on(|| Status::deadline_exceeded("x"), policy).await, 1);
        assert_eq!(attempts_on(|| Status::aborted("x"), policy).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_beyond_the_deadline_is_not_waited_for() {
        let overloaded =
            || to_status(&Error::new(Reason::Overloaded, "x").retry_after(Duration::from_secs(5)));
        let start = Instant::now();
        let within = |seconds| RetryPolicy {
            deadline: Some(Instant::now() + Duration::from_secs(seconds)),
            ..RetryPolicy::default()
        };
        assert_eq!(attempts_on(overloaded, within(3)).await, 1);
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(attempts_on(overloaded, within(8)).await, 2);
        assert!(start.elapsed() >= Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_success_ends_it() {
        let left = Cell::new(2_u32);
        let value = retry_idempotent(RetryPolicy::default(), || {
            let failing = left.replace(left.get().saturating_sub(1)) > 0;
            async move { if failing { Err(Status::unavailable("x")) } else { Ok(7) } }
        })
        .await;
        assert_eq!(value.unwrap(), 7);
    }
}
