//! Yes or no: may this candidate be chosen at all?

mod aggregate_image_properties_isolation;
mod aggregate_instance_extra_specs;
mod aggregate_multi_tenancy_isolation;
mod availability_zone;
mod capabilities;
mod capacity;
mod compute_capabilities;
mod core;
mod different_backend;
mod disk;
mod excluded_hosts;
pub(super) mod extra_specs;
mod forced_host;
pub(super) mod image_properties;
mod instance_locality;
mod io_ops;
mod isolated_aggregates;
mod num_instances;
mod numa_topology;
mod pci_passthrough;
mod ram;
mod same_backend;
mod server_group_affinity;
mod server_group_anti_affinity;
mod service_up;
mod traits;

pub use aggregate_image_properties_isolation::AggregateImagePropertiesIsolation;
pub use aggregate_instance_extra_specs::AggregateInstanceExtraSpecsFilter;
pub use aggregate_multi_tenancy_isolation::AggregateMultiTenancyIsolation;
pub use availability_zone::AvailabilityZoneFilter;
pub use capabilities::CapabilitiesFilter;
pub use capacity::CapacityFilter;
pub use compute_capabilities::ComputeCapabilitiesFilter;
pub use core::CoreFilter;
pub use different_backend::DifferentBackendFilter;
pub use disk::DiskFilter;
pub use excluded_hosts::ExcludedHostsFilter;
pub use forced_host::ForcedHostFilter;
pub use image_properties::ImagePropertiesFilter;
pub use instance_locality::InstanceLocalityFilter;
pub use io_ops::IoOpsFilter;
pub use isolated_aggregates::IsolatedAggregatesFilter;
pub use num_instances::NumInstancesFilter;
pub use numa_topology::NUMATopologyFilter;
pub use pci_passthrough::PciPassthroughFilter;
pub use ram::RamFilter;
pub use same_backend::SameBackendFilter;
pub use server_group_affinity::ServerGroupAffinityFilter;
pub use server_group_anti_affinity::ServerGroupAntiAffinityFilter;
pub use service_up::{BackendFilter, ComputeFilter};
pub use traits::TraitsFilter;

use super::bitmap::Block;
use super::compute::Compute;
use super::figure::Figure;
use super::space::{Demand, Space};
use super::storage::Storage;
use super::world::World;

/// One rule.
pub trait Filter<S: Space>: Send + Sync {
    /// Its name, as in Nova or Cinder where it is the same rule.
    fn name(&self) -> &'static str;

    /// Whether it runs unless another list of filters is configured.
    fn is_default(&self) -> bool {
        true
    }

    /// Whether this demand is of interest to the filter at all; it is not run otherwise.
    fn asks(&self, _demand: &S::Demand) -> bool {
        true
    }

    /// Whether what it says depends on the image: such filters are asked for a rebuild too, as in Nova.
    fn depends_on_image(&self) -> bool {
        false
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

    /// Keeps those of a block that pass. Says what [`Filter::passes`] says of each; a rule that has a column says it
    /// faster.
    fn retain(&self, world: &World<S::Row>, demand: &S::Demand, block: &mut Block<'_>) {
        block.keep(|row| self.passes(world, demand, &world.rows()[row]));
    }
}

/// Whether a filter is run for a demand.
pub fn is_run<S: Space>(filter: &dyn Filter<S>, demand: &S::Demand) -> bool {
    (filter.depends_on_image() || !demand.is_rebuild()) && filter.asks(demand)
}

/// What some filters of instances go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// NumInstancesFilter: at most so many instances on a host.
    pub max_instances_per_host: u32,
    /// IoOpsFilter: at most so many builds and the like at once on a host.
    pub max_io_ops_per_host: u32,
}

/// As in Nova.
impl Default for HostLimits {
    fn default() -> Self {
        Self { max_instances_per_host: 50, max_io_ops_per_host: 8 }
    }
}

