//! NUMA cells: which cells of a host hold the cells of a guest. Pure: schedulers and hosts reckon alike.
//!
//! The cells of one guest are all alike, and each lies on a host cell of its own. So as many host cells as there are guest
//! cells must hold one each, and it does not matter which: those with most free threads are taken first, as Nova spreads.

use std::collections::BTreeMap;
use std::fmt;

use kilonova_proto::types::v1::{HugePages, NumaCell};
use serde::{Deserialize, Serialize};

use crate::numa_spec::{GuestCells, PageSize};

/// One cell of a host: what there is, and what guests that asked for cells have of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCell {
    /// Its number on the host.
    pub id: u32,
    /// Physical threads.
    pub cpus: u32,
    /// Threads that belong to one virtual CPU each.
    pub pinned: u32,
    /// Virtual CPUs that share the other threads.
    pub shared: u32,
    /// Memory in MiB, that in huge pages included.
    pub memory_mib: u32,
    /// Memory in ordinary pages that is given, in MiB.
    pub used_mib: u32,
    /// Huge pages, by their size in KiB.
    pub pages: BTreeMap<u32, Pages>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pages {
    /// How many there are.
    pub total: u32,
    /// How many are given.
    pub used: u32,
}

/// What a guest has of one host cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellShare {
    /// The host cell.
    pub cell: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Whether each has a thread of its own.
    pub pinned: bool,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The size of its huge pages in KiB; 0 for ordinary ones.
    pub page_kib: u32,
}

/// Why a guest's cells do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaShortage {
    wanted: GuestCells,
    /// How many cells the host has, and how many of these hold a guest cell.
    cells: usize,
    fitting: usize,
    /// What most any cell has free: threads or virtual CPUs, and memory in pages as asked for.
    cpus: u32,
    memory_mib: u32,
}

impl NumaShortage {
    /// How many of the host's cells would each hold a guest cell.
    #[must_use]
    pub fn fitting(&self) -> usize {
        self.fitting
    }
}

impl fmt::Display for NumaShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, cells, fitting, cpus, memory_mib } = self;
        write!(
            f,
            "needs {wanted}; {fitting} of {cells} cells do, at most {cpus} CPUs and {memory_mib} MiB are free in one"
        )
    }
}

impl HostCell {
    /// Most virtual CPUs that one guest cell may have here; with threads of their own, or sharing them.
    fn free_cpus(&self, pinned: bool, ratio: f64) -> u32 {
        let unpinned = self.cpus.saturating_sub(self.pinned);
        // Those that share must have room on what is left, which a float too large for the type does not limit.
        if pinned {
            let kept = (f64::from(self.shared) / ratio).ceil() as u32;
            unpinned.saturating_sub(kept)
        } else {
            ((f64::from(unpinned) * ratio).floor() as u32).saturating_sub(self.shared).min(unpinned)
        }
    }

    /// Free memory in MiB, in pages of this size in KiB; 0 for ordinary ones.
    fn free_mib(&self, page_kib: u32) -> u32 {
        if page_kib > 0 {
            let Pages { total, used } = self.pages.get(&page_kib).copied().unwrap_or_default();
            return mib(total.saturating_sub(used), page_kib);
        }
        self.ordinary_mib().saturating_sub(self.used_mib)
    }

    /// Memory in MiB that is not set apart in huge pages.
    #[must_use]
    pub fn ordinary_mib(&self) -> u32 {
        let huge =
            self.pages.iter().map(|(size, pages)| mib(pages.total, *size)).fold(0, u32::saturating_add);
        self.memory_mib.saturating_sub(huge)
    }

    /// The sizes of pages that would do, the largest first.
    fn sizes(&self, wanted: PageSize) -> Vec<u32> {
        let huge = self.pages.keys().rev().copied();
        match wanted {
            PageSize::Small => vec![0],
            PageSize::Large => huge.collect(),
            PageSize::Any => huge.chain([0]).collect(),
            PageSize::Kib(size) => vec![size],
        }
    }

    /// The size of pages in which this memory fits.
    fn page_kib(&self, wanted: &GuestCells) -> Option<u32> {
        let whole = |size: u32| size == 0 || u64::from(wanted.memory_mib) * 1024 % u64::from(size) == 0;
        let fits = |size: &u32| whole(*size) && wanted.memory_mib <= self.free_mib(*size);
        self.sizes(wanted.page_size).into_iter().find(fits)
    }

    fn change(&mut self, share: &CellShare, by: impl Fn(u32, u32) -> u32) {
        let cpus = if share.pinned { &mut self.pinned } else { &mut self.shared };
        *cpus = by(*cpus, share.vcpus);
        if share.page_kib == 0 {
            self.used_mib = by(self.used_mib, share.memory_mib);
        } else {
            let pages = self.pages.entry(share.page_kib).or_default();
            pages.used = by(pages.used, pages_of(share.memory_mib, share.page_kib));
        }
    }
}

