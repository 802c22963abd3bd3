//! The PCI devices of a host. Few hosts have any and few requests ask for them, so they lie beside the rows.

use std::sync::Arc;

use kilonova_model::pci::{Devices, PciPools};
use kilonova_proto::types::v1::PciPool;

/// The PCI devices of a host.
#[derive(Debug, Clone, Default)]
pub struct HostDevices(Option<Arc<Pools>>);

#[derive(Debug, Clone, Default)]
struct Pools {
    /// As the host says.
    told: PciPools,
    /// Those promised and not in `told` yet are used here.
    left: PciPools,
}

static NONE: PciPools = PciPools::NONE;

impl HostDevices {
    /// Reads what a host published.
    #[must_use]
    pub fn new(pools: &[PciPool]) -> Self {
        if pools.is_empty() {
            return Self::default();
        }
        let told = PciPools::read(pools);
        Self(Some(Arc::new(Pools { left: told.clone(), told })))
    }

    /// What there is, with what is promised counted as used.
    #[must_use]
    pub fn left(&self) -> &PciPools {
        self.0.as_deref().map_or(&NONE, |pools| &pools.left)
    }

    /// How few are left: 100 less their number, and at least 1, as Nova counts.
    #[must_use]
    pub fn scarcity(&self) -> i64 {
        100 - i64::from(self.left().free_in_all().min(99))
    }

    /// By how much the host's own report of what is used has grown.
    #[must_use]
    pub fn growth_since(&self, before: &Self) -> Devices {
        let told = |devices: &Self| devices.0.as_deref().map(|pools| pools.told.clone()).unwrap_or_default();
        if self.0.is_none() { Devices::new() } else { told(self).growth_since(&told(before)) }
    }

    pub(super) fn hold(&mut self, devices: &Devices) {
        if let Some(pools) = self.asked(devices) {
            pools.left.take(devices);
        }
    }

    pub(super) fn release(&mut self, devices: &Devices) {
        if let Some(pools) = self.asked(devices) {
            pools.left.give_back(devices);
        }
    }

    /// The pools, to change them by devices; nothing is to be changed if there are none of either.
    fn asked(&mut self, devices: &Devices) -> Option<&mut Pools> {
        if devices.is_empty() { None } else { self.0.as_mut().map(Arc::make_mut) }
    }
}
