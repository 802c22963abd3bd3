//! What a test knows besides the cell itself: what it was promised, what there is, and what it did to hosts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::cluster::Plan;

/// What was asked last of an id whose request was answered with OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// It should be there, or have failed with a reason.
    Present,
    /// It should be gone.
    Absent,
    /// It should be in exactly this state: `ACTIVE`, `IN_USE`, ...
    State(&'static str),
}

/// What each host and backend has to promise; all of them alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Virtual CPUs.
    pub vcpus: u64,
    /// Memory in MiB.
    pub ram_mib: u64,
    /// Local disk in GiB.
    pub disk_gib: u64,
    /// Room of one pool in GiB.
    pub pool_gib: u64,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { vcpus: u64::MAX, ram_mib: u64::MAX, disk_gib: u64::MAX, pool_gib: u64::MAX }
    }
}

impl Capacity {
    /// As a cell's hosts and backends are set.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let (driver, allocation) = (&plan.compute.driver, &plan.compute.allocation);
        let times = |total: u32, ratio: f64| (f64::from(total) * ratio) as u64;
        let pool = &plan.volume.driver.pools[0];
        let ratio = if pool.thin_provisioning { pool.max_over_subscription_ratio } else { 1.0 };
        Self {
            vcpus: times(driver.vcpus, allocation.cpu_allocation_ratio),
            ram_mib: times(driver.ram_mib, allocation.ram_allocation_ratio)
                .saturating_sub(allocation.ram_reserved_mib.into()),
            disk_gib: times(driver.disk_gib, allocation.disk_allocation_ratio),
            pool_gib: times(pool.total_gib, ratio),
        }
    }
}

/// A time in which a host could not be asked, because the test killed, froze or cut it off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// The host or backend.
    pub host: String,
    /// From then on.
    pub from: SystemTime,
    /// When it was started again; none if it was not, or that is not known.
    pub started: Option<SystemTime>,
    /// Until it was ready again; for good if not given.
    pub until: Option<SystemTime>,
}

/// What the checker is told.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Every acknowledged id, and what was wanted of it last.
    pub wanted: BTreeMap<String, Want>,
    /// Whether that is all there may be: whoever always hears an answer in the end knows of every record.
    pub complete: bool,
    /// What there is to promise.
    pub capacity: Capacity,
    /// When which host could not be asked. This is the only excuse for a second guest: the instance was rebuilt
    /// elsewhere while its host, of which nobody could know more, still had it (`docs/consistency.md`, "Not
    /// promised").
    pub outages: Vec<Outage>,
    /// How long after an outage something decided during it may still be done.
    pub aftermath: Duration,
}

impl Expected {
    /// Whether one of these hosts could not be asked at some moment between the two, or shortly before.
    pub(super) fn excuses(&self, hosts: [&str; 2], from: SystemTime, until: SystemTime) -> bool {
        self.outages
            .iter()
            .filter(|outage| hosts.contains(&outage.host.as_str()))
            .any(|outage| outage.from <= until && outage.until.is_none_or(|end| end + self.aftermath >= from))
    }

    /// Whether a host could not be asked at some time.
    pub(super) fn was_away(&self, host: &str) -> bool {
        self.outages.iter().any(|outage| outage.host == host)
    }

    /// Whether a host is away for good.
    pub(super) fn is_away(&self, host: &str) -> bool {
        self.outages.iter().any(|outage| outage.host == host && outage.until.is_none())
    }
}
