//! The configuration of a volume agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kilonova_model::Error;
use kilonova_model::check::Checker;
use kilonova_runtime::agent::executor::ExecutorOptions;
use kilonova_runtime::agent::orphans::OrphanOptions;
use kilonova_runtime::agent::simulated::{FailRule, Faults, Latency, VerbConfig, Verbs};
use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};

/// A volume agent's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the driver keeps what it must not forget.
    pub data_dir: PathBuf,
    /// Most volumes being made in the driver at once.
    pub max_concurrent_creates: usize,
    /// How long the driver may take to make a volume.
    pub create_timeout: Period,
    /// How long the driver may take to remove a volume before it is asked again.
    pub delete_timeout: Period,
    /// How often the driver is asked for its figures.
    pub refresh_interval: Period,
    /// How often the backend registers with a conductor.
    pub register_interval: Period,
    /// How often what there is is compared with the conductor's records.
    pub reconcile_interval: Period,
    /// True has a volume that no record knows removed; false keeps it, counted and said in the log.
    pub remove_orphans: bool,
    /// The time for which a volume that no record knows is left alone before it is removed, if it is.
    pub orphan_grace: Period,
    /// The part of what there is that may be removed in an hour because no record knows it, 0 to 1; one always may.
    pub orphan_share_per_hour: f64,
    /// The driver.
    pub driver: DriverConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/kilonova/volume"),
            max_concurrent_creates: 10,
            create_timeout: Period::from_secs(600),
            delete_timeout: Period::from_secs(60),
            refresh_interval: Period::from_secs(60),
            register_interval: Period::from_secs(60),
            reconcile_interval: Period::from_secs(600),
            remove_orphans: false,
            orphan_grace: Period::from_secs(600),
            orphan_share_per_hour: 0.05,
            driver: DriverConfig::default(),
        }
    }
}

/// Which driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// No storage: volumes are lines in a journal.
    Simulated,
}

/// What the simulated driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Makes a volume.
    Create,
    /// Removes one.
    Delete,
    /// Makes one larger.
    Extend,
    /// Keeps a volume's contents.
    CreateSnapshot,
    /// Removes a snapshot.
    DeleteSnapshot,
    /// Lets a host reach a volume.
    Export,
    /// Keeps a host from reaching it.
    Unexport,
    /// Lists the volumes or the snapshots.
    List,
    /// Gives the backend's figures.
    Figures,
}

impl Verb {
    /// Every verb.
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Delete,
        Self::Extend,
        Self::CreateSnapshot,
        Self::DeleteSnapshot,
        Self::Export,
        Self::Unexport,
        Self::List,
        Self::Figures,
    ];
}

/// The driver's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriverConfig {
    /// Which driver.
    pub kind: DriverKind,
    /// The pools; the first is the default.
    pub pools: Vec<PoolConfig>,
    /// How long making a volume or a snapshot takes, or making a volume larger.
    pub latency: Period,
    /// Give or take this much.
    pub latency_jitter: Period,
    /// The part of all volumes that fails, 0 to 1.
    pub fail_rate: f64,
    /// What fails by its name.
    pub fail: Vec<FailRule>,
    /// What cannot be made larger, by its name.
    pub extend_fail: Vec<FailRule>,
    /// What cannot be kept as a snapshot, by the snapshot's name.
    pub snapshot_fail: Vec<FailRule>,
    /// How each verb behaves, where it is not as the keys above say.
    pub verbs: BTreeMap<Verb, VerbConfig>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            kind: DriverKind::Simulated,
            pools: vec![PoolConfig::default()],
            latency: Period::from_millis(20),
            latency_jitter: Period::from_millis(10),
            fail_rate: 0.0,
            fail: Vec::new(),
            extend_fail: Vec::new(),
            snapshot_fail: Vec::new(),
            verbs: BTreeMap::new(),
        }
    }
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolConfig {
    /// Its name within the backend.
    pub name: String,
    /// Its size in GiB.
    pub total_gib: u32,
    /// The part of it that is kept back, in percent.
    pub reserved_percentage: u32,
    /// Whether volumes take room only as they are written.
    pub thin_provisioning: bool,
    /// With thin provisioning: what may be promised per room there is.
    pub max_over_subscription_ratio: f64,
    /// Whatever else a volume's extra specs may ask for.
    pub capabilities: BTreeMap<String, String>,
    /// How good a place it is for new volumes, 0 to 100; not said if not set.
    pub goodness: Option<u32>,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            name: "pool0".to_owned(),
            total_gib: 1_000,
            reserved_percentage: 0,
            thin_provisioning: false,
            max_over_subscription_ratio: 20.0,
            capabilities: BTreeMap::new(),
            goodness: None,
        }
    }
}

