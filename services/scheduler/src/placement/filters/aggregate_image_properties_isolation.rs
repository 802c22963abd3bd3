//! Aggregates for some images: where the metadata has a key that the image has as a property, the values must agree.

use super::Filter;
use crate::placement::aggregates::{meets_property, said};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts whose aggregates allow what the image says of itself. An image that does not say is allowed everywhere.
#[derive(Debug, Clone, Copy)]
pub struct AggregateImagePropertiesIsolation;

impl Filter<Compute> for AggregateImagePropertiesIsolation {
    fn name(&self) -> &'static str {
        "AggregateImagePropertiesIsolation"
    }

    fn depends_on_image(&self) -> bool {
        true
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.aggregates.image.is_empty()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.aggregates.image_fits.holds(row.head.aggregates)
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().aggregates, |set| demand.aggregates.image_fits.holds(set));
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let set = world.vocabulary().aggregates(row.head.aggregates);
        let missed = demand.aggregates.image.iter().filter(|(name, value)| !meets_property(set, name, value));
        let missed = missed.map(|(name, value)| {
            let allowed: Vec<_> = said(set, name).collect();
            format!("is for images with {name} {}, this has {value}", allowed.join(" or "))
        });
        missed.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_in, instance};
    use kilonova_proto::types::v1::Image;

    #[test]
    fn what_both_say_must_agree() {
        let mut world = World::new();
        host_in(&mut world, "c1", &[("win", &[("os_distro", "windows, windows-server")])]);
        host_in(&mut world, "c2", &[("ssd", &[("disk", "ssd")])]);
        let check = |row: usize, properties: &[(&str, &str)]| {
            let mut request = instance(1, 1, 0);
            let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            request.image = Some(Image { properties: properties.collect(), ..Image::default() });
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[row];
            let filter = AggregateImagePropertiesIsolation;
            let passes = !filter.asks(&demand) || filter.passes(&world, &demand, row);
            (passes, filter.detail(&world, &demand, row))
        };
        assert!(check(0, &[]).0);
        assert!(check(0, &[("os_distro", "windows"), ("os_version", "11")]).0);
        let why = "is for images with os_distro windows, windows-server, this has debian".to_owned();
        assert_eq!(check(0, &[("os_distro", "debian")]), (false, why));
        assert!(check(1, &[("os_distro", "debian")]).0);
    }
}
