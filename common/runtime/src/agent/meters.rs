//! What an agent counts.

use metrics::{Counter, Gauge, Histogram};

use super::work::Site;

/// The counters of one agent.
pub(super) struct Meters {
    pub started: Counter,
    pub succeeded: Counter,
    pub failed: Counter,
    pub overtaken: Counter,
    pub removed: Counter,
    pub took: Histogram,
    pub orphans: Gauge,
    pub strays: Gauge,
    pub foreign_store: Gauge,
}

impl Meters {
    pub fn new(site: &Site, resource: &'static str) -> Self {
        let (service, host) = (site.service.as_str(), site.host.to_string());
        let builds = |result: &'static str| {
            metrics::counter!("kilonova_agent_builds_total",
                "service" => service, "host" => host.clone(), "resource" => resource, "result" => result)
        };
        Self {
            started: builds("started"),
            succeeded: builds("succeeded"),
            failed: builds("failed"),
            overtaken: builds("overtaken"),
            removed: metrics::counter!("kilonova_agent_removed_total",
                "service" => service, "host" => host.clone(), "resource" => resource),
            took: metrics::histogram!("kilonova_agent_build_seconds",
                "service" => service, "host" => host.clone(), "resource" => resource),
            orphans: metrics::gauge!("kilonova_agent_orphans",
                "service" => service, "host" => host.clone(), "resource" => resource),
            strays: metrics::gauge!("kilonova_agent_strays",
                "service" => service, "host" => host.clone(), "resource" => resource),
            foreign_store: metrics::gauge!("kilonova_agent_foreign_store",
                "service" => service, "host" => host),
        }
    }
}

impl Site {
    /// Shows how many reports of one kind of resource wait to be accepted.
    pub fn pending_reports(&self, resource: &'static str) -> Gauge {
        metrics::gauge!("kilonova_agent_reports_pending",
            "service" => self.service.as_str(), "host" => self.host.to_string(), "resource" => resource)
    }

    /// Shows how much of a resource is claimed, in its own unit.
    pub fn claimed(&self, resource: impl Into<String>) -> Gauge {
        metrics::gauge!("kilonova_agent_claimed",
            "service" => self.service.as_str(), "host" => self.host.to_string(), "resource" => resource.into())
    }
}