impl DriverConfig {
    /// How each verb behaves.
    pub fn verbs(&self) -> Verbs<Verb> {
        let slow = Latency { base: self.latency.get(), jitter: self.latency_jitter.get() };
        Verbs::new(&Verb::ALL, &self.verbs, |verb| {
            let rules = |rules: &Vec<FailRule>| Faults { rate: 0.0, rules: rules.clone() };
            match verb {
                Verb::Create => (slow, Faults { rate: self.fail_rate, rules: self.fail.clone() }),
                Verb::Extend => (slow, rules(&self.extend_fail)),
                Verb::CreateSnapshot => (slow, rules(&self.snapshot_fail)),
                Verb::Delete
                | Verb::DeleteSnapshot
                | Verb::Export
                | Verb::Unexport
                | Verb::List
                | Verb::Figures => (Latency::default(), Faults::default()),
            }
        })
    }
}

impl Config {
    /// How much is done at once, and how long it may take.
    pub fn executor(&self) -> ExecutorOptions {
        ExecutorOptions {
            max_concurrent: self.max_concurrent_creates,
            make_timeout: self.create_timeout.get(),
            unmake_timeout: self.delete_timeout.get(),
            act_timeout: self.create_timeout.get(),
            orphans: OrphanOptions {
                remove: self.remove_orphans,
                grace: self.orphan_grace.get(),
                share_per_hour: self.orphan_share_per_hour,
            },
        }
    }

    /// Refuses values that make no sense, naming each.
    pub fn check(&self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.ensure(self.max_concurrent_creates > 0, "max_concurrent_creates", "at least 1");
        let periods = [
            ("create_timeout", self.create_timeout),
            ("delete_timeout", self.delete_timeout),
            ("refresh_interval", self.refresh_interval),
            ("register_interval", self.register_interval),
            ("reconcile_interval", self.reconcile_interval),
        ];
        for (field, period) in periods {
            check.ensure(!period.get().is_zero(), field, "more than nothing");
        }
        let share = self.orphan_share_per_hour;
        check.ensure((0.0..=1.0).contains(&share), "orphan_share_per_hour", "0 to 1");
        check.ensure((0.0..=1.0).contains(&self.driver.fail_rate), "driver.fail_rate", "0 to 1");
        let sensible = self.driver.verbs.values().all(VerbConfig::makes_sense);
        check.ensure(sensible, "driver.verbs", "each `fail_rate` and `lose_rate` 0 to 1");
        check.ensure(!self.driver.pools.is_empty(), "driver.pools", "at least one");
        for (index, pool) in self.driver.pools.iter().enumerate() {
            let path = format!("driver.pools[{index}]");
            let twice = self.driver.pools[..index].iter().any(|other| other.name == pool.name);
            check.ensure(!pool.name.is_empty() && !twice, &format!("{path}.name"), "a name of its own");
            let (reserved, ratio) = (pool.reserved_percentage, pool.max_over_subscription_ratio);
            check.ensure(reserved <= 100, &format!("{path}.reserved_percentage"), "0 to 100");
            check.ensure(
                ratio.is_finite() && ratio >= 1.0,
                &format!("{path}.max_over_subscription_ratio"),
                "a number of 1 or more",
            );
            let goodness = pool.goodness.unwrap_or_default();
            check.ensure(goodness <= 100, &format!("{path}.goodness"), "0 to 100");
        }
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let mut config = Config::default();
        config.driver.pools.push(PoolConfig {
            max_over_subscription_ratio: 0.5,
            goodness: Some(101),
            ..PoolConfig::default()
        });
        let error = config.check().unwrap_err();
        let fields: Vec<&str> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "driver.pools[1].name",
                "driver.pools[1].max_over_subscription_ratio",
                "driver.pools[1].goodness"
            ]
        );
    }
}
