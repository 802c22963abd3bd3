//! Placement of instances on compute hosts.

use std::collections::BTreeSet;
use std::sync::Arc;

use kilonova_model::ServiceKind;
use kilonova_model::numa_spec::{self, GuestCells};
use kilonova_model::pci::{self, Devices};
use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{Capabilities, ComputeResources};

use super::aggregates::AggregateDemand;
use super::cells::HostNuma;
use super::columns::{FigureColumns, OwnColumns, clamped, put};
use super::devices::HostDevices;
use super::facts::{Facts, canonical_architecture, facts, version_number};
use super::figure::Figure;
use super::filters::image_properties::PROPERTIES;
use super::filters::{extra_specs, image_properties};
use super::group::Group;
use super::space::{Amount, Demand, Head, Row, Space, Wishes};
use super::vocabulary::{FactsId, Judged, Symbol, TraitSetId, Vocabulary, Wish};
use super::world::World;

/// The prefix of an extra spec that asks for a trait.
const TRAIT_PREFIX: &str = "trait:";

/// Placement of instances.
#[derive(Debug, Clone, Copy)]
pub struct Compute;

impl Space for Compute {
    type Row = ComputeRow;
    type Demand = ComputeDemand;
    const NOUN: &'static str = "host";
    const PUBLISHER: ServiceKind = ServiceKind::Compute;

    fn failed_builds(capabilities: &Capabilities) -> u32 {
        match &capabilities.resources {
            Some(Resources::Compute(figures)) => figures.failed_builds,
            _ => 0,
        }
    }

    fn rows(
        head: Head,
        _: &str,
        capabilities: Option<&Capabilities>,
        vocabulary: &mut Vocabulary,
    ) -> Vec<ComputeRow> {
        let unknown = Capabilities::default();
        vec![ComputeRow::new(head, capabilities.unwrap_or(&unknown), vocabulary)]
    }
}

/// One compute host.
#[derive(Debug, Clone)]
pub struct ComputeRow {
    /// What every candidate has.
    pub head: Head,
    /// What it is.
    pub facts: FactsId,
    /// The hypervisor's version as a number.
    pub hypervisor_version: i32,
    /// What it can do.
    pub traits: TraitSetId,
    /// Virtual CPUs that share threads; those with threads of their own, and these threads, are no part of it.
    pub vcpus: Figure,
    /// Memory in MiB.
    pub ram: Figure,
    /// Local disk in GiB.
    pub disk: Figure,
    /// Instances with a claim.
    pub instances: u32,
    /// Instances promised and not claimed yet.
    pub held_instances: u32,
    /// Builds and other disk-heavy work going on.
    pub io_ops: u32,
    /// Builds that failed since the last that succeeded.
    pub failed_builds: u32,
    /// The images whose bytes are there, sorted.
    pub images: Arc<[Symbol]>,
    /// Its PCI devices.
    pub devices: HostDevices,
    /// Its NUMA cells.
    pub numa: HostNuma,
}

impl ComputeRow {
    /// Reads what a host published. Without figures the host has no room.
    pub fn new(head: Head, capabilities: &Capabilities, vocabulary: &mut Vocabulary) -> Self {
        let empty = ComputeResources::default();
        let figures = match &capabilities.resources {
            Some(Resources::Compute(figures)) => figures,
            _ => &empty,
        };
        let (numa, vcpus) = HostNuma::new(figures);
        Self {
            head,
            facts: vocabulary.intern_facts(facts(figures)),
            hypervisor_version: version_number(&figures.hypervisor_version),
            traits: vocabulary.intern_traits(&capabilities.traits),
            vcpus,
            ram: Figure::new(
                figures.ram_mib,
                figures.ram_used_mib,
                figures.ram_reserved_mib,
                figures.ram_allocation_ratio,
                1.0,
            ),
            disk: Figure::new(figures.disk_gib, figures.disk_used_gib, 0, figures.disk_allocation_ratio, 1.0),
            instances: figures.instances,
            held_instances: 0,
            io_ops: figures.io_ops,
            failed_builds: figures.failed_builds,
            images: vocabulary.intern_each(&figures.cached_images).into(),
            devices: HostDevices::new(&figures.pci_pools),
            numa,
        }
    }

