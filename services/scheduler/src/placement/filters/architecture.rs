//! The CPU architecture the image was made for.

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// Hosts of the architecture the image's `hw_architecture` names.
#[derive(Debug, Clone, Copy)]
pub struct ArchitectureFilter;

impl Filter<Compute> for ArchitectureFilter {
    fn name(&self) -> &'static str {
        "ArchitectureFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        demand.architecture.is_some()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.architecture.as_ref().is_none_or(|wanted| wanted.is(row.architecture))
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let wanted = demand.architecture.as_ref().map_or("any", |wanted| wanted.text.as_str());
        match world.vocabulary().text(row.architecture) {
            "" => format!("the image is for {wanted}, the host does not say what it is"),
            own => format!("the image is for {wanted}, the host is {own}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, Image};

    #[test]
    fn the_image_decides() {
        let mut world = World::new();
        host(&mut world, "c1", resources());
        host(&mut world, "c2", ComputeResources { cpu_architecture: String::new(), ..resources() });
        let check = |row: usize, wanted: &str| {
            let mut request = instance(1, 1, 0);
            let properties = [("hw_architecture".to_owned(), wanted.to_owned())].into();
            request.image = Some(Image { properties, ..Image::default() });
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[row];
            (ArchitectureFilter.passes(&world, &demand, row), ArchitectureFilter.detail(&world, &demand, row))
        };
        assert!(check(0, "").0);
        assert!(check(0, "amd64").0, "other spellings of the same are the same");
        assert_eq!(check(0, "aarch64"), (false, "the image is for aarch64, the host is x86_64".into()));
        assert!(!check(1, "x86_64").0, "a host that does not say is not taken at a guess");
    }
}
