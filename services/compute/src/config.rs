//! The configuration of a compute agent.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kilonova_model::check::Checker;
use kilonova_model::numa::{HostCell, HostCells, Pages};
use kilonova_model::pci::Devices;
use kilonova_model::{Error, aggregate};
use kilonova_proto::types::v1::HostAggregate;
use kilonova_runtime::agent::executor::ExecutorOptions;
use kilonova_runtime::agent::orphans::OrphanOptions;
use kilonova_runtime::agent::simulated::{FailRule, Faults, Latency, VerbConfig, Verbs};
use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};

use crate::share::Amount;

/// A compute agent's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the driver keeps what it must not forget.
    pub data_dir: PathBuf,
    /// Most builds in the driver at once.
    pub max_concurrent_builds: usize,
    /// How long the driver may take to make a guest.
    pub build_timeout: Period,
    /// How long the driver may take to remove a guest before it is asked again.
    pub destroy_timeout: Period,
    /// How long the driver may take to start, stop or reboot a guest.
    pub power_timeout: Period,
    /// How often the driver is asked for its figures.
    pub refresh_interval: Period,
    /// How often the host registers with a conductor.
    pub register_interval: Period,
    /// How much may be promised.
    pub allocation: Allocation,
    /// How often what there is is compared with the conductor's records.
    pub reconcile_interval: Period,
    /// True has a guest that no record knows removed; false keeps it, counted and said in the log.
    pub remove_orphans: bool,
    /// The time for which a guest that no record knows is left alone before it is removed, if it is.
    pub orphan_grace: Period,
    /// The part of what there is that may be removed in an hour because no record knows it, 0 to 1; one always may.
    pub orphan_share_per_hour: f64,
    /// The driver.
    pub driver: DriverConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/kilonova/compute"),
            max_concurrent_builds: 10,
            build_timeout: Period::from_secs(600),
            destroy_timeout: Period::from_secs(60),
            power_timeout: Period::from_secs(120),
            refresh_interval: Period::from_secs(60),
            register_interval: Period::from_secs(60),
            reconcile_interval: Period::from_secs(600),
            remove_orphans: false,
            orphan_grace: Period::from_secs(600),
            orphan_share_per_hour: 0.05,
            allocation: Allocation::default(),
            driver: DriverConfig::default(),
        }
    }
}

/// How much of what there is may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Allocation {
    /// Virtual CPUs per physical thread.
    pub cpu_allocation_ratio: f64,
    /// Memory promised per memory there is.
    pub ram_allocation_ratio: f64,
    /// Disk promised per disk there is.
    pub disk_allocation_ratio: f64,
    /// Memory kept for the host itself, in MiB.
    pub ram_reserved_mib: u32,
}

impl Default for Allocation {
    fn default() -> Self {
        Self {
            cpu_allocation_ratio: 4.0,
            ram_allocation_ratio: 1.0,
            disk_allocation_ratio: 1.0,
            ram_reserved_mib: 512,
        }
    }
}

impl Allocation {
    /// The same with what the host's aggregates say in its place.
    #[must_use]
    pub fn under(self, aggregates: &[HostAggregate]) -> Self {
        let said = |key, own| aggregate::least(aggregates, key).filter(|ratio| *ratio > 0.0).unwrap_or(own);
        Self {
            cpu_allocation_ratio: said(aggregate::CPU_ALLOCATION_RATIO, self.cpu_allocation_ratio),
            ram_allocation_ratio: said(aggregate::RAM_ALLOCATION_RATIO, self.ram_allocation_ratio),
            disk_allocation_ratio: said(aggregate::DISK_ALLOCATION_RATIO, self.disk_allocation_ratio),
            ram_reserved_mib: self.ram_reserved_mib,
        }
    }
}

/// Which driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// No hypervisor: guests are lines in a journal.
    Simulated,
}

/// What the simulated driver does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Makes a guest.
    Spawn,
    /// Removes one.
    Destroy,
    /// Starts, stops or reboots one.
    Power,
    /// Gives one a volume.
    Attach,
    /// Takes a volume from one.
    Detach,
    /// Makes one anew from an image.
    Rebuild,
    /// Lets go of one for another host.
    HandOver,
    /// Runs one that another host has let go of.
    TakeOver,
    /// Runs again one that it had let go of.
    TakeBack,
    /// Lists the guests.
    List,
    /// Gives the host's figures.
    Figures,
}

