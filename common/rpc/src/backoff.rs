//! Growing, capped, jittered delays.

use std::time::Duration;

/// How delays grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: Jitter,
}

/// Where in the allowed range a delay falls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Anywhere between nothing and the whole delay: for many callers that failed together.
    Full,
    /// The delay, give or take this part of it (0 to 1): for reconnecting, where a floor is wanted.
    Around(f64),
}

/// A policy that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backoff needs 0 < initial <= max, factor >= 1 and jitter within 0 and 1")]
pub struct InvalidBackoff;

impl BackoffPolicy {
    /// A checked policy.
    pub fn new(
        initial: Duration,
        max: Duration,
        factor: f64,
        jitter: Jitter,
    ) -> Result<Self, InvalidBackoff> {
        let jitter_fits = match jitter {
            Jitter::Full => true,
            Jitter::Around(part) => (0.0..=1.0).contains(&part),
        };
        if initial.is_zero() || initial > max || !factor.is_finite() || factor < 1.0 || !jitter_fits {
            return Err(InvalidBackoff);
        }
        Ok(Self { initial, max, factor, jitter })
    }

    /// For reconnecting to one peer: 100 ms, x 1.6, at most 10 s, give or take a fifth.
    #[must_use]
    pub fn reconnect() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(10),
            factor: 1.6,
            jitter: Jitter::Around(0.2),
        }
    }

    /// For trying a failed call again: up to 50 ms, doubling, at most 1 s.
    #[must_use]
    pub fn retry() -> Self {
        Self {
            initial: Duration::from_millis(50),
            max: Duration::from_secs(1),
            factor: 2.0,
            jitter: Jitter::Full,
        }
    }

    /// The delay after `failures` failures in a row (0 for the first), for a `sample` drawn from 0 to 1.
    #[must_use]
    pub fn delay(&self, failures: u32, sample: f64) -> Duration {
        let exponent = i32::try_from(failures).unwrap_or(i32::MAX);
        let max = self.max.as_secs_f64();
        let whole = (self.initial.as_secs_f64() * self.factor.powi(exponent)).min(max);
        let jittered = match self.jitter {
            Jitter::Full => whole * sample,
            Jitter::Around(part) => whole * (1.0 - part + 2.0 * part * sample),
        };
        Duration::from_secs_f64(jittered.clamp(0.0, max))
    }
}

/// The delays of one thing that fails now and then.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Counts a failure and says how long to wait after it.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.policy.delay(self.failures, rand::random());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    /// Forgets the failures, after a success or when the peer is known to be a new one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last reset.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn nonsense_is_refused() {
        let full = Jitter::Full;
        assert!(BackoffPolicy::new(MS(0), MS(10), 2.0, full).is_err());
        assert!(BackoffPolicy::new(MS(20), MS(10), 2.0, full).is_err());
        assert!(BackoffPolicy::new(MS(1), MS(10), 0.5, full).is_err());
        assert!(BackoffPolicy::new(MS(1), MS(10), f64::NAN, full).is_err());
        assert!(BackoffPolicy::new(MS(1), MS(10), 2.0, Jitter::Around(1.5)).is_err());
        assert!(BackoffPolicy::new(MS(1), MS(10), 2.0, full).is_ok());
    }

    #[test]
    fn delays_grow_to_the_cap_and_stay_there() {
        let policy = BackoffPolicy::new(MS(100), MS(1000), 2.0, Jitter::Around(0.2)).unwrap();
        let middles: Vec<u128> = (0..6).map(|n| policy.delay(n, 0.5).as_millis()).collect();
        assert_eq!(middles, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(policy.delay(0, 0.0), MS(80));
        assert_eq!(policy.delay(0, 1.0), MS(120));
        assert_eq!(policy.delay(u32::MAX, 1.0), MS(1000));
    }

    #[test]
    fn full_jitter_uses_the_whole_range_and_reset_starts_over() {
        let policy = BackoffPolicy::new(MS(100), MS(1000), 2.0, Jitter::Full).unwrap();
        assert_eq!(policy.delay(3, 0.0), Duration::ZERO);
        assert_eq!(policy.delay(3, 1.0), MS(800));
        let mut backoff = Backoff::new(policy);
        for _ in 0..5 {
            assert!(backoff.next_delay() <= MS(1000));
        }
        assert_eq!(backoff.failures(), 5);
        backoff.reset();
        assert!(backoff.next_delay() <= MS(100));
    }
}
