//! What the metadata of aggregates means: the keys that do more than be asked for.

use std::collections::BTreeMap;

use kilonova_proto::types::v1::HostAggregate;

use crate::check::{self, Checker};
use crate::{AggregateId, HostName, ProjectId};

/// Virtual CPUs per physical thread.
pub const CPU_ALLOCATION_RATIO: &str = "cpu_allocation_ratio";
/// Memory promised per memory there is.
pub const RAM_ALLOCATION_RATIO: &str = "ram_allocation_ratio";
/// Disk promised per disk there is.
pub const DISK_ALLOCATION_RATIO: &str = "disk_allocation_ratio";
/// At most so many instances on a host.
pub const MAX_INSTANCES: &str = "max_instances_per_host";
/// At most so many builds and the like at once on a host.
pub const MAX_IO_OPS: &str = "max_io_ops_per_host";
/// How the keys begin that name the only projects whose instances come here.
pub const PROJECTS: &str = "filter_tenant_id";
/// How the keys begin that name a trait without which no flavor comes here.
pub const TRAIT: &str = "trait:";
/// How the keys end that say what a weigher counts.
pub const MULTIPLIER: &str = "_weight_multiplier";

/// Most hosts in one.
const MAX_HOSTS: usize = 10_000;
/// Most hosts in one request.
const MAX_MEMBERS: usize = 1_000;

/// An aggregate that an operator describes.
pub fn check(check: &mut Checker, path: &str, id: &str, metadata: &BTreeMap<String, String>) {
    check.id::<AggregateId>(&format!("{path}.id"), id);
    check_metadata(check, &format!("{path}.metadata"), metadata);
}

/// What holds for the hosts of an aggregate.
pub fn check_metadata(check: &mut Checker, path: &str, metadata: &BTreeMap<String, String>) {
    check::metadata(check, path, metadata);
    for (key, value) in metadata {
        let number = value.trim().parse::<f64>().ok().filter(|number| number.is_finite());
        let expected = match key.as_str() {
            CPU_ALLOCATION_RATIO | RAM_ALLOCATION_RATIO | DISK_ALLOCATION_RATIO => {
                (!number.is_some_and(|ratio| ratio > 0.0)).then_some("a number above 0")
            }
            MAX_INSTANCES | MAX_IO_OPS => value.trim().parse::<u32>().err().map(|_| "a whole number"),
            key if key.ends_with(MULTIPLIER) => number.is_none().then_some("a number"),
            key if key.starts_with(TRAIT) => (value != "required").then_some("`required`"),
            key if key.starts_with(PROJECTS) => {
                let known = listed(value).all(|project| ProjectId::parse(project).is_ok());
                (!known || listed(value).next().is_none()).then_some("project ids, separated by commas")
            }
            _ => None,
        };
        if let Some(expected) = expected {
            check.ensure(false, &format!("{path}[{key:?}]"), expected);
        }
    }
}

/// Hosts that are to be put into one, or taken out.
pub fn check_members(check: &mut Checker, path: &str, hosts: &[String]) {
    check.ensure((1..=MAX_MEMBERS).contains(&hosts.len()), path, format!("1 to {MAX_MEMBERS}"));
    for (n, host) in hosts.iter().enumerate() {
        check.id::<HostName>(&format!("{path}[{n}]"), host);
    }
}

/// How many hosts one may have.
pub fn check_size(check: &mut Checker, path: &str, hosts: usize) {
    check.ensure(hosts <= MAX_HOSTS, path, format!("an aggregate has at most {MAX_HOSTS} hosts"));
}

/// The least number that any of a host's aggregates gives a key.
#[must_use]
pub fn least(aggregates: &[HostAggregate], key: &str) -> Option<f64> {
    let said = aggregates.iter().filter_map(|aggregate| aggregate.metadata.get(key));
    said.filter_map(|value| value.trim().parse::<f64>().ok()).min_by(f64::total_cmp)
}

/// The parts of a value that holds several, separated by commas.
pub fn listed(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(key: &str, value: &str) -> usize {
        let mut checker = Checker::new();
        let metadata = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check(&mut checker, "aggregate", "ssd", &metadata);
        checker.finish().map_or_else(|error| error.violations.len(), |()| 0)
    }

    #[test]
    fn keys_with_a_meaning_have_values_of_theirs() {
        let good = [
            ("cpu_allocation_ratio", "1.5"),
            ("max_instances_per_host", "20"),
            ("ram_weight_multiplier", "-1"),
            ("filter_tenant_id", "p1, p2"),
            ("filter_tenant_id_more", "p3"),
            ("trait:CUSTOM_WINDOWS", "required"),
            ("anything", "at all"),
        ];
        for (key, value) in good {
            assert_eq!(violations(key, value), 0, "{key}");
        }
        let bad = [
            ("cpu_allocation_ratio", "0"),
            ("ram_allocation_ratio", "inf"),
            ("max_io_ops_per_host", "-1"),
            ("cpu_weight_multiplier", "NaN"),
            ("filter_tenant_id", " , "),
            ("filter_tenant_id", "no spaces"),
            ("trait:X", "forbidden"),
        ];
        for (key, value) in bad {
            assert_eq!(violations(key, value), 1, "{key}");
        }
    }

    #[test]
    fn the_least_of_several_holds() {
        let with = |value: &str| HostAggregate {
            id: "a".into(),
            metadata: BTreeMap::from([(CPU_ALLOCATION_RATIO.to_owned(), value.to_owned())]),
        };
        assert_eq!(least(&[with("16"), with("2"), with("x")], CPU_ALLOCATION_RATIO), Some(2.0));
        assert_eq!(least(&[with("16")], RAM_ALLOCATION_RATIO), None);
    }
}
