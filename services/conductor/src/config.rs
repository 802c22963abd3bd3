//! What can be set of a conductor.

use kilonova_model::Error;
use kilonova_model::check::{self, Checker};
use kilonova_proto::types::v1::QuotaLimits;
use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The section `[conductor]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// On how many hosts a build may come to nothing before it ends in ERROR.
    pub max_attempts: u32,
    /// How many hosts may refuse a build, for want of room or because they take no new work, before it ends in ERROR.
    pub max_refusals: u32,
    /// How many further hosts to ask the scheduler for.
    pub alternates: u32,
    /// How long a host may take over a build before it is tried elsewhere.
    pub build_timeout: Period,
    /// How long a host may take to start, stop or reboot an instance; then it counts as not done.
    pub operation_timeout: Period,
    /// How long a build waits, before it goes elsewhere, for the host it left to say that nothing is left there; a host that is not
    /// registered, or cannot be connected to, is not waited for.
    pub leave_timeout: Period,
    /// For how long a host has to be gone before a move that needs it is given up.
    pub gone_after: Period,
    /// How long the removal waits for a host that has left the registry; the host removes its copy when it is back.
    pub delete_timeout: Period,
    /// For how long after its start a host that is not registered may only not have registered yet.
    pub registration_grace: Period,
    /// How long an unanswered command is left before it is sent again.
    pub resend_interval: Period,
    /// How long the record of a deleted resource stays readable.
    pub retention: Period,
    /// How long a request id is remembered at least.
    pub request_retention: Period,
    /// How often every record is looked at, whatever was heard of it.
    pub scan_interval: Period,
    /// How much of the store's history of changes is kept at least, for watches to resume from; the rest is compacted. 0 for all
    /// of it. An embedded store keeps its own measure.
    pub history: Period,
    /// How long the shards of a conductor that died stay with it.
    pub shard_ttl: Period,
    /// Most records worked on at once.
    pub concurrency: usize,
    /// Most commands under way to one host.
    pub host_concurrency: usize,
    /// Whether instances of hosts that are gone are built again elsewhere without being asked.
    pub evacuation: Evacuation,
    /// The limits of a project for which none are set; -1 for none.
    pub quota: QuotaDefaults,
}

/// The section `[conductor.evacuation]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evacuation {
    /// Whether it is done. Only where something else makes sure that a host that is gone is off.
    pub enabled: bool,
    /// For how long a host has to be gone.
    pub delay: Period,
    /// Most instances a minute, for each conductor.
    pub per_minute: u32,
    /// Nothing is done while more than this part of all hosts is gone, in percent: then it is the network, or the registry.
    pub hold_above_percent: u32,
}

impl Default for Evacuation {
    fn default() -> Self {
        Self { enabled: false, delay: Period::from_secs(300), per_minute: 30, hold_above_percent: 20 }
    }
}

/// The section `[conductor.quota]`; the defaults are Nova's and Cinder's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaDefaults {
    /// Instances.
    pub instances: i32,
    /// Virtual CPUs of all instances.
    pub cores: i32,
    /// Memory of all instances in MiB.
    pub ram_mib: i32,
    /// Volumes.
    pub volumes: i32,
    /// Size of all volumes and snapshots in GiB.
    pub gigabytes: i32,
    /// Snapshots.
    pub snapshots: i32,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = |n| Period::from(Duration::from_secs(n));
        Self {
            max_attempts: 3,
            max_refusals: 20,
            alternates: 2,
            build_timeout: seconds(300),
            operation_timeout: seconds(180),
            leave_timeout: seconds(60),
            gone_after: seconds(30),
            delete_timeout: seconds(60),
            registration_grace: seconds(10),
            resend_interval: seconds(10),
            retention: seconds(3600),
            request_retention: seconds(24 * 3600),
            scan_interval: seconds(60),
            history: seconds(600),
            shard_ttl: seconds(6),
            concurrency: 256,
            host_concurrency: 32,
            evacuation: Evacuation::default(),
            quota: QuotaDefaults::default(),
        }
    }
}

impl Default for QuotaDefaults {
    fn default() -> Self {
        Self { instances: 10, cores: 20, ram_mib: 51_200, volumes: 10, gigabytes: 1000, snapshots: 10 }
    }
}

impl Config {
    /// Refuses values that make no sense, naming each.
    pub fn check(&self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.ensure(self.max_attempts > 0, "max_attempts", "at least 1");
        check.ensure(self.max_refusals > 0, "max_refusals", "at least 1");
        check.ensure(self.alternates <= 10, "alternates", "at most 10");
        check.ensure(self.concurrency > 0, "concurrency", "at least 1");
        check.ensure(self.host_concurrency > 0, "host_concurrency", "at least 1");
        check.ensure(self.evacuation.per_minute > 0, "evacuation.per_minute", "at least 1");
        let percent = self.evacuation.hold_above_percent;
        check.ensure(percent <= 100, "evacuation.hold_above_percent", "0 to 100");
        let periods = [
            ("build_timeout", self.build_timeout),
            ("operation_timeout", self.operation_timeout),
            ("resend_interval", self.resend_interval),
            ("scan_interval", self.scan_interval),
            ("delete_timeout", self.delete_timeout),
            ("request_retention", self.request_retention),
        ];
        for (field, period) in periods {
            check.ensure(!period.get().is_zero(), field, "more than nothing");
        }
        let history = self.history.get();
        check.ensure(history.is_zero() || history >= Duration::from_secs(1), "history", "0, or at least 1s");
        check.ensure(self.shard_ttl.get() >= Duration::from_secs(1), "shard_ttl", "at least 1s");
        check::quota_limits(&mut check, "quota", &self.quota.limits());
        check.finish()
    }
}

impl QuotaDefaults {
    /// The limits as they are answered.
    #[must_use]
    pub fn limits(&self) -> QuotaLimits {
        QuotaLimits {
            instances: self.instances,
            cores: self.cores,
            ram_mib: self.ram_mib,
            volumes: self.volumes,
            gigabytes: self.gigabytes,
            snapshots: self.snapshots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let mut config = Config { max_attempts: 0, ..Config::default() };
        config.quota.cores = -2;
        let error = config.check().unwrap_err();
        let fields: Vec<&str> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["max_attempts", "quota.cores"]);
    }
}