/// The filters of instances there are, in the order they run.
#[must_use]
pub fn compute(limits: &HostLimits) -> Vec<Box<dyn Filter<Compute>>> {
    vec![
        // First, so that what a group rules out is said to be ruled out by it.
        Box::new(ServerGroupAffinityFilter),
        Box::new(ServerGroupAntiAffinityFilter),
        Box::new(ForcedHostFilter),
        Box::new(ExcludedHostsFilter),
        Box::new(ComputeFilter),
        Box::new(AvailabilityZoneFilter),
        Box::new(AggregateMultiTenancyIsolation),
        Box::new(AggregateInstanceExtraSpecsFilter),
        Box::new(AggregateImagePropertiesIsolation),
        Box::new(IsolatedAggregatesFilter),
        Box::new(ImagePropertiesFilter),
        Box::new(ComputeCapabilitiesFilter),
        Box::new(TraitsFilter),
        Box::new(CoreFilter),
        Box::new(RamFilter),
        Box::new(DiskFilter),
        Box::new(PciPassthroughFilter),
        Box::new(NUMATopologyFilter),
        Box::new(NumInstancesFilter { most: limits.max_instances_per_host }),
        Box::new(IoOpsFilter { most: limits.max_io_ops_per_host }),
    ]
}

/// The filters of volumes there are, in the order they run.
#[must_use]
pub fn storage() -> Vec<Box<dyn Filter<Storage>>> {
    vec![
        // First, so that what other volumes or an instance rule out is said to be ruled out by them.
        Box::new(SameBackendFilter),
        Box::new(DifferentBackendFilter),
        Box::new(InstanceLocalityFilter),
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

/// Keeps those whose room holds what is needed.
fn keep_room<S: Space>(
    filter: &dyn Filter<S>,
    world: &World<S::Row>,
    demand: &S::Demand,
    block: &mut Block<'_>,
    room: &[i32],
    needed: u32,
) {
    match i32::try_from(needed) {
        Ok(needed) => block.keep_figures(room, |room| needed <= room),
        // More than columns can tell.
        Err(_) => block.keep(|row| filter.passes(world, demand, &world.rows()[row])),
    }
}

/// What the closest of the removed offers.
fn most_free(figure: &Figure, needed: u32, unit: &str, place: &str) -> String {
    format!("the most free is {} {unit} on {place}, {needed} {unit} needed", figure.room())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::ComputeDemand;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, Image, SchedulerHints};

    #[test]
    fn a_rebuild_is_judged_by_its_image_and_the_disk_it_takes_besides() {
        let mut world = World::new();
        let full = ComputeResources {
            vcpus_used: 64,
            ram_used_mib: 1 << 20,
            disk_gib: 1000,
            disk_used_gib: 900,
            instances: 1000,
            io_ops: 1000,
            cpu_architecture: "x86_64".into(),
            ..resources()
        };
        host(&mut world, "c1", full);
        let removed_by = |image: Image, held_disk_gib| {
            let mut request = instance(1, 1, 0);
            request.image = Some(image);
            request.hints = Some(SchedulerHints { force_host: "c1".into(), ..SchedulerHints::default() });
            (request.rebuild, request.held_disk_gib) = (true, held_disk_gib);
            let demand = ComputeDemand::new(&request, &world);
            let filters = compute(&HostLimits::default());
            let mut run = filters.iter().filter(|filter| is_run(filter.as_ref(), &demand));
            run.find(|filter| !filter.passes(&world, &demand, &world.rows()[0])).map(|filter| filter.name())
        };
        let image = |architecture: &str, min_disk_gib| Image {
            properties: [("hw_architecture".to_owned(), architecture.to_owned())].into(),
            min_disk_gib,
            ..Image::default()
        };
        assert_eq!(removed_by(image("x86_64", 150), 50), None, "what it holds already is no hindrance");
        assert_eq!(removed_by(image("aarch64", 1), 50), Some("ImagePropertiesFilter"));
        assert_eq!(removed_by(image("x86_64", 151), 50), Some("DiskFilter"));
    }
}
