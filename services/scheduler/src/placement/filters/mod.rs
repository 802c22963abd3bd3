//! Yes or no: may this candidate be chosen at all?

mod architecture;
mod availability_zone;
mod capabilities;
mod capacity;
mod core;
mod disk;
mod excluded_hosts;
mod extra_specs;
mod forced_host;
mod ram;
mod server_group_affinity;
mod server_group_anti_affinity;
mod service_up;
mod traits;

pub use architecture::ArchitectureFilter;
pub use availability_zone::AvailabilityZoneFilter;
pub use capabilities::CapabilitiesFilter;
pub use capacity::CapacityFilter;
pub use core::CoreFilter;
pub use disk::DiskFilter;
pub use excluded_hosts::ExcludedHostsFilter;
pub use forced_host::ForcedHostFilter;
pub use ram::RamFilter;
pub use server_group_affinity::ServerGroupAffinityFilter;
pub use server_group_anti_affinity::ServerGroupAntiAffinityFilter;
pub use service_up::{BackendFilter, ComputeFilter};
pub use traits::TraitsFilter;

use super::compute::Compute;
use super::figure::Figure;
use super::space::Space;
use super::storage::Storage;
use super::world::World;

/// How many of the removed are remembered for the explanation.
const SAMPLES: usize = 3;

/// One rule.
pub trait Filter<S: Space>: Send + Sync {
    /// Its name, as in Nova or Cinder where it is the same rule.
    fn name(&self) -> &'static str;

    /// Whether this demand is of interest to the filter at all; it is not run otherwise.
    fn asks(&self, _demand: &S::Demand) -> bool {
        true
    }

    /// Whether a candidate may be chosen.
    fn passes(&self, world: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> bool;

    /// Why a candidate that does not pass does not, with figures.
    fn detail(&self, world: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> String;

    /// How close to passing a candidate is that does not, where that is a figure.
    fn closeness(&self, _demand: &S::Demand, _row: &S::Row) -> Option<f64> {
        None
    }

    /// What to say of the closest of the removed; `place` is its name.
    fn nearest(&self, _demand: &S::Demand, _row: &S::Row, _place: &str) -> Option<String> {
        None
    }

    /// Keeps the indexes of those that pass, and counts the others.
    fn retain(&self, world: &World<S::Row>, demand: &S::Demand, rows: &mut Vec<u32>, removed: &mut Removed) {
        rows.retain(|row| {
            let candidate = &world.rows()[*row as usize];
            let passes = self.passes(world, demand, candidate);
            if !passes {
                removed.add(*row, self.closeness(demand, candidate));
            }
            passes
        });
    }
}

/// What one filter removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// How many.
    pub count: u32,
    /// The first of them.
    pub samples: Vec<u32>,
    closest: Option<(f64, u32)>,
}

impl Removed {
    /// Counts one.
    pub fn add(&mut self, row: u32, closeness: Option<f64>) {
        self.count += 1;
        if self.samples.len() < SAMPLES {
            self.samples.push(row);
        }
        if let Some(closeness) = closeness
            && self.closest.is_none_or(|(best, _)| closeness > best)
        {
            self.closest = Some((closeness, row));
        }
    }

    /// The one that came closest to passing.
    #[must_use]
    pub fn closest_row(&self) -> Option<u32> {
        self.closest.map(|(_, row)| row)
    }
}

/// The filters of instances, in the order they run by default.
#[must_use]
pub fn compute() -> Vec<Box<dyn Filter<Compute>>> {
    vec![
        // First, so that what a group rules out is said to be ruled out by it.
        Box::new(ServerGroupAffinityFilter),
        Box::new(ServerGroupAntiAffinityFilter),
        Box::new(ForcedHostFilter),
        Box::new(ExcludedHostsFilter),
        Box::new(ComputeFilter),
        Box::new(AvailabilityZoneFilter),
        Box::new(ArchitectureFilter),
        Box::new(TraitsFilter),
        Box::new(CoreFilter),
        Box::new(RamFilter),
        Box::new(DiskFilter),
    ]
}

/// The filters of volumes, in the order they run by default.
#[must_use]
pub fn storage() -> Vec<Box<dyn Filter<Storage>>> {
    vec![
        Box::new(ForcedHostFilter),
        Box::new(ExcludedHostsFilter),
        Box::new(BackendFilter),
        Box::new(AvailabilityZoneFilter),
        Box::new(CapabilitiesFilter),
        Box::new(CapacityFilter),
    ]
}

/// Why a resource of a host does not hold what is asked for.
fn shortage(figure: &Figure, needed: u32, unit: &str) -> String {
    let ratio = figure.ratio;
    if needed > figure.total {
        return format!("needs {needed} {unit}, has {} {unit} in all", figure.total);
    }
    format!("needs {needed} {unit}, has {} of {} {unit} free, ratio {ratio:?}", figure.free(), figure.total)
}

/// How much of a resource one instance could get.
fn available(figure: &Figure) -> i64 {
    figure.free().min(i64::from(figure.total))
}

/// What the closest of the removed offers.
fn most_free(figure: &Figure, needed: u32, unit: &str, place: &str) -> String {
    format!("the most free is {} {unit} on {place}, {needed} {unit} needed", available(figure))
}
