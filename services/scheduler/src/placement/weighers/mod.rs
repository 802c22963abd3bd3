//! How good is this candidate, compared with the others?

mod allocated_capacity;
mod build_failure;
mod capacity;
mod cpu;
mod disk;
mod goodness;
mod hypervisor_version;
mod image_cached;
mod io_ops;
mod num_instances;
mod pci;
mod ram;
mod server_group_soft_affinity;
mod server_group_soft_anti_affinity;
mod volume_number;
mod zone_spread;

pub use allocated_capacity::AllocatedCapacityWeigher;
pub use build_failure::BuildFailureWeigher;
pub use capacity::CapacityWeigher;
pub use cpu::CPUWeigher;
pub use disk::DiskWeigher;
pub use goodness::GoodnessWeigher;
pub use hypervisor_version::HypervisorVersionWeigher;
pub use image_cached::ImageCachedWeigher;
pub use io_ops::IoOpsWeigher;
pub use num_instances::NumInstancesWeigher;
pub use pci::PCIWeigher;
pub use ram::RAMWeigher;
pub use server_group_soft_affinity::ServerGroupSoftAffinityWeigher;
pub use server_group_soft_anti_affinity::ServerGroupSoftAntiAffinityWeigher;
pub use volume_number::VolumeNumberWeigher;
pub use zone_spread::ZoneSpreadWeigher;

use super::columns::Columns;
use super::space::Space;
use super::vocabulary::{AggregatesId, Number};

/// One measure.
pub trait Weigher<S: Space>: Send + Sync {
    /// Its name, as in Nova or Cinder where it is the same rule.
    fn name(&self) -> &'static str;

    /// The name of its multiplier in the configuration, and with `_weight_multiplier` in the metadata of aggregates.
    fn key(&self) -> &'static str;

    /// Whether this demand is of interest to the weigher at all; it does not count otherwise.
    fn asks(&self, _demand: &S::Demand) -> bool {
        true
    }

    /// The figure it looks at. Finite.
    fn raw(&self, demand: &S::Demand, row: &S::Row) -> f64;

    /// The same of every row, if there is a column of it.
    fn column<'a>(&self, _columns: &'a Columns<S::Row>) -> Option<&'a [i32]> {
        None
    }
}

/// The least and the greatest figure of one weigher over all that are left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeigherRange {
    least: f64,
    greatest: f64,
}

impl WeigherRange {
    /// The range of nothing.
    pub(super) const EMPTY: Self = Self { least: f64::INFINITY, greatest: f64::NEG_INFINITY };

    pub(super) fn of(figures: &[f64]) -> Self {
        figures
            .iter()
            .fold(Self::EMPTY, |range, figure| range.with(Self { least: *figure, greatest: *figure }))
    }

    /// Of the figures whose lanes are all ones: written so that several are compared at once.
    pub(super) fn of_lanes(figures: &[i32], lanes: &[i32]) -> Self {
        let (mut least, mut greatest) = (i32::MAX, i32::MIN);
        for (figure, lane) in figures.iter().zip(lanes) {
            least = least.min(figure & lane | i32::MAX & !lane);
            greatest = greatest.max(figure & lane | i32::MIN & !lane);
        }
        if least > greatest { Self::EMPTY } else { Self { least: least.into(), greatest: greatest.into() } }
    }

    /// Both ranges as one.
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            least: if other.least < self.least { other.least } else { self.least },
            greatest: if other.greatest > self.greatest { other.greatest } else { self.greatest },
        }
    }

    /// Adds to each weight what its figure counts by the same multiplier.
    pub(super) fn add_weights<T>(
        &self,
        weights: &mut [f64],
        figures: &[T],
        multiplier: f64,
        raw: impl Fn(&T) -> f64,
    ) {
        let scale = multiplier / (self.greatest - self.least);
        for (weight, figure) in weights.iter_mut().zip(figures) {
            *weight += scale * (raw(figure) - self.least);
        }
    }

    /// Adds to each weight what its figure counts by the multiplier of its set of aggregates.
    pub(super) fn add_weights_by<T>(
        &self,
        weights: &mut [f64],
        figures: &[T],
        sets: &[AggregatesId],
        multipliers: &[f64],
        raw: impl Fn(&T) -> f64,
    ) {
        for ((weight, figure), set) in weights.iter_mut().zip(figures).zip(sets) {
            let scale = multipliers[set.place()] / (self.greatest - self.least);
            *weight += scale * (raw(figure) - self.least);
        }
    }

    /// Whether all are equal.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.greatest <= self.least
    }

    /// A figure brought to 0..1. When all are equal all get 0, as in Nova.
    #[must_use]
    pub fn normalize(&self, raw: f64) -> f64 {
        let width = self.greatest - self.least;
        if width > 0.0 { (raw - self.least) / width } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, host, instance, pool, resources, volume};
    use crate::placement::{Compute, ComputeAmount, ComputeDemand, Row, Storage, StorageDemand, World};
    use kilonova_proto::types::v1::{ComputeResources, StoragePool};

    #[test]
    fn normalised_to_the_range_of_those_left() {
        let range = WeigherRange::of(&[4.0, 2.0, 10.0]);
        assert_eq!([2.0, 4.0, 10.0].map(|raw| range.normalize(raw)), [0.0, 0.25, 1.0]);
        assert_eq!(WeigherRange::of(&[3.0, 3.0]).normalize(3.0), 0.0);
    }

    #[test]
    fn hosts_are_measured_with_what_is_held() {
        let mut world = World::new();
        let figures = ComputeResources {
            vcpus: 4,
            vcpus_used: 2,
            ram_used_mib: 1024,
            disk_used_gib: 100,
            instances: 3,
            io_ops: 2,
            failed_builds: 5,
            hypervisor_version: "7.2".into(),
            ..resources()
        };
        let id = host(&mut world, "c1", figures);
        world.update_rows(id, |row| {
            row.hold(&ComputeAmount {
                vcpus: 1,
                ram_mib: 512,
                disk_gib: 10,
                instances: 1,
                ..ComputeAmount::default()
            });
        });
        let demand = ComputeDemand::new(&instance(1, 1, 1), &world);
        let weighers: [(Box<dyn Weigher<Compute>>, f64); 7] = [
            (Box::new(RAMWeigher), 64_000.0),
            (Box::new(CPUWeigher), 13.0),
            (Box::new(DiskWeigher), 390.0),
            (Box::new(IoOpsWeigher), 3.0),
            (Box::new(BuildFailureWeigher), 5.0),
            (Box::new(NumInstancesWeigher), 4.0),
            (Box::new(HypervisorVersionWeigher), 7_002_000.0),
        ];
        for (weigher, expected) in weighers {
            assert_eq!(weigher.raw(&demand, &world.rows()[0]), expected, "{}", weigher.name());
        }
    }

    #[test]
    fn pools_are_measured_by_what_may_be_promised() {
        let mut world = World::new();
        backend(
            &mut world,
            "n1@file",
            &[StoragePool { allocated_gib: 7, free_gib: 900, volumes: 3, ..pool("p") }],
        );
        let demand = StorageDemand::new(&volume(1, &[]), &world);
        assert_eq!(Weigher::<Storage>::raw(&CapacityWeigher, &demand, &world.rows()[0]), 900.0);
        assert_eq!(Weigher::<Storage>::raw(&AllocatedCapacityWeigher, &demand, &world.rows()[0]), 7.0);
        assert_eq!(VolumeNumberWeigher.raw(&demand, &world.rows()[0]), 3.0);
    }
}
