//! What a test knows besides the cell itself: what it was promised, what there is, and what it did to hosts.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;

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
    /// When which host could not be asked. This is the only excuse for a second guest, and only for that time: the instance was
    /// rebuilt elsewhere while its host, of which nobody could know more, still had it (`docs/consistency.md`, "Not promised").
    pub outages: Vec<Outage>,
    /// How long after an outage something decided during it may still be done.
    pub aftermath: Duration,
    /// How long a host may be away before anybody can know.
    pub unnoticed: Duration,
    /// Since when the store is not what it was: from then on nothing may be removed.
    pub kept_since: Option<SystemTime>,
    /// Whether the store was replaced: its records do not tell what was asked before, and are not judged by that.
    pub is_set_back: bool,
}

impl Expected {
    /// Whether one of these hosts could not be asked at some moment between the two, or shortly before.
    pub(super) fn excuses(&self, hosts: [&str; 2], from: SystemTime, until: SystemTime) -> bool {
        self.outages
            .iter()
            .filter(|outage| hosts.contains(&outage.host.as_str()))
            .any(|outage| outage.from <= until && outage.until.is_none_or(|end| end + self.aftermath >= from))
    }

    /// Of a time in which two hosts both had a guest, what is left once the outages of either are taken off: the first moment of it
    /// and where the next outage begins. None if nothing is.
    pub(super) fn unexcused(
        &self,
        hosts: [&str; 2],
        from: SystemTime,
        until: Option<SystemTime>,
    ) -> Option<(SystemTime, Option<SystemTime>)> {
        let mut away: Vec<&Outage> = self.of(&hosts).collect();
        away.sort_by_key(|outage| outage.from);
        let mut at = from;
        for outage in away {
            if outage.from > at {
                let next = until.map_or(outage.from, |until| until.min(outage.from));
                return Some((at, Some(next)));
            }
            // Away for good: all that follows is excused.
            at = at.max(outage.until? + self.aftermath);
            if until.is_some_and(|until| until <= at) {
                return None;
            }
        }
        Some((at, until))
    }

    /// The outages of hosts, for whoever reads a finding.
    pub(super) fn evidence<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> String {
        let hosts: Vec<&str> = hosts.into_iter().collect();
        let told = |outage: &Outage| {
            let until =
                outage.until.map_or_else(|| "the end".to_owned(), |until| timestamp(until).to_string());
            format!("{} was away from {} to {until}", outage.host, timestamp(outage.from))
        };
        let all: Vec<String> = self.of(&hosts).map(told).collect();
        if all.is_empty() { "none of them was away".to_owned() } else { all.join(", ") }
    }

    fn of(&self, hosts: &[&str]) -> impl Iterator<Item = &Outage> {
        self.outages.iter().filter(|outage| hosts.contains(&outage.host.as_str()))
    }

    /// Whether a host was known to be away at one moment, and was so still at the other.
    pub(super) fn was_known_away(&self, host: &str, at: SystemTime, until: SystemTime) -> bool {
        self.of(&[host])
            .any(|outage| outage.from + self.unnoticed <= at && outage.until.is_none_or(|end| end > until))
    }

    /// Whether a host could not be asked at some time since then.
    pub(super) fn was_away_since(&self, host: &str, since: SystemTime) -> bool {
        self.of(&[host]).any(|outage| outage.until.is_none_or(|end| end + self.aftermath >= since))
    }

    /// Whether a host is away for good.
    pub(super) fn is_away(&self, host: &str) -> bool {
        self.outages.iter().any(|outage| outage.host == host && outage.until.is_none())
    }
}
