//! What the image asks of a host: `hw_architecture`, `img_hv_type`, `hw_machine_type` and `img_hv_requested_version`, by the
//! names Glance gives them.

use super::Filter;
use crate::placement::facts::{
    ARCHITECTURE, Facts, HYPERVISOR_TYPE, HYPERVISOR_VERSION, MACHINE_TYPES, version_meets,
};
use crate::placement::{Block, Compute, ComputeDemand, ComputeRow, World};

/// Hosts that can run the image.
#[derive(Debug, Clone, Copy)]
pub struct ImagePropertiesFilter;

impl Filter<Compute> for ImagePropertiesFilter {
    fn name(&self) -> &'static str {
        "ImagePropertiesFilter"
    }

    fn depends_on_image(&self) -> bool {
        true
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.image.is_empty()
    }

    fn passes(&self, _: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        demand.image_fits.holds(row.facts)
    }

    fn retain(&self, world: &World<ComputeRow>, demand: &ComputeDemand, block: &mut Block<'_>) {
        block.keep_figures(&world.columns().own.facts, |facts| demand.image_fits.holds(facts));
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let facts = world.vocabulary().facts(row.facts);
        let missed = demand.image.iter().filter(|(property, wanted)| !meets(facts, property, wanted));
        let missed = missed.map(|(property, wanted)| {
            let (is, own) = match facts.get(fact(property)) {
                Some(own) => ("the host has", own.as_str()),
                None => ("the host", "does not say"),
            };
            format!("the image asks for {property} {wanted}, {is} {own}")
        });
        missed.collect::<Vec<_>>().join("; ")
    }
}

/// The properties that are looked at.
pub(in crate::placement) const PROPERTIES: [&str; 4] =
    ["hw_architecture", "img_hv_type", "hw_machine_type", "img_hv_requested_version"];

/// Which fact a property is about.
fn fact(property: &str) -> &'static str {
    match property {
        "hw_architecture" => ARCHITECTURE,
        "img_hv_type" => HYPERVISOR_TYPE,
        "hw_machine_type" => MACHINE_TYPES,
        _ => HYPERVISOR_VERSION,
    }
}

/// Whether a host with these facts meets a property. One that does not say is not taken at a guess.
pub(in crate::placement) fn meets(facts: &Facts, property: &str, wanted: &str) -> bool {
    facts.get(fact(property)).is_some_and(|own| match property {
        "img_hv_type" => own.eq_ignore_ascii_case(wanted),
        "hw_machine_type" => own.split(',').any(|one| one == wanted),
        "img_hv_requested_version" => version_meets(own, wanted),
        _ => own == wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use kilonova_proto::types::v1::{ComputeResources, Image};

    #[test]
    fn the_image_decides() {
        let mut world = World::new();
        let machine_types = vec!["pc-q35-7.2".to_owned(), "pc".to_owned()];
        let (hypervisor_type, hypervisor_version) = ("QEMU".to_owned(), "7.2.0".to_owned());
        let figures = ComputeResources { machine_types, hypervisor_type, hypervisor_version, ..resources() };
        host(&mut world, "c1", figures);
        host(&mut world, "c2", ComputeResources { cpu_architecture: String::new(), ..resources() });
        let check = |row: usize, property: &str, wanted: &str| {
            let mut request = instance(1, 1, 0);
            let properties = [(property.to_owned(), wanted.to_owned())].into();
            request.image = Some(Image { properties, ..Image::default() });
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[row];
            let passes =
                !ImagePropertiesFilter.asks(&demand) || ImagePropertiesFilter.passes(&world, &demand, row);
            (passes, ImagePropertiesFilter.detail(&world, &demand, row))
        };
        for (property, wanted) in [
            ("hw_architecture", ""),
            ("hw_architecture", "amd64"),
            ("img_hv_type", "qemu"),
            ("hw_machine_type", "pc-q35-7.2"),
            ("img_hv_requested_version", ">=6.0, <8"),
            ("os_distro", "debian"),
        ] {
            assert!(check(0, property, wanted).0, "{property} {wanted}");
        }
        for (property, wanted) in
            [("img_hv_type", "xen"), ("hw_machine_type", "q35"), ("img_hv_requested_version", ">8")]
        {
            assert!(!check(0, property, wanted).0, "{property} {wanted}");
        }
        let why = "the image asks for hw_architecture aarch64, the host has x86_64".to_owned();
        assert_eq!(check(0, "hw_architecture", "aarch64"), (false, why));
        let why = "the image asks for hw_architecture x86_64, the host does not say".to_owned();
        assert_eq!(check(1, "hw_architecture", "x86_64"), (false, why), "it is not taken at a guess");
    }
}
