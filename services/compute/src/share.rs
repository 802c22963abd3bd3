//! What an instance takes of a host.

use std::fmt;

use kilonova_model::numa::CellShare;
use kilonova_model::pci::Devices;
use serde::{Deserialize, Serialize};

/// The resources that every instance takes of, or that a host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Virtual CPUs, or physical threads.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mib: u32,
    /// Local disk in GiB.
    pub disk_gib: u32,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            ram_mib: self.ram_mib.saturating_add(other.ram_mib),
            disk_gib: self.disk_gib.saturating_add(other.disk_gib),
        }
    }

    /// What is left without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            ram_mib: self.ram_mib.saturating_sub(other.ram_mib),
            disk_gib: self.disk_gib.saturating_sub(other.disk_gib),
        }
    }
}

/// What one instance takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// What every instance takes of.
    #[serde(flatten)]
    pub amount: Amount,
    /// Its PCI devices.
    #[serde(skip_serializing_if = "Devices::is_empty")]
    pub devices: Devices,
    /// What it has of which NUMA cells, if it asked for cells.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cells: Vec<CellShare>,
}

impl Share {
    /// Threads that belong to one of its virtual CPUs each.
    #[must_use]
    pub fn pinned(&self) -> u32 {
        self.cells.iter().filter(|cell| cell.pinned).map(|cell| cell.vcpus).fold(0, u32::saturating_add)
    }
}

impl From<Amount> for Share {
    fn from(amount: Amount) -> Self {
        Self { amount, ..Self::default() }
    }
}

/// As history shows it.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Amount { vcpus, ram_mib, disk_gib } = self.amount;
        write!(f, "{vcpus} VCPUs, {ram_mib} MiB, {disk_gib} GiB")?;
        self.devices.iter().try_for_each(|(alias, count)| write!(f, ", {count} {alias}"))?;
        self.cells.iter().try_for_each(|share| {
            let dedicated = if share.pinned { "dedicated " } else { "" };
            write!(f, ", {} {dedicated}CPUs and {} MiB of cell {}", share.vcpus, share.memory_mib, share.cell)
        })
    }
}
