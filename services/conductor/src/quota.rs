//! What a project may use, and what it uses: pure arithmetic.

use kilonova_model::{Error, Reason};
use kilonova_proto::types::v1::{QuotaLimits, QuotaUsage};

/// The names and figures of all resources, in one order.
pub(crate) fn figures(usage: &QuotaUsage) -> [(&'static str, u32); 6] {
    [
        ("instances", usage.instances),
        ("cores", usage.cores),
        ("ram_mib", usage.ram_mib),
        ("volumes", usage.volumes),
        ("gigabytes", usage.gigabytes),
        ("snapshots", usage.snapshots),
    ]
}

fn limit_of(limits: &QuotaLimits, name: &str) -> i32 {
    match name {
        "instances" => limits.instances,
        "cores" => limits.cores,
        "ram_mib" => limits.ram_mib,
        "volumes" => limits.volumes,
        "gigabytes" => limits.gigabytes,
        _ => limits.snapshots,
    }
}

/// Both together.
#[must_use]
pub fn sum(a: &QuotaUsage, b: &QuotaUsage) -> QuotaUsage {
    combine(a, b, u32::saturating_add)
}

/// The first without the second, never below nothing.
#[must_use]
pub fn difference(a: &QuotaUsage, b: &QuotaUsage) -> QuotaUsage {
    combine(a, b, u32::saturating_sub)
}

fn combine(a: &QuotaUsage, b: &QuotaUsage, op: fn(u32, u32) -> u32) -> QuotaUsage {
    QuotaUsage {
        instances: op(a.instances, b.instances),
        cores: op(a.cores, b.cores),
        ram_mib: op(a.ram_mib, b.ram_mib),
        volumes: op(a.volumes, b.volumes),
        gigabytes: op(a.gigabytes, b.gigabytes),
        snapshots: op(a.snapshots, b.snapshots),
    }
}

/// Whether the project may use `wanted` more. Only what is asked for is judged: a project over one limit may still
/// use another resource.
pub fn check(
    project: &str,
    limits: &QuotaLimits,
    used: &QuotaUsage,
    wanted: &QuotaUsage,
) -> Result<(), Error> {
    for ((name, used), (_, wanted)) in figures(used).into_iter().zip(figures(wanted)) {
        let limit = limit_of(limits, name);
        let after = i64::from(used) + i64::from(wanted);
        if wanted > 0 && limit >= 0 && after > i64::from(limit) {
            return Err(Error::new(
                Reason::QuotaExceeded,
                format!(
                    "quota of project {project:?} for {name} exceeded: {wanted} requested, {used} of {limit} used"
                ),
            )
            .with("resource", name)
            .with("limit", limit)
            .with("used", used)
            .with("requested", wanted));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QuotaLimits =
        QuotaLimits { instances: 10, cores: 20, ram_mib: 1000, volumes: 1, gigabytes: -1, snapshots: 0 };

    #[test]
    fn a_refusal_names_the_figures() {
        let used = QuotaUsage { instances: 8, cores: 8, ..Default::default() };
        let wanted = QuotaUsage { instances: 3, cores: 3, ..Default::default() };
        let error = check("demo", &LIMITS, &used, &wanted).unwrap_err();
        assert_eq!(error.reason, Reason::QuotaExceeded);
        assert_eq!(error.metadata["resource"], "instances");
        assert_eq!((error.metadata["used"].as_str(), error.metadata["limit"].as_str()), ("8", "10"));
    }

    #[test]
    fn no_limit_and_what_is_not_asked_for_do_not_refuse() {
        let used = QuotaUsage { volumes: 5, ..Default::default() };
        let wanted = QuotaUsage { gigabytes: u32::MAX, instances: 10, ..Default::default() };
        assert_eq!(check("demo", &LIMITS, &used, &wanted), Ok(()));
    }

    #[test]
    fn use_never_goes_below_nothing() {
        let one = QuotaUsage { instances: 1, ..Default::default() };
        assert_eq!(difference(&QuotaUsage::default(), &one), QuotaUsage::default());
        assert_eq!(difference(&sum(&one, &one), &one), one);
    }
}
