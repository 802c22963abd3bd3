//! Traits the flavor requires or forbids: `trait:HW_CPU_X86_AVX2` = `required`.

use super::Filter;
use crate::placement::{Compute, ComputeDemand, ComputeRow, World};

/// Hosts with every required trait and none of the forbidden.
#[derive(Debug, Clone, Copy)]
pub struct TraitsFilter;

impl Filter<Compute> for TraitsFilter {
    fn name(&self) -> &'static str {
        "TraitsFilter"
    }

    fn asks(&self, demand: &ComputeDemand) -> bool {
        !demand.required.is_empty() || !demand.forbidden.is_empty()
    }

    fn passes(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> bool {
        let vocabulary = world.vocabulary();
        demand.required.iter().all(|wish| wish.is_in(row.traits, vocabulary))
            && !demand.forbidden.iter().any(|wish| wish.is_in(row.traits, vocabulary))
    }

    fn detail(&self, world: &World<ComputeRow>, demand: &ComputeDemand, row: &ComputeRow) -> String {
        let vocabulary = world.vocabulary();
        let lacks = demand.required.iter().filter(|wish| !wish.is_in(row.traits, vocabulary));
        let has = demand.forbidden.iter().filter(|wish| wish.is_in(row.traits, vocabulary));
        let lacks = lacks.map(|wish| format!("lacks {}", wish.text));
        let all: Vec<_> = lacks.chain(has.map(|wish| format!("has forbidden {}", wish.text))).collect();
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_with, instance, resources};

    #[test]
    fn required_and_forbidden() {
        let mut world = World::new();
        host_with(&mut world, "c1", "az1", &["HW_CPU_X86_AVX2", "COMPUTE_OLD"], resources());
        let check = |specs: &[(&str, &str)]| {
            let mut request = instance(1, 1, 0);
            let flavor = request.flavor.as_mut().unwrap();
            flavor.extra_specs =
                specs.iter().map(|(key, value)| (format!("trait:{key}"), (*value).to_owned())).collect();
            let demand = ComputeDemand::new(&request, &world);
            let row = &world.rows()[0];
            (TraitsFilter.passes(&world, &demand, row), TraitsFilter.detail(&world, &demand, row))
        };
        assert!(check(&[]).0);
        assert!(check(&[("HW_CPU_X86_AVX2", "required"), ("HW_GPU", "forbidden")]).0);
        assert_eq!(
            check(&[("HW_GPU", "required"), ("COMPUTE_OLD", "forbidden")]),
            (false, "lacks HW_GPU, has forbidden COMPUTE_OLD".into())
        );
    }
}
