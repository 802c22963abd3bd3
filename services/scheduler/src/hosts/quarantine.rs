//! Keeping new work away from a host on which build after build fails. It decays: after a time one more build is tried, each
//! further failure doubles the time, and a success ends it. What fails may be the builds' fault and not the hosts', such as
//! an image that boots nowhere; so only a part of all hosts is ever kept away, the others only weigh less.
//!
//! ```text
//!                  `failures` in a row                  time is over
//!   taking work ─────────────────────► QUARANTINED ────────────────────► taking work, still counted
//!        ▲                                  ▲ fails again: twice as long ──────┘  │
//!        └──────────────────── a build succeeds, or a new incarnation ────────────┘
//! ```

use std::time::Duration;

use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// When and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineConfig {
    /// After how many builds that failed one after the other; 0 turns it off.
    pub failures: u32,
    /// How long at first.
    pub first: Period,
    /// How long at most.
    pub longest: Period,
    /// At most this part of all hosts, 0 to 1.
    pub share: f64,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self { failures: 5, first: Period::from_secs(30), longest: Period::from_secs(1800), share: 0.2 }
    }
}

/// How builds on one host went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// How many failed since the last that succeeded.
    failures: u32,
    until: Option<Instant>,
}

impl Record {
    /// Takes in how many failed in a row. `may` says whether one more host may be kept away. Gives until when it is, if that
    /// is new.
    pub fn told(
        &mut self,
        failures: u32,
        rules: &QuarantineConfig,
        may: bool,
        now: Instant,
    ) -> Option<Instant> {
        let grew = failures > self.failures;
        self.failures = failures;
        if failures < rules.failures || rules.failures == 0 {
            self.until = None;
            return None;
        }
        if !grew || (self.until.is_none() && !may) {
            return None;
        }
        let until = now + rules.time(failures - rules.failures);
        self.until = Some(until);
        Some(until)
    }

    /// Whether it is kept away.
    pub fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// Ends it if its time is over.
    pub fn end_if_due(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
        }
    }

    /// Why it is kept away.
    pub fn reason(&self) -> Option<String> {
        self.is_on().then(|| format!("{} builds failed one after the other", self.failures))
    }
}

impl QuarantineConfig {
    fn time(&self, doublings: u32) -> Duration {
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        self.first.get().checked_mul(factor).unwrap_or(Duration::MAX).min(self.longest.get())
    }

    /// Whether one more of so many hosts may be kept away.
    pub fn may_add(&self, quarantined: usize, hosts: usize) -> bool {
        (quarantined + 1) as f64 <= hosts as f64 * self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> QuarantineConfig {
        let (first, longest) = (Period::from_secs(30), Period::from_secs(100));
        QuarantineConfig { failures: 3, first, longest, share: 0.2 }
    }

    #[test]
    fn it_begins_with_so_many_in_a_row_doubles_and_ends_with_a_success() {
        let (now, rules) = (Instant::now(), rules());
        let seconds = |count| now + Duration::from_secs(count);
        let mut record = Record::default();
        assert_eq!(record.told(2, &rules, true, now), None);
        assert_eq!(record.told(3, &rules, true, now), Some(seconds(30)));
        assert_eq!(record.told(3, &rules, true, seconds(9)), None, "nothing new");
        assert_eq!(record.reason().unwrap(), "3 builds failed one after the other");
        record.end_if_due(seconds(29));
        assert!(record.is_on());
        record.end_if_due(seconds(30));
        assert!(!record.is_on());
        assert_eq!(record.told(4, &rules, true, now), Some(seconds(60)));
        assert_eq!(record.told(5, &rules, true, now), Some(seconds(100)), "no longer than that");
        assert_eq!((record.told(0, &rules, true, now), record.is_on()), (None, false));
    }

    #[test]
    fn no_more_than_a_part_of_all() {
        let rules = rules();
        assert_eq!([4, 5, 9, 10].map(|hosts| rules.may_add(0, hosts)), [false, true, true, true]);
        assert!(!rules.may_add(1, 9) && rules.may_add(1, 10));
        let mut record = Record::default();
        assert_eq!(record.told(7, &rules, false, Instant::now()), None);
        assert!(!record.is_on());
        let off = QuarantineConfig { failures: 0, ..rules };
        assert_eq!(record.told(9, &off, true, Instant::now()), None);
    }
}
