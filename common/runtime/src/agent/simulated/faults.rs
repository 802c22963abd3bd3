//! Failures and delays on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kilonova_model::{Attempt, Error, Reason};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Makes things of some names fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailRule {
    /// The exact name, or the beginning of it followed by `*`.
    pub name: String,
    /// The last attempt that fails.
    pub attempts: u32,
}

impl FailRule {
    fn matches(&self, name: &str, attempt: Attempt) -> bool {
        let named = match self.name.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.name,
        };
        named && attempt.0 <= self.attempts
    }
}

/// What fails.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// The part of all that fails, 0 to 1.
    pub rate: f64,
    /// What fails by its name.
    pub rules: Vec<FailRule>,
}

impl Faults {
    /// Fails as configured; by chance if `sample`, drawn from 0 to 1, says so.
    pub fn check(&self, name: &str, attempt: Attempt, sample: f64) -> Result<(), Error> {
        let message = if self.rules.iter().any(|rule| rule.matches(name, attempt)) {
            format!("{name:?} is made to fail on attempt {attempt}")
        } else if sample < self.rate {
            format!("{name:?} failed by chance, at a rate of {}", self.rate)
        } else {
            return Ok(());
        };
        Err(Error::new(Reason::DriverFailed, message).with("name", name))
    }
}

/// How long things take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// In the middle.
    pub base: Duration,
    /// Give or take this much.
    pub jitter: Duration,
}

impl Latency {
    /// The delay for a `sample` drawn from 0 to 1.
    pub fn delay(self, sample: f64) -> Duration {
        (self.base + self.jitter.mul_f64(2.0 * sample)).saturating_sub(self.jitter)
    }

    /// Takes as long as it takes; an error when cut short.
    pub async fn pass(self, cancel: &CancellationToken) -> Result<(), Error> {
        let delay = self.delay(rand::random());
        match cancel.run_until_cancelled(tokio::time::sleep(delay)).await {
            Some(()) => Ok(()),
            None => Err(Error::new(Reason::DriverFailed, "cancelled")),
        }
    }
}

/// How often it is looked whether it hangs still.
const LOOK: Duration = Duration::from_millis(20);

/// A driver that gives no figures while there is a file `hang-figures` in its data directory: it does not fail, it does
/// not answer.
#[derive(Debug, Clone)]
pub struct Hang(PathBuf);

impl Hang {
    /// In this data directory.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self(data_dir.join("hang-figures"))
    }

    /// Ends once there is no such file.
    pub async fn pass(&self) {
        while self.0.exists() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fail_for_as_many_attempts_as_asked() {
        let rule = |name: &str, attempts| FailRule { name: name.into(), attempts };
        let faults = Faults { rate: 0.0, rules: vec![rule("web", 1), rule("bad-*", 2)] };
        let fails = |name, attempt| faults.check(name, Attempt(attempt), 0.0).is_err();
        assert!(fails("web", 1) && !fails("web", 2) && !fails("web-1", 1));
        assert!(fails("bad-7", 2) && !fails("bad-7", 3) && !fails("ba", 1));
    }

    #[test]
    fn the_rate_decides_by_the_sample() {
        let faults = Faults { rate: 0.25, rules: Vec::new() };
        assert!(faults.check("x", Attempt(1), 0.24).is_err());
        assert!(faults.check("x", Attempt(1), 0.25).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn it_hangs_as_long_as_there_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let hang = Hang::in_dir(dir.path());
        hang.pass().await;
        std::fs::write(dir.path().join("hang-figures"), "").unwrap();
        assert!(tokio::time::timeout(Duration::from_secs(60), hang.pass()).await.is_err());
        std::fs::remove_file(dir.path().join("hang-figures")).unwrap();
        hang.pass().await;
    }

    #[test]
    fn delays_stay_around_the_base_and_above_nothing() {
        let ms = Duration::from_millis;
        let latency = Latency { base: ms(100), jitter: ms(20) };
        assert_eq!([latency.delay(0.0), latency.delay(0.5), latency.delay(1.0)], [ms(80), ms(100), ms(120)]);
        assert_eq!(Latency { base: ms(10), jitter: ms(20) }.delay(0.0), Duration::ZERO);
    }
}