    /// Instances with a claim, or promised.
    #[must_use]
    pub fn instances_to_be(&self) -> i64 {
        i64::from(self.instances) + i64::from(self.held_instances)
    }

    /// Builds and other disk-heavy work, going on or promised.
    #[must_use]
    pub fn io_ops_to_be(&self) -> i64 {
        i64::from(self.io_ops) + i64::from(self.held_instances)
    }
}

/// The figures of all compute hosts that every decision looks at.
#[derive(Debug, Default)]
pub struct ComputeColumns {
    /// Virtual CPUs.
    pub vcpus: FigureColumns,
    /// Memory in MiB.
    pub ram: FigureColumns,
    /// Local disk in GiB.
    pub disk: FigureColumns,
    /// Builds and other disk-heavy work, going on or promised.
    pub io_ops: Vec<i32>,
    /// Builds that failed since the last that succeeded.
    pub failed_builds: Vec<i32>,
    /// Instances with a claim, or promised.
    pub instances: Vec<i32>,
    /// The hypervisors' versions as numbers.
    pub hypervisor_version: Vec<i32>,
    /// The fewer PCI devices are left, the more: what [`super::weighers::PCIWeigher`] looks at.
    pub pci: Vec<i32>,
    /// What they are.
    pub facts: Vec<FactsId>,
}

impl OwnColumns<ComputeRow> for ComputeColumns {
    fn set(&mut self, place: usize, row: &ComputeRow) {
        self.vcpus.set(place, &row.vcpus);
        self.ram.set(place, &row.ram);
        self.disk.set(place, &row.disk);
        put(&mut self.io_ops, place, clamped(row.io_ops_to_be()));
        put(&mut self.failed_builds, place, clamped(row.failed_builds.into()));
        put(&mut self.instances, place, clamped(row.instances_to_be()));
        put(&mut self.hypervisor_version, place, row.hypervisor_version);
        put(&mut self.pci, place, clamped(row.devices.scarcity()));
        put(&mut self.facts, place, row.facts);
    }

    fn swap_remove(&mut self, place: usize) {
        for figures in [&mut self.vcpus, &mut self.ram, &mut self.disk] {
            figures.swap_remove(place);
        }
        for figures in [&mut self.io_ops, &mut self.failed_builds, &mut self.instances] {
            figures.swap_remove(place);
        }
        self.hypervisor_version.swap_remove(place);
        self.pci.swap_remove(place);
        self.facts.swap_remove(place);
    }
}

/// What one instance takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComputeAmount {
    /// Virtual CPUs that share threads.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mib: u32,
    /// Local disk in GiB.
    pub disk_gib: u32,
    /// How many instances it is.
    pub instances: u32,
    /// Its PCI devices.
    pub devices: Devices,
    /// The cells it asks for, if it does.
    pub cells: Option<GuestCells>,
    /// The virtual CPUs of these.
    pub cell_vcpus: u32,
}

impl Amount for ComputeAmount {
    fn take(&mut self, part: &Self) -> bool {
        let left = (|| {
            Some(Self {
                vcpus: self.vcpus.checked_sub(part.vcpus)?,
                ram_mib: self.ram_mib.checked_sub(part.ram_mib)?,
                disk_gib: self.disk_gib.checked_sub(part.disk_gib)?,
                instances: self.instances.checked_sub(part.instances)?,
                devices: less(&self.devices, &part.devices)?,
                cells: None,
                cell_vcpus: self.cell_vcpus.checked_sub(part.cell_vcpus)?,
            })
        })();
        left.map(|left| *self = left).is_some()
    }
}

impl Row for ComputeRow {
    type Amount = ComputeAmount;
    type Columns = ComputeColumns;

