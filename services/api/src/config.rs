//! What can be set.

use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};

/// The configuration of an api.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How long a request may take whose caller sets no deadline.
    pub call_timeout: Period,
    /// How long a watch whose conductor went away looks for another before it ends.
    pub resume_within: Period,
}

impl Default for Config {
    fn default() -> Self {
        Self { call_timeout: Period::from_secs(10), resume_within: Period::from_secs(10) }
    }
}

/// A configuration that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// No call would ever be made.
    #[error("call_timeout must be more than 0s")]
    NoCalls,
}

impl Config {
    /// Whether it can be worked with.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.call_timeout.get().is_zero() {
            return Err(InvalidConfig::NoCalls);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_no_calls_do_not() {
        assert_eq!(Config::default().check(), Ok(()));
        assert!(Config { call_timeout: Period::default(), ..Config::default() }.check().is_err());
    }
}
