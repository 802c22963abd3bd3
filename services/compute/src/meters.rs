//! What is claimed, as gauges.

use kilonova_proto::types::v1::ComputeResources;
use kilonova_runtime::agent::work::Site;
use metrics::Gauge;

/// The gauges of one host.
pub(crate) struct Meters {
    vcpus: Gauge,
    ram_mib: Gauge,
    disk_gib: Gauge,
    instances: Gauge,
}

impl Meters {
    pub fn new(site: &Site) -> Self {
        Self {
            vcpus: site.claimed("vcpus"),
            ram_mib: site.claimed("ram_mib"),
            disk_gib: site.claimed("disk_gib"),
            instances: site.claimed("instances"),
        }
    }

    pub fn show(&self, resources: &ComputeResources) {
        self.vcpus.set(f64::from(resources.vcpus_used));
        self.ram_mib.set(f64::from(resources.ram_used_mib));
        self.disk_gib.set(f64::from(resources.disk_used_gib));
        self.instances.set(f64::from(resources.instances));
    }
}