    fn head(&self) -> &Head {
        &self.head
    }

    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    fn pool(&self) -> &str {
        ""
    }

    fn hold(&mut self, amount: &ComputeAmount) {
        self.vcpus.hold(amount.vcpus);
        self.ram.hold(amount.ram_mib);
        self.disk.hold(amount.disk_gib);
        self.held_instances = self.held_instances.saturating_add(amount.instances);
        self.devices.hold(&amount.devices);
        if let Some(cells) = &amount.cells {
            self.numa.hold(cells, &mut self.vcpus);
        }
    }

    fn release(&mut self, amount: &ComputeAmount) {
        self.vcpus.release(amount.vcpus);
        self.ram.release(amount.ram_mib);
        self.disk.release(amount.disk_gib);
        self.held_instances = self.held_instances.saturating_sub(amount.instances);
        self.devices.release(&amount.devices);
        if let Some(cells) = &amount.cells {
            self.numa.release(cells, &mut self.vcpus);
        }
    }

    fn growth_since(&self, before: &Self) -> ComputeAmount {
        ComputeAmount {
            vcpus: self.vcpus.used.saturating_sub(before.vcpus.used),
            ram_mib: self.ram.used.saturating_sub(before.ram.used),
            disk_gib: self.disk.used.saturating_sub(before.disk.used),
            instances: self.instances.saturating_sub(before.instances),
            devices: self.devices.growth_since(&before.devices),
            cells: None,
            cell_vcpus: self.numa.growth_since(&before.numa),
        }
    }
}

/// What is left of devices without a part of them, if all of that is there.
fn less(devices: &Devices, part: &Devices) -> Option<Devices> {
    let mut left = devices.clone();
    for (alias, count) in part {
        let there = left.get_mut(alias)?;
        *there = there.checked_sub(*count)?;
    }
    Some(left)
}

/// What an instance asks for.
#[derive(Debug, Clone)]
pub struct ComputeDemand {
    wishes: Wishes,
    /// What it takes.
    pub amount: ComputeAmount,
    /// What the image asks for, by property.
    pub image: Vec<(&'static str, String)>,
    /// Which facts meet all of that.
    pub image_fits: Judged<FactsId>,
    /// What the flavor asks of capabilities, by their names.
    pub capabilities: Vec<(String, String)>,
    /// Which facts meet all of that.
    pub capabilities_fit: Judged<FactsId>,
    /// Traits the host must have.
    pub required: Vec<Wish>,
    /// Traits the host must not have.
    pub forbidden: Vec<Wish>,
    /// What it asks of a host's aggregates.
    pub aggregates: AggregateDemand,
    /// The image, if any host ever had it.
    pub image_id: Option<Symbol>,
    /// The server group it is a member of.
    pub group: Option<Group>,
    /// Whether it is on its host already, and gets another image.
    rebuild: bool,
}

impl Demand for ComputeDemand {
    type Amount = ComputeAmount;

    fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    fn amount(&self) -> ComputeAmount {
        self.amount.clone()
    }

