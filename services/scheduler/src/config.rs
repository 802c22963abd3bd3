//! What can be set.

use std::time::Duration;

use kilonova_runtime::config::Period;
use serde::{Deserialize, Serialize};

use crate::hosts::{HostOptions, QuarantineConfig};
use crate::placement::filters::{self, Filter, HostLimits};
use crate::placement::weighers::{
    AllocatedCapacityWeigher, BuildFailureWeigher, CPUWeigher, CapacityWeigher, DiskWeigher, GoodnessWeigher,
    HypervisorVersionWeigher, ImageCachedWeigher, IoOpsWeigher, NumInstancesWeigher, PCIWeigher, RAMWeigher,
    ServerGroupSoftAffinityWeigher, ServerGroupSoftAntiAffinityWeigher, VolumeNumberWeigher, Weigher,
    ZoneSpreadWeigher,
};
use crate::placement::{Apart, Chain, Compute, Space, Storage};

/// The configuration of a scheduler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How often hosts and backends say that they are alive; silent for three times as long, one is down.
    pub heartbeat: Period,
    /// How long what was promised is held when the host does not report it.
    pub hold_time: Period,
    /// How long to wait for every known publisher before serving without the missing ones.
    pub first_answers: Period,
    /// How long a host that left the registry stays listed.
    pub forget_after: Period,
    /// When hosts on which builds fail are kept away from new work.
    pub quarantine: QuarantineConfig,
    /// How instances are placed.
    pub hosts: HostsConfig,
    /// How volumes are placed.
    pub backends: BackendsConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Period::from_secs(2),
            hold_time: Period::from_secs(30),
            first_answers: Period::from_secs(5),
            forget_after: Period::from_secs(600),
            quarantine: QuarantineConfig::default(),
            hosts: HostsConfig::default(),
            backends: BackendsConfig::default(),
        }
    }
}

/// How instances are placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostsConfig {
    /// The filters that run, in this order.
    pub filters: Vec<String>,
    /// NumInstancesFilter: at most so many instances on a host.
    pub max_instances_per_host: u32,
    /// IoOpsFilter: at most so many builds and the like at once on a host.
    pub max_io_ops_per_host: u32,
    /// What each weigher counts.
    pub multipliers: HostMultipliers,
    /// Each place is drawn from so many of the best; more than 1 keeps several schedulers from choosing the same.
    pub subset_size: usize,
}

/// What each weigher of hosts counts; 0 turns it off, below 0 makes more of its figure worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostMultipliers {
    /// RAMWeigher: free memory.
    pub ram: f64,
    /// CPUWeigher: free virtual CPUs.
    pub cpu: f64,
    /// DiskWeigher: free local disk.
    pub disk: f64,
    /// IoOpsWeigher: builds going on.
    pub io_ops: f64,
    /// BuildFailureWeigher: failed builds.
    pub build_failure: f64,
    /// NumInstancesWeigher: instances.
    pub num_instances: f64,
    /// HypervisorVersionWeigher: the hypervisor's version.
    pub hypervisor_version: f64,
    /// PCIWeigher: how few PCI devices are left.
    pub pci: f64,
    /// ImageCachedWeigher: whether the image is there already.
    pub image_cached: f64,
    /// ZoneSpreadWeigher: members of the instance's group in the zone, below 0.
    pub zone_spread: f64,
    /// ServerGroupSoftAffinityWeigher: members of the instance's group.
    pub soft_affinity: f64,
    /// ServerGroupSoftAntiAffinityWeigher: members of the instance's group, below 0.
    pub soft_anti_affinity: f64,
}

impl Default for HostMultipliers {
    fn default() -> Self {
        Self {
            ram: 1.0,
            cpu: 1.0,
            disk: 1.0,
            io_ops: -1.0,
            build_failure: -1_000_000.0,
            num_instances: 0.0,
            hypervisor_version: 1.0,
            pci: 1.0,
            image_cached: 0.0,
            zone_spread: 0.0,
            soft_affinity: 1.0,
            soft_anti_affinity: 1.0,
        }
    }
}

