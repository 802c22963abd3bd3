//! Whether a failed call is made again: the one layer that decides it.
//!
//! Again only what cannot do harm: a call that was provably not executed, or an idempotent one that came back
//! `UNAVAILABLE`, whose connection broke, or whose callee does not know whether its store committed. At most as
//! often as the service config says, with full jitter, not past the deadline, as the callee asks (`RetryInfo`,
//! `grpc-retry-pushback-ms`), and only while few calls fail: the budget is gRFC A6's token bucket.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kilonova_model::Reason;
use tonic::{Code, Status};

use super::method::Method;
use crate::outcome::{CallError, classify};
use crate::service_config::Throttling;
use crate::status::{from_status, reason_of};

/// What the callee said of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushback {
    /// Nothing.
    None,
    /// Not at all.
    Never,
    /// After this long.
    After(Duration),
}

impl Pushback {
    /// Reads the header; one that cannot be read means "never" (gRFC A6).
    pub(super) fn of(headers: &http::HeaderMap) -> Self {
        let Some(value) = headers.get(PUSHBACK) else { return Self::None };
        let millis = value.to_str().ok().and_then(|text| text.parse().ok());
        millis.map_or(Self::Never, |millis| Self::After(Duration::from_millis(millis)))
    }
}

/// The metadata key of [`Pushback`].
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// The retries that the calls of one service have left.
#[derive(Debug)]
pub(super) struct Budget {
    millitokens: AtomicI64,
    most: i64,
    put_back: i64,
}

const TOKEN: i64 = 1000;

impl Budget {
    pub(super) fn new(throttling: Throttling) -> Self {
        let most = i64::from(throttling.max_tokens) * TOKEN;
        let put_back = (throttling.token_ratio * TOKEN as f64) as i64;
        Self { millitokens: AtomicI64::new(most), most, put_back }
    }

    /// A call went well.
    pub(super) fn succeeded(&self) {
        // Full most of the time: no write then. Near the top a few tokens more or less make no difference.
        if self.millitokens.load(Ordering::Relaxed) < self.most {
            self.millitokens.fetch_add(self.put_back, Ordering::Relaxed);
        }
    }

    /// A call failed in a way that asks for another attempt. Whether there may be one.
    fn failed(&self) -> bool {
        let take = |tokens: i64| Some((tokens - TOKEN).max(0));
        let before = self.millitokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or_default() - TOKEN > self.most / 2
    }
}

/// One failed attempt.
pub(super) struct Failed<'a> {
    pub(super) method: &'a Method,
    pub(super) status: &'a Status,
    pub(super) pushback: Pushback,
    /// Attempts so far.
    pub(super) made: u32,
    /// Until the deadline.
    pub(super) left: Duration,
}