    fn is_rebuild(&self) -> bool {
        self.rebuild
    }
}

impl ComputeDemand {
    /// Reads a checked request. The hints that name instances are not looked at: where those are is the conductor's
    /// knowledge, and it turns them into excluded hosts or a forced one.
    #[must_use]
    pub fn new(request: &SelectHostsRequest, world: &World<ComputeRow>) -> Self {
        let flavor = request.flavor.clone().unwrap_or_default();
        let image = request.image.clone().unwrap_or_default();
        let hints = request.hints.clone().unwrap_or_default();
        let vocabulary = world.vocabulary();
        let excluded = request.excluded_hosts.iter().chain(&hints.exclude_hosts);
        let asked = PROPERTIES.into_iter().filter_map(|name| Some((name, image.properties.get(name)?)));
        let asked = asked.filter(|(_, wanted)| !wanted.is_empty()).map(|(name, wanted)| match name {
            "hw_architecture" => (name, canonical_architecture(wanted)),
            _ => (name, wanted.clone()),
        });
        let asked: Vec<_> = asked.collect();
        let mut capabilities: Vec<(String, String)> = flavor
            .extra_specs
            .iter()
            .filter_map(|(key, wanted)| Some((extra_specs::capability(key)?.to_owned(), wanted.clone())))
            .collect();
        capabilities.sort_unstable();
        let traits_that_are = |value: &str| -> BTreeSet<String> {
            let specs = flavor.extra_specs.iter().filter(|(_, wanted)| wanted.as_str() == value);
            specs.filter_map(|(key, _)| key.strip_prefix(TRAIT_PREFIX)).map(str::to_owned).collect()
        };
        let wishes =
            |names: &BTreeSet<String>| names.iter().map(|name| Wish::new(name, vocabulary)).collect();
        let (required, forbidden) = (traits_that_are("required"), traits_that_are("forbidden"));
        let cells = numa_spec::requested(&flavor).unwrap_or_default();
        let disk_gib = if flavor.disk_gib > 0 { flavor.disk_gib } else { image.min_disk_gib };
        let held_disk_gib = if request.rebuild { request.held_disk_gib } else { 0 };
        Self {
            wishes: Wishes::new(world, &request.availability_zone, &hints.force_host, excluded),
            amount: ComputeAmount {
                vcpus: if cells.is_some_and(|cells| cells.pinned) { 0 } else { flavor.vcpus },
                ram_mib: flavor.ram_mib,
                disk_gib: disk_gib.saturating_sub(held_disk_gib),
                instances: 1,
                devices: pci::requested(&flavor.extra_specs).unwrap_or_default(),
                cells,
                cell_vcpus: cells.map_or(0, |cells| cells.all_vcpus()),
            },
            image_fits: judged(vocabulary, &asked, image_properties::meets),
            image: asked,
            capabilities_fit: judged(vocabulary, &capabilities, extra_specs::meets),
            capabilities,
            required: wishes(&required),
            forbidden: wishes(&forbidden),
            aggregates: AggregateDemand::new(request, required, vocabulary),
            image_id: vocabulary.find(&image.id),
            group: request.server_group.as_ref().map(|group| Group::new(group, world)),
            rebuild: request.rebuild,
        }
    }

    /// The server group, if its rule is this one.
    #[must_use]
    pub fn group_under(&self, policy: Policy) -> Option<&Group> {
        self.group.as_ref().filter(|group| group.policy == policy)
    }
}

/// Which facts meet all demands; nobody looks where there is none.
fn judged<N: AsRef<str>>(
    vocabulary: &Vocabulary,
    demands: &[(N, String)],
    meets: impl Fn(&Facts, &str, &str) -> bool,
) -> Judged<FactsId> {
    if demands.is_empty() {
        return Judged::default();
    }
    vocabulary.judge(|facts| demands.iter().all(|(name, wanted)| meets(facts, name.as_ref(), wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_taken_whole_or_not_at_all() {
        let gpus = |count| [("gpu".to_owned(), count)].into();
        let mut growth = ComputeAmount {
            vcpus: 4,
            ram_mib: 4096,
            disk_gib: 10,
            instances: 2,
            devices: gpus(3),
            ..ComputeAmount::default()
        };
        let part = ComputeAmount {
            vcpus: 2,
            ram_mib: 2048,
            disk_gib: 10,
            instances: 1,
            devices: gpus(2),
            ..ComputeAmount::default()
        };
        assert!(growth.take(&part));
        assert!(!growth.take(&part), "the disk is used up");
        assert_eq!(
            growth,
            ComputeAmount {
                vcpus: 2,
                ram_mib: 2048,
                disk_gib: 0,
                instances: 1,
                devices: gpus(1),
                ..ComputeAmount::default()
            }
        );
        let other = ComputeAmount { devices: [("nic".to_owned(), 1)].into(), ..ComputeAmount::default() };
        assert!(!growth.take(&other), "there are none of these");
    }
}