impl Verb {
    /// Every verb.
    const ALL: [Self; 11] = [
        Self::Spawn,
        Self::Destroy,
        Self::Power,
        Self::Attach,
        Self::Detach,
        Self::Rebuild,
        Self::HandOver,
        Self::TakeOver,
        Self::TakeBack,
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
    /// CPU threads of the host.
    pub vcpus: u32,
    /// Memory of the host, in MiB.
    pub ram_mib: u32,
    /// Local disk of the host, in GiB.
    pub disk_gib: u32,
    /// The CPU architecture.
    pub cpu_architecture: String,
    /// What the host can do, with the names of os-traits.
    pub traits: Vec<String>,
    /// The machine types guests may have.
    pub machine_types: Vec<String>,
    /// The ids of images whose bytes are there from the start; those of guests are added.
    pub cached_images: Vec<String>,
    /// What else flavors' extra specs may ask for.
    pub capabilities: BTreeMap<String, String>,
    /// The PCI devices guests may have, by the aliases flavors ask for them by.
    pub pci: Devices,
    /// The NUMA cells guests may ask for, numbered from 0.
    pub numa_cells: Vec<NumaCellConfig>,
    /// How long making or changing a guest takes.
    pub latency: Period,
    /// Give or take this much.
    pub latency_jitter: Period,
    /// The part of all guests that fails, 0 to 1.
    pub fail_rate: f64,
    /// What fails by its name.
    pub fail: Vec<FailRule>,
    /// What cannot be started, stopped or rebooted, by its name.
    pub power_fail: Vec<FailRule>,
    /// What takes no volume, by its name.
    pub attach_fail: Vec<FailRule>,
    /// What cannot be made anew from an image, by its name.
    pub rebuild_fail: Vec<FailRule>,
    /// What cannot be handed over to another host, by its name.
    pub hand_over_fail: Vec<FailRule>,
    /// What cannot be taken over from another host, by its name.
    pub take_over_fail: Vec<FailRule>,
    /// How each verb behaves, where it is not as the keys above say.
    pub verbs: BTreeMap<Verb, VerbConfig>,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            kind: DriverKind::Simulated,
            vcpus: 16,
            ram_mib: 65_536,
            disk_gib: 1_000,
            cpu_architecture: "x86_64".to_owned(),
            traits: Vec::new(),
            machine_types: vec!["pc".to_owned(), "q35".to_owned()],
            cached_images: Vec::new(),
            capabilities: BTreeMap::new(),
            pci: Devices::new(),
            numa_cells: Vec::new(),
            latency: Period::from_millis(20),
            latency_jitter: Period::from_millis(10),
            fail_rate: 0.0,
            fail: Vec::new(),
            power_fail: Vec::new(),
            attach_fail: Vec::new(),
            rebuild_fail: Vec::new(),
            hand_over_fail: Vec::new(),
            take_over_fail: Vec::new(),
            verbs: BTreeMap::new(),
        }
    }
}

/// One NUMA cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NumaCellConfig {
    /// CPU threads.
    pub cpus: u32,
    /// Memory in MiB, that in huge pages included.
    pub memory_mib: u32,
    /// Its huge pages, one entry for each size.
    pub huge_pages: Vec<HugePagesConfig>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HugePagesConfig {
    /// The size in KiB.
    pub size_kib: u32,
    /// How many there are.
    pub total: u32,
}

impl DriverConfig {
    /// Its NUMA cells, with nothing taken.
    pub fn cells(&self) -> HostCells {
        let pages = |pages: &HugePagesConfig| (pages.size_kib, Pages { total: pages.total, used: 0 });
        let cells = self.numa_cells.iter().zip(0..).map(|(cell, id)| HostCell {
            id,
            cpus: cell.cpus,
            memory_mib: cell.memory_mib,
            pages: cell.huge_pages.iter().map(pages).collect(),
            ..HostCell::default()
        });
        HostCells(cells.collect())
    }

    /// Whether the cells are parts of the host, and their huge pages of them.
    fn cells_add_up(&self) -> bool {
        let sum = |of: fn(&NumaCellConfig) -> u32| {
            self.numa_cells.iter().map(|cell| u64::from(of(cell))).sum::<u64>()
        };
        let kib = |cell: &NumaCellConfig| {
            cell.huge_pages
                .iter()
                .map(|pages| u64::from(pages.size_kib) * u64::from(pages.total))
                .sum::<u64>()
        };
        sum(|cell| cell.cpus) <= self.vcpus.into()
            && sum(|cell| cell.memory_mib) <= self.ram_mib.into()
            && self.numa_cells.iter().all(|cell| {
                cell.huge_pages.iter().all(|pages| pages.size_kib > 4)
                    && kib(cell) <= u64::from(cell.memory_mib) * 1024
            })
    }