impl Failed<'_> {
    /// How long to wait before the next attempt, for a `sample` drawn from 0 to 1; none if there is to be none.
    pub(super) fn again(&self, budget: &Budget, sample: f64) -> Option<Duration> {
        let policy = self.method.policy.retry?;
        if !self.is_harmless() {
            return None;
        }
        let may = budget.failed();
        if !may || self.made >= policy.attempts {
            return None;
        }
        // A connection that broke says nothing of the others: at once the first time.
        let is_first_break = self.made == 1 && self.reason() == Some(Reason::ConnectionLost);
        let jittered =
            if is_first_break { Duration::ZERO } else { policy.backoff.delay(self.made - 1, sample) };
        let delay = match self.pushback {
            Pushback::Never => return None,
            Pushback::After(delay) => delay,
            Pushback::None => {
                let asked = from_status(self.status).and_then(|error| error.retry_after);
                jittered.max(asked.unwrap_or_default())
            }
        };
        (delay < self.left).then_some(delay)
    }

    fn reason(&self) -> Option<Reason> {
        reason_of(self.status)
    }

    fn is_harmless(&self) -> bool {
        match classify(self.status.clone()) {
            CallError::NotExecuted(_) => true,
            CallError::MaybeExecuted(status) => {
                let is_unknown =
                    matches!(self.reason(), Some(Reason::ConnectionLost | Reason::StoreOutcomeUnknown));
                self.method.idempotency.may_repeat() && (status.code() == Code::Unavailable || is_unknown)
            }
            CallError::Refused(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderMap;
    use kilonova_model::Error;

    use crate::peers::method::lookup;
    use crate::status::to_status;

    const BUDGET: Throttling = Throttling { max_tokens: 10, token_ratio: 0.1 };
    const IDEMPOTENT: &str = "/kilonova.compute.v1.ComputeService/BuildInstance";
    const NO_PROMISE: &str = "/a.B/C";

    fn again(path: &str, status: &Status, made: u32) -> Option<Duration> {
        again_with(path, status, made, Pushback::None, Duration::from_secs(10))
    }

    fn again_with(
        path: &str,
        status: &Status,
        made: u32,
        pushback: Pushback,
        left: Duration,
    ) -> Option<Duration> {
        let mut method = std::sync::Arc::into_inner(lookup(NO_PROMISE)).unwrap();
        let known = lookup(IDEMPOTENT);
        method.policy = known.policy;
        if path == IDEMPOTENT {
            method.idempotency = known.idempotency;
        }
        Failed { method: &method, status, pushback, made, left }.again(&Budget::new(BUDGET), 0.5)
    }

    #[test]
    fn only_the_harmless_is_repeated() {
        let ours = |reason| to_status(&Error::new(reason, "x"));
        let table = [
            (ours(Reason::Draining), true, true),
            (ours(Reason::ConnectFailed), true, true),
            (ours(Reason::Overloaded), true, true),
            (ours(Reason::QuotaExceeded), false, false),
            (ours(Reason::ConnectionLost), true, false),
            (ours(Reason::StoreOutcomeUnknown), true, false),
            (Status::unavailable("a proxy's"), true, false),
            (Status::unknown("x"), false, false),
            (Status::cancelled("x"), false, false),
            (Status::internal("x"), false, false),
            (Status::deadline_exceeded("x"), false, false),
            (Status::aborted("x"), false, false),
            (ours(Reason::WrongHost), false, false),
        ];
        for (status, idempotent, no_promise) in table {
            assert_eq!(again(IDEMPOTENT, &status, 1).is_some(), idempotent, "{status}");
            assert_eq!(again(NO_PROMISE, &status, 1).is_some(), no_promise, "{status}");
        }
    }

    #[test]
    fn three_attempts_and_not_past_the_deadline() {
        let status = Status::unavailable("x");
        assert_eq!(again(IDEMPOTENT, &status, 1), Some(Duration::from_millis(25)));
        assert_eq!(again(IDEMPOTENT, &status, 2), Some(Duration::from_millis(50)));
        assert_eq!(again(IDEMPOTENT, &status, 3), None);
        assert_eq!(again_with(IDEMPOTENT, &status, 1, Pushback::None, Duration::from_millis(20)), None);
        let broken = to_status(&Error::new(Reason::ConnectionLost, "x"));
        assert_eq!(again(IDEMPOTENT, &broken, 1), Some(Duration::ZERO));
        assert_eq!(again(IDEMPOTENT, &broken, 2), Some(Duration::from_millis(50)));
    }

    #[test]
    fn the_callee_has_its_say() {
        let overloaded = to_status(&Error::new(Reason::Overloaded, "x").retry_after(Duration::from_secs(2)));
        let ten = Duration::from_secs(10);
        let pushed = |pushback| again_with(IDEMPOTENT, &overloaded, 1, pushback, ten);
        assert_eq!(pushed(Pushback::None), Some(Duration::from_secs(2)));
        assert_eq!(pushed(Pushback::After(Duration::from_millis(7))), Some(Duration::from_millis(7)));
        assert_eq!(pushed(Pushback::Never), None);
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(PUSHBACK, text.parse().unwrap());
            Pushback::of(&headers)
        };
        assert_eq!(read("250"), Pushback::After(Duration::from_millis(250)));
        assert_eq!(read("-1"), Pushback::Never);
        assert_eq!(read("soon"), Pushback::Never);
        assert_eq!(Pushback::of(&HeaderMap::new()), Pushback::None);
    }

    #[test]
    fn many_failures_use_the_budget_up_and_successes_bring_it_back() {
        let budget = Budget::new(BUDGET);
        assert_eq!((0..8).filter(|_| budget.failed()).count(), 4, "down to half of ten");
        for _ in 0..40 {
            budget.succeeded();
        }
        assert!(!budget.failed(), "8 failed and 4 came back");
        for _ in 0..1000 {
            budget.succeeded();
        }
        assert!(budget.failed());
    }
}
