//! Room for the local disk asked for: total × ratio − reserved − used − held.

use super::{Filter, keep_room, most_free, shortage};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts with enough local disk.
#[derive(Debug, Clone, Copy)]
pub struct DiskFilter;

impl Filter<Compute> for DiskFilter {
    fn name(&self) -> &'static str {
        "DiskFilter"
    }

    fn depends_on_image(&self) -> bool {
        true
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        row.disk.fits(demand.amount.disk_gib)
    }

    fn detail(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        shortage(&row.disk, demand.amount.disk_gib, "GiB")
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        keep_room(self, world, demand, block, &world.columns().own.disk.room, demand.amount.disk_gib);
    }

    fn closeness(&self, _: &ComputeDemand, row: &ComputeRow) -> Option<f64> {
        Some(row.disk.room() as f64)
    }

    fn nearest(&self, demand: &ComputeDemand, row: &ComputeRow, place: &str) -> Option<String> {
        Some(most_free(&row.disk, demand.amount.disk_gib, "GiB", place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, Image};

    #[test]
    fn a_flavor_without_a_disk_takes_the_size_of_the_image() {
        let mut world = World::new();
        host(&mut world, "c1", ComputeResources { disk_gib: 100, disk_used_gib: 80, ..resources() });
        let check = |flavor_gib: u32, image_gib: u32| {
            let mut request = instance(1, 1, flavor_gib);
            request.image = Some(Image { min_disk_gib: image_gib, ..Image::default() });
            DiskFilter.passes(&world, &ComputeDemand::new(&request, &world), &world.rows()[0])
        };
        assert!(check(20, 0));
        assert!(!check(21, 0));
        assert!(check(0, 20));
        assert!(!check(0, 30));
    }
}
