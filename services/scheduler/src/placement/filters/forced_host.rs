//! Only the one host or backend asked for; it still has to pass the other filters.

use super::Filter;
use crate::placement::{Demand, Row, Space, World};

/// The one host or backend asked for, or any.
#[derive(Debug, Clone, Copy)]
pub struct ForcedHostFilter;

impl<S: Space> Filter<S> for ForcedHostFilter {
    fn name(&self) -> &'static str {
        "ForcedHostFilter"
    }

    fn depends_on_image(&self) -> bool {
        true
    }

    fn asks(&self, demand: &S::Demand) -> bool {
        demand.wishes().forced.is_some()
    }

    fn passes(&self, _: &World<S::Row>, demand: &S::Demand, row: &S::Row) -> bool {
        demand.wishes().forced.as_ref().is_none_or(|(_, host)| *host == Some(row.head().host))
    }

    fn detail(&self, _: &World<S::Row>, demand: &S::Demand, _: &S::Row) -> String {
        let (wanted, known) = match &demand.wishes().forced {
            Some((name, host)) => (name.as_str(), host.is_some()),
            None => ("any", true),
        };
        let unknown = if known { "" } else { ", which this scheduler does not know" };
        format!("only {wanted} is wanted{unknown}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{host, instance, resources};
    use crate::placement::{Compute, ComputeDemand};
    use kilonova_proto::types::v1::SchedulerHints;

    #[test]
    fn only_the_one_asked_for() {
        let mut world = World::new();
        host(&mut world, "c1", resources());
        let check = |forced: &str| {
            let mut request = instance(1, 1, 0);
            request.hints = Some(SchedulerHints { force_host: forced.into(), ..SchedulerHints::default() });
            let demand = ComputeDemand::new(&request, &world);
            let detail = Filter::<Compute>::detail(&ForcedHostFilter, &world, &demand, &world.rows()[0]);
            (Filter::<Compute>::passes(&ForcedHostFilter, &world, &demand, &world.rows()[0]), detail)
        };
        assert!(check("").0);
        assert!(check("c1").0);
        assert_eq!(check("c9"), (false, "only c9 is wanted, which this scheduler does not know".into()));
    }
}
