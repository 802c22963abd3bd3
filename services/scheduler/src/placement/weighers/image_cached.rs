//! Whether the host has the bytes of the image already.

use super::Weigher;
use crate::placement::{Compute, ComputeDemand, ComputeRow};

/// 1 where the image is, else 0. Nova has no such weigher.
#[derive(Debug, Clone, Copy)]
pub struct ImageCachedWeigher;

impl Weigher<Compute> for ImageCachedWeigher {
    fn name(&self) -> &'static str {
        "ImageCachedWeigher"
    }

    fn key(&self) -> &'static str {
        "image_cached"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.image_id.is_some()
    }

    fn raw(&self, demand: &ComputeDemand, row: &ComputeRow) -> f64 {
        let is_there = demand.image_id.is_some_and(|image| row.images.binary_search(&image).is_ok());
        if is_there { 1.0 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::World;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, Image};

    #[test]
    fn only_the_host_that_has_the_image_counts() {
        let mut world = World::new();
        for (name, images) in [("c1", vec![]), ("c2", vec!["debian", "cirros"]), ("c3", vec!["debian"])] {
            let cached_images = images.into_iter().map(str::to_owned).collect();
            host(&mut world, name, ComputeResources { cached_images, ..resources() });
        }
        let demand = |image: &str| {
            let mut request = instance(1, 1, 0);
            request.image = Some(Image { id: image.into(), ..Image::default() });
            ComputeDemand::new(&request, &world)
        };
        let cirros = demand("cirros");
        let raw: Vec<f64> = world.rows().iter().map(|row| ImageCachedWeigher.raw(&cirros, row)).collect();
        assert_eq!(raw, [0.0, 1.0, 0.0]);
        assert!(!ImageCachedWeigher.asks(&demand("windows")), "no host ever had it");
    }
}
