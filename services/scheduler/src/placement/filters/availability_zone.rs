//! In the zone asked for.

use super::Filter;
use crate::placement::{Block, Demand, Row, Space, World};

/// Candidates of the zone asked for.
#[derive(Debug, Clone, Copy)]
pub struct AvailabilityZoneFilter;

impl<S: Space> Filter<S> for AvailabilityZoneFilter {
    fn name(&self) -> &'static str {
        "AvailabilityZoneFilter"
    }

    fn asks(&self, demand: &S::Demand) -> bool {
        demand.wishes().zone.is_some()
    }

    fn passes(&self, _: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> bool {
        demand.wishes().zone.as_ref().is_none_or(|zone| zone.is(row.head().zone))
    }

    fn retain(&self, world: &World<S::Row>, demand: &S::Demand, block: &mut Block<'_>) {
        if let Some(zone) = &demand.wishes().zone {
            block.keep_figures(&world.columns().zones, |own| zone.is(own));
        }
    }

    fn detail(&self, world: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> String {
        let wanted = demand.wishes().zone.as_ref().map_or("any", |zone| zone.text.as_str());
        format!("is in zone {}, {wanted} wanted", world.vocabulary().text(row.head().zone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host_with, instance, resources};
    use crate::placement::{Compute, ComputeDemand};

    #[test]
    fn only_the_zone_asked_for() {
        let mut world = World::new();
        host_with(&mut world, "c1", "az1", &[], resources());
        let passes = |zone: &str| {
            let mut request = instance(1, 1, 0);
            request.availability_zone = zone.into();
            let demand = ComputeDemand::new(&request, &world);
            let detail =
                Filter::<Compute>::detail(&AvailabilityZoneFilter, &world, &demand, &world.rows()[0]);
            (Filter::<Compute>::passes(&AvailabilityZoneFilter, &world, &demand, &world.rows()[0]), detail)
        };
        assert!(passes("").0);
        assert!(passes("az1").0);
        assert_eq!(passes("az2"), (false, "is in zone az1, az2 wanted".into()));
    }
}
