//! Placement of instances on compute hosts.

use kilonova_model::ServiceKind;
use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{Capabilities, ComputeResources};

use super::columns::{FigureColumns, OwnColumns, clamped, put};
use super::figure::Figure;
use super::group::Group;
use super::space::{Amount, Demand, Head, Row, Space, Wishes};
use super::vocabulary::{Symbol, TraitSetId, Vocabulary, Wish};
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
    /// The CPU architecture, in its usual spelling.
    pub architecture: Symbol,
    /// What it can do.
    pub traits: TraitSetId,
    /// Virtual CPUs.
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
}

impl ComputeRow {
    /// Reads what a host published. Without figures the host has no room.
    pub fn new(head: Head, capabilities: &Capabilities, vocabulary: &mut Vocabulary) -> Self {
        let empty = ComputeResources::default();
        let figures = match &capabilities.resources {
            Some(Resources::Compute(figures)) => figures,
            _ => &empty,
        };
        Self {
            head,
            architecture: vocabulary.intern(&canonical_architecture(&figures.cpu_architecture)),
            traits: vocabulary.intern_traits(&capabilities.traits),
            vcpus: Figure::new(figures.vcpus, figures.vcpus_used, 0, figures.cpu_allocation_ratio, 4.0),
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
        }
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
}

impl OwnColumns<ComputeRow> for ComputeColumns {
    fn set(&mut self, place: usize, row: &ComputeRow) {
        self.vcpus.set(place, &row.vcpus);
        self.ram.set(place, &row.ram);
        self.disk.set(place, &row.disk);
        put(&mut self.io_ops, place, clamped(row.io_ops_to_be()));
        put(&mut self.failed_builds, place, clamped(row.failed_builds.into()));
    }

    fn swap_remove(&mut self, place: usize) {
        for figures in [&mut self.vcpus, &mut self.ram, &mut self.disk] {
            figures.swap_remove(place);
        }
        self.io_ops.swap_remove(place);
        self.failed_builds.swap_remove(place);
    }
}

/// What one instance takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeAmount {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mib: u32,
    /// Local disk in GiB.
    pub disk_gib: u32,
    /// How many instances it is.
    pub instances: u32,
}

impl Amount for ComputeAmount {
    fn take(&mut self, part: &Self) -> bool {
        let left = (|| {
            Some(Self {
                vcpus: self.vcpus.checked_sub(part.vcpus)?,
                ram_mib: self.ram_mib.checked_sub(part.ram_mib)?,
                disk_gib: self.disk_gib.checked_sub(part.disk_gib)?,
                instances: self.instances.checked_sub(part.instances)?,
            })
        })();
        if let Some(left) = left {
            *self = left;
        }
        left.is_some()
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
    }

    fn release(&mut self, amount: &ComputeAmount) {
        self.vcpus.release(amount.vcpus);
        self.ram.release(amount.ram_mib);
        self.disk.release(amount.disk_gib);
        self.held_instances = self.held_instances.saturating_sub(amount.instances);
    }

    fn growth_since(&self, before: &Self) -> ComputeAmount {
        ComputeAmount {
            vcpus: self.vcpus.used.saturating_sub(before.vcpus.used),
            ram_mib: self.ram.used.saturating_sub(before.ram.used),
            disk_gib: self.disk.used.saturating_sub(before.disk.used),
            instances: self.instances.saturating_sub(before.instances),
        }
    }
}

/// What an instance asks for.
#[derive(Debug, Clone)]
pub struct ComputeDemand {
    wishes: Wishes,
    /// What it takes.
    pub amount: ComputeAmount,
    /// Only this CPU architecture.
    pub architecture: Option<Wish>,
    /// Traits the host must have.
    pub required: Vec<Wish>,
    /// Traits the host must not have.
    pub forbidden: Vec<Wish>,
    /// The server group it is a member of.
    pub group: Option<Group>,
}

impl Demand for ComputeDemand {
    type Amount = ComputeAmount;

    fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    fn amount(&self) -> ComputeAmount {
        self.amount
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
        let architecture = image.properties.get("hw_architecture").filter(|text| !text.is_empty());
        let traits_that_are = |value: &str| {
            let mut names: Vec<_> = flavor
                .extra_specs
                .iter()
                .filter(|(_, wanted)| wanted.as_str() == value)
                .filter_map(|(key, _)| key.strip_prefix(TRAIT_PREFIX))
                .collect();
            names.sort_unstable();
            names.into_iter().map(|name| Wish::new(name, vocabulary)).collect()
        };
        Self {
            wishes: Wishes::new(world, &request.availability_zone, &hints.force_host, excluded),
            amount: ComputeAmount {
                vcpus: flavor.vcpus,
                ram_mib: flavor.ram_mib,
                disk_gib: if flavor.disk_gib > 0 { flavor.disk_gib } else { image.min_disk_gib },
                instances: 1,
            },
            architecture: architecture.map(|text| Wish::new(canonical_architecture(text), vocabulary)),
            required: traits_that_are("required"),
            forbidden: traits_that_are("forbidden"),
            group: request.server_group.as_ref().map(|group| Group::new(group, world)),
        }
    }

    /// The server group, if its rule is this one.
    #[must_use]
    pub fn group_under(&self, policy: Policy) -> Option<&Group> {
        self.group.as_ref().filter(|group| group.policy == policy)
    }
}

/// The spelling the Linux kernel uses, as Nova canonicalises it.
fn canonical_architecture(text: &str) -> String {
    let text = text.trim().to_ascii_lowercase();
    match text.as_str() {
        "amd64" => "x86_64".to_owned(),
        "arm64" => "aarch64".to_owned(),
        "i386" | "i486" | "i586" => "i686".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_taken_whole_or_not_at_all() {
        let mut growth = ComputeAmount { vcpus: 4, ram_mib: 4096, disk_gib: 10, instances: 2 };
        let part = ComputeAmount { vcpus: 2, ram_mib: 2048, disk_gib: 10, instances: 1 };
        assert!(growth.take(&part));
        assert!(!growth.take(&part), "the disk is used up");
        assert_eq!(growth, ComputeAmount { vcpus: 2, ram_mib: 2048, disk_gib: 0, instances: 1 });
    }

    #[test]
    fn architectures_have_one_spelling() {
        for (given, expected) in
            [("AMD64", "x86_64"), ("arm64", "aarch64"), ("i586", "i686"), ("riscv64", "riscv64")]
        {
            assert_eq!(canonical_architecture(given), expected);
        }
    }
}