/// How volumes are placed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendsConfig {
    /// The filters that run, in this order.
    pub filters: Vec<String>,
    /// What each weigher counts.
    pub multipliers: BackendMultipliers,
    /// Each place is drawn from so many of the best; more than 1 keeps several schedulers from choosing the same.
    pub subset_size: usize,
}

/// What each weigher of backends counts; 0 turns it off, below 0 makes more of its figure worse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendMultipliers {
    /// CapacityWeigher: virtual free capacity.
    pub capacity: f64,
    /// AllocatedCapacityWeigher: sizes of the volumes made there.
    pub allocated_capacity: f64,
    /// VolumeNumberWeigher: volumes there.
    pub volume_number: f64,
    /// GoodnessWeigher: what the driver says of the pool.
    pub goodness: f64,
}

impl Default for BackendMultipliers {
    fn default() -> Self {
        Self { capacity: 1.0, allocated_capacity: 0.0, volume_number: 0.0, goodness: 0.0 }
    }
}

impl Default for HostsConfig {
    fn default() -> Self {
        let limits = HostLimits::default();
        Self {
            filters: default_names(&filters::compute(&limits)),
            max_instances_per_host: limits.max_instances_per_host,
            max_io_ops_per_host: limits.max_io_ops_per_host,
            multipliers: HostMultipliers::default(),
            subset_size: 1,
        }
    }
}