fn mib(pages: u32, page_kib: u32) -> u32 {
    u32::try_from(u64::from(pages) * u64::from(page_kib) / 1024).unwrap_or(u32::MAX)
}

fn pages_of(memory_mib: u32, page_kib: u32) -> u32 {
    u32::try_from((u64::from(memory_mib) * 1024).div_ceil(u64::from(page_kib))).unwrap_or(u32::MAX)
}

/// The cells of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostCells(pub Vec<HostCell>);

impl HostCells {
    /// Which cells hold these; `ratio` is how many virtual CPUs may share a thread.
    pub fn fit(&self, wanted: &GuestCells, ratio: f64) -> Result<Vec<CellShare>, NumaShortage> {
        let &GuestCells { count, vcpus, memory_mib, pinned, .. } = wanted;
        let free_cpus = |cell: &HostCell| cell.free_cpus(pinned, ratio);
        let mut fitting: Vec<(u32, CellShare)> = self
            .0
            .iter()
            .filter(|cell| vcpus <= free_cpus(cell))
            .filter_map(|cell| {
                let page_kib = cell.page_kib(wanted)?;
                Some((free_cpus(cell), CellShare { cell: cell.id, vcpus, pinned, memory_mib, page_kib }))
            })
            .collect();
        if fitting.len() < count as usize {
            let memory = self
                .0
                .iter()
                .flat_map(|cell| cell.sizes(wanted.page_size).into_iter().map(|size| cell.free_mib(size)));
            return Err(NumaShortage {
                wanted: *wanted,
                cells: self.0.len(),
                fitting: fitting.len(),
                cpus: self.0.iter().map(free_cpus).max().unwrap_or_default(),
                memory_mib: memory.max().unwrap_or_default(),
            });
        }
        fitting.sort_by_key(|(free, share)| (std::cmp::Reverse(*free), share.cell));
        Ok(fitting.into_iter().take(count as usize).map(|(_, share)| share).collect())
    }

    /// Takes of the cells, whether or not it is there. A cell that the host has no more holds nothing.
    pub fn take(&mut self, shares: &[CellShare]) {
        self.change(shares, u32::saturating_add);
    }

    /// Gives back to the cells.
    pub fn give_back(&mut self, shares: &[CellShare]) {
        self.change(shares, u32::saturating_sub);
    }

    fn change(&mut self, shares: &[CellShare], by: impl Fn(u32, u32) -> u32) {
        for share in shares {
            if let Some(cell) = self.0.iter_mut().find(|cell| cell.id == share.cell) {
                cell.change(share, &by);
            }
        }
    }

    /// The threads that belong to one virtual CPU each.
    #[must_use]
    pub fn pinned(&self) -> u32 {
        self.0.iter().map(|cell| cell.pinned).fold(0, u32::saturating_add)
    }

    /// The virtual CPUs of guests that asked for cells.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.0.iter().map(|cell| cell.shared).fold(self.pinned(), u32::saturating_add)
    }

    /// What a host published.
    #[must_use]
    pub fn read(cells: &[NumaCell]) -> Self {
        let pages = |cell: &NumaCell| {
            let pages = cell.huge_pages.iter();
            pages
                .filter(|pages| pages.size_kib > 0)
                .map(|pages| (pages.size_kib, Pages { total: pages.total, used: pages.used }))
                .collect()
        };
        let cells = cells.iter().map(|cell| HostCell {
            id: cell.id,
            cpus: cell.cpus,
            pinned: cell.cpus_pinned,
            shared: cell.vcpus_shared,
            memory_mib: cell.memory_mib,
            used_mib: cell.memory_used_mib,
            pages: pages(cell),
        });
        Self(cells.collect())
    }

    /// As a host publishes it.
    #[must_use]
    pub fn tell(&self) -> Vec<NumaCell> {
        let pages = |(size_kib, Pages { total, used }): (&u32, &Pages)| HugePages {
            size_kib: *size_kib,
            total: *total,
            used: *used,
        };
        let cells = self.0.iter().map(|cell| NumaCell {
            id: cell.id,
            cpus: cell.cpus,
            cpus_pinned: cell.pinned,
            vcpus_shared: cell.shared,
            memory_mib: cell.memory_mib,
            memory_used_mib: cell.used_mib,
            huge_pages: cell.pages.iter().map(pages).collect(),
        });
        cells.collect()
    }
}

#[cfg(test)]
#[path = "numa_tests.rs"]
mod tests;