    /// What the host has.
    pub fn total(&self) -> Amount {
        Amount { vcpus: self.vcpus, ram_mib: self.ram_mib, disk_gib: self.disk_gib }
    }

    /// How each verb behaves.
    pub fn verbs(&self) -> Verbs<Verb> {
        let slow = Latency { base: self.latency.get(), jitter: self.latency_jitter.get() };
        Verbs::new(&Verb::ALL, &self.verbs, |verb| {
            let rules = |rules: &Vec<FailRule>| Faults { rate: 0.0, rules: rules.clone() };
            match verb {
                Verb::Spawn => (slow, Faults { rate: self.fail_rate, rules: self.fail.clone() }),
                Verb::Power => (slow, rules(&self.power_fail)),
                Verb::Attach => (slow, rules(&self.attach_fail)),
                Verb::Rebuild => (slow, rules(&self.rebuild_fail)),
                Verb::HandOver => (slow, rules(&self.hand_over_fail)),
                Verb::TakeOver => (slow, rules(&self.take_over_fail)),
                Verb::Detach | Verb::TakeBack => (slow, Faults::default()),
                Verb::Destroy | Verb::List | Verb::Figures => (Latency::default(), Faults::default()),
            }
        })
    }
}

impl Config {
    /// How much is done at once, and how long it may take.
    pub fn executor(&self) -> ExecutorOptions {
        ExecutorOptions {
            max_concurrent: self.max_concurrent_builds,
            make_timeout: self.build_timeout.get(),
            unmake_timeout: self.destroy_timeout.get(),
            act_timeout: self.power_timeout.get(),
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
        check.ensure(self.max_concurrent_builds > 0, "max_concurrent_builds", "at least 1");
        let periods = [
            ("build_timeout", self.build_timeout),
            ("destroy_timeout", self.destroy_timeout),
            ("refresh_interval", self.refresh_interval),
            ("register_interval", self.register_interval),
            ("reconcile_interval", self.reconcile_interval),
        ];
        for (field, period) in periods {
            check.ensure(!period.get().is_zero(), field, "more than nothing");
        }
        let ratios = [
            ("allocation.cpu_allocation_ratio", self.allocation.cpu_allocation_ratio),
            ("allocation.ram_allocation_ratio", self.allocation.ram_allocation_ratio),
            ("allocation.disk_allocation_ratio", self.allocation.disk_allocation_ratio),
        ];
        for (field, ratio) in ratios {
            check.ensure(ratio.is_finite() && ratio > 0.0, field, "a number above 0");
        }
        check.ensure(
            self.driver.cells_add_up(),
            "driver.numa_cells",
            "no more CPUs and memory than the host's, no more huge pages than the cell's memory, each larger than 4 KiB",
        );
        let share = self.orphan_share_per_hour;
        check.ensure((0.0..=1.0).contains(&share), "orphan_share_per_hour", "0 to 1");
        check.ensure((0.0..=1.0).contains(&self.driver.fail_rate), "driver.fail_rate", "0 to 1");
        let sensible = self.driver.verbs.values().all(VerbConfig::makes_sense);
        check.ensure(sensible, "driver.verbs", "each `fail_rate` and `lose_rate` 0 to 1");
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_say_how_much_may_be_promised() {
        let metadata = [("cpu_allocation_ratio", "2"), ("disk_allocation_ratio", "0.5")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let under = Allocation::default().under(&[HostAggregate { id: "ssd".into(), metadata }]);
        let Allocation { cpu_allocation_ratio, ram_allocation_ratio, disk_allocation_ratio, .. } = under;
        assert_eq!((cpu_allocation_ratio, ram_allocation_ratio, disk_allocation_ratio), (2.0, 1.0, 0.5));
    }

    #[test]
    fn the_defaults_make_sense_and_nonsense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let mut config = Config { max_concurrent_builds: 0, ..Config::default() };
        config.allocation.ram_allocation_ratio = f64::NAN;
        config.driver.numa_cells = vec![NumaCellConfig { cpus: 17, ..NumaCellConfig::default() }];
        config.driver.fail_rate = 2.0;
        let error = config.check().unwrap_err();
        let fields: Vec<&str> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "max_concurrent_builds",
                "allocation.ram_allocation_ratio",
                "driver.numa_cells",
                "driver.fail_rate"
            ]
        );
    }
}