impl Default for BackendsConfig {
    fn default() -> Self {
        Self {
            filters: default_names(&filters::storage()),
            multipliers: BackendMultipliers::default(),
            subset_size: 1,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadConfig {
    /// A filter that does not exist.
    #[error("scheduler.{section}.filters: there is no filter {name:?}; there are {known}")]
    UnknownFilter {
        /// `hosts` or `backends`.
        section: &'static str,
        /// As it was written.
        name: String,
        /// Those there are.
        known: String,
    },
    /// A multiplier that is not a number.
    #[error("scheduler.{section}.multipliers: {weigher} needs a finite number")]
    BadMultiplier {
        /// `hosts` or `backends`.
        section: &'static str,
        /// Whose.
        weigher: &'static str,
    },
    /// Nothing to draw from.
    #[error("scheduler.{section}.subset_size: at least 1")]
    NoSubset {
        /// `hosts` or `backends`.
        section: &'static str,
    },
    /// A heartbeat publishers do not offer.
    #[error("scheduler.heartbeat: {0} is not between 500ms and 60s")]
    BadHeartbeat(Period),
    /// A part that is none.
    #[error("scheduler.quarantine.share: {0} is not between 0 and 1")]
    BadShare(f64),
}

impl Config {
    /// Refuses what cannot be used.
    pub fn check(&self) -> Result<(), BadConfig> {
        let heartbeat = self.heartbeat.get();
        if heartbeat < Duration::from_millis(500) || heartbeat > Duration::from_secs(60) {
            return Err(BadConfig::BadHeartbeat(self.heartbeat));
        }
        if !(0.0..=1.0).contains(&self.quarantine.share) {
            return Err(BadConfig::BadShare(self.quarantine.share));
        }
        Ok(())
    }

    /// What is done for how long.
    #[must_use]
    pub fn options(&self) -> HostOptions {
        HostOptions {
            hold_time: self.hold_time.get(),
            forget_after: self.forget_after.get(),
            quarantine: self.quarantine,
        }
    }
}

impl HostsConfig {
    /// The rules it describes.
    pub fn chain(&self) -> Result<Chain<Compute>, BadConfig> {
        let limits = HostLimits {
            max_instances_per_host: self.max_instances_per_host,
            max_io_ops_per_host: self.max_io_ops_per_host,
        };
        let by = &self.multipliers;
        let weighers: Vec<(Box<dyn Weigher<Compute>>, f64)> = vec![
            (Box::new(RAMWeigher), by.ram),
            (Box::new(CPUWeigher), by.cpu),
            (Box::new(DiskWeigher), by.disk),
            (Box::new(IoOpsWeigher), by.io_ops),
            (Box::new(BuildFailureWeigher), by.build_failure),
            (Box::new(NumInstancesWeigher), by.num_instances),
            (Box::new(HypervisorVersionWeigher), by.hypervisor_version),
            (Box::new(PCIWeigher), by.pci),
            (Box::new(ImageCachedWeigher), by.image_cached),
            (Box::new(ZoneSpreadWeigher), by.zone_spread),
            (Box::new(ServerGroupSoftAffinityWeigher), by.soft_affinity),
            (Box::new(ServerGroupSoftAntiAffinityWeigher), by.soft_anti_affinity),
        ];
        chain("hosts", filters::compute(&limits), &self.filters, weighers, self.subset_size)
    }
}

impl BackendsConfig {
    /// The rules it describes.
    pub fn chain(&self) -> Result<Chain<Storage>, BadConfig> {
        let by = &self.multipliers;
        let weighers: Vec<(Box<dyn Weigher<Storage>>, f64)> = vec![
            (Box::new(CapacityWeigher), by.capacity),
            (Box::new(AllocatedCapacityWeigher), by.allocated_capacity),
            (Box::new(VolumeNumberWeigher), by.volume_number),
            (Box::new(GoodnessWeigher), by.goodness),
        ];
        chain("backends", filters::storage(), &self.filters, weighers, self.subset_size)
    }
}

fn chain<S: Space>(
    section: &'static str,
    mut known: Vec<Box<dyn Filter<S>>>,
    wanted: &[String],
    weighers: Vec<(Box<dyn Weigher<S>>, f64)>,
    subset: usize,
) -> Result<Chain<S>, BadConfig> {
    if let Some((weigher, _)) = weighers.iter().find(|(_, multiplier)| !multiplier.is_finite()) {
        return Err(BadConfig::BadMultiplier { section, weigher: weigher.name() });
    }
    let all = names(&known);
    let mut filters = Vec::with_capacity(wanted.len());
    for name in wanted {
        match known.iter().position(|filter| filter.name() == name) {
            Some(place) => filters.push(known.swap_remove(place)),
            None if all.contains(name) => {}
            None => {
                return Err(BadConfig::UnknownFilter { section, name: name.clone(), known: all.join(", ") });
            }
        }
    }
    if subset == 0 {
        return Err(BadConfig::NoSubset { section });
    }
    Ok(Chain { filters, weighers, subset, apart: Apart::default() })
}

fn default_names<S: Space>(filters: &[Box<dyn Filter<S>>]) -> Vec<String> {
    filters.iter().filter(|filter| filter.is_default()).map(|filter| filter.name().to_owned()).collect()
}

fn names<S: Space>(filters: &[Box<dyn Filter<S>>]) -> Vec<String> {
    filters.iter().map(|filter| filter.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_runs_every_filter_and_every_weigher_that_counts() {
        let chain = HostsConfig::default().chain().unwrap();
        assert_eq!(names(&chain.filters), HostsConfig::default().filters);
        let counting = |weighers: &[(Box<dyn Weigher<Compute>>, f64)]| -> Vec<&'static str> {
            let counting = weighers.iter().filter(|(_, multiplier)| *multiplier != 0.0);
            counting.map(|(weigher, _)| weigher.name()).collect()
        };
        let weighers = counting(&chain.weighers);
        assert_eq!(
            weighers,
            [
                "RAMWeigher",
                "CPUWeigher",
                "DiskWeigher",
                "IoOpsWeigher",
                "BuildFailureWeigher",
                "HypervisorVersionWeigher",
                "PCIWeigher",
                "ServerGroupSoftAffinityWeigher",
                "ServerGroupSoftAntiAffinityWeigher",
            ]
        );
        let chain = BackendsConfig::default().chain().unwrap();
        assert_eq!(chain.weighers.iter().filter(|(_, multiplier)| *multiplier != 0.0).count(), 1);
    }

    #[test]
    fn an_unknown_filter_is_refused_by_name() {
        let config = HostsConfig { filters: vec!["RamFiler".into()], ..HostsConfig::default() };
        let error = config.chain().err().unwrap().to_string();
        assert!(error.contains("RamFiler") && error.contains("RamFilter"), "{error}");
    }

    #[test]
    fn a_multiplier_must_be_a_number() {
        let multipliers = HostMultipliers { ram: f64::NAN, ..HostMultipliers::default() };
        assert!(HostsConfig { multipliers, ..HostsConfig::default() }.chain().is_err());
        assert!(HostsConfig { subset_size: 0, ..HostsConfig::default() }.chain().is_err());
    }
}
