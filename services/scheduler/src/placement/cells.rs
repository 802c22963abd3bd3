//! The NUMA cells of a host. Few hosts have any and few requests ask for them, so they lie beside the rows.

use std::sync::Arc;

use kilonova_model::numa::HostCells;
use kilonova_model::numa_spec::GuestCells;
use kilonova_proto::types::v1::ComputeResources;

use super::figure::Figure;

/// The NUMA cells of a host.
#[derive(Debug, Clone, Default)]
pub struct HostNuma(Option<Arc<Numa>>);

#[derive(Debug, Clone, Default)]
struct Numa {
    /// As the host says.
    told: HostCells,
    /// Promised and not in `told` yet, in this order.
    held: Vec<GuestCells>,
    /// What there is, with what is promised taken.
    left: HostCells,
    /// Physical threads of the host.
    threads: u32,
    /// Virtual CPUs for each thread that is shared.
    ratio: f64,
}

impl Numa {
    fn take(&mut self, wanted: &GuestCells) {
        if let Ok(shares) = self.left.fit(wanted, self.ratio) {
            self.left.take(&shares);
        }
    }

    /// Virtual CPUs that may share the threads left when so many more are pinned.
    fn capacity(&self, more: u32) -> (u32, u32) {
        let shared = self.threads.saturating_sub(self.left.pinned()).saturating_sub(more);
        (shared, (f64::from(shared) * self.ratio).floor() as u32)
    }
}

impl HostNuma {
    /// Reads what a host published; and its virtual CPUs, of which those with threads of their own are no part.
    #[must_use]
    pub fn new(figures: &ComputeResources) -> (Self, Figure) {
        let told = HostCells::read(&figures.numa_cells);
        let (threads, pinned) = (figures.vcpus, told.pinned());
        let used = figures.vcpus_used.saturating_sub(pinned);
        let vcpus = Figure::new(threads.saturating_sub(pinned), used, 0, figures.cpu_allocation_ratio, 4.0);
        if told.0.is_empty() {
            return (Self::default(), vcpus);
        }
        let told_ratio = figures.cpu_allocation_ratio;
        let ratio = if told_ratio.is_finite() && told_ratio > 0.0 { told_ratio } else { 4.0 };
        let (left, held) = (told.clone(), Vec::new());
        (Self(Some(Arc::new(Numa { told, held, left, threads, ratio }))), vcpus)
    }

    /// Why the cells do not fit beside virtual CPUs that share the host's threads, and how many host cells would do; none if
    /// they fit.
    #[must_use]
    pub fn short_of(&self, wanted: &GuestCells, vcpus: &Figure) -> Option<(usize, String)> {
        let Some(numa) = self.0.as_deref() else {
            return Some((0, format!("needs {wanted}, has no NUMA cells")));
        };
        if let Err(short) = numa.left.fit(wanted, numa.ratio) {
            return Some((short.fitting(), short.to_string()));
        }
        let (threads, capacity) = numa.capacity(wanted.pinned_vcpus());
        let sharing = u64::from(vcpus.used) + u64::from(vcpus.held);
        let is_short = wanted.pinned && sharing > u64::from(capacity);
        is_short.then(|| {
            let left =
                format!("{sharing} vCPUs cannot share the {threads} threads left, ratio {:?}", numa.ratio);
            (wanted.count as usize, format!("needs {wanted}; {left}"))
        })
    }

    /// By how many the virtual CPUs of guests that asked for cells have grown in the host's own report.
    #[must_use]
    pub fn growth_since(&self, before: &Self) -> u32 {
        let vcpus = |numa: &Self| numa.0.as_deref().map_or(0, |numa| numa.told.vcpus());
        vcpus(self).saturating_sub(vcpus(before))
    }

    pub(super) fn hold(&mut self, wanted: &GuestCells, vcpus: &mut Figure) {
        let Some(numa) = self.0.as_mut().map(Arc::make_mut) else { return };
        numa.held.push(*wanted);
        numa.take(wanted);
        (vcpus.total, vcpus.capacity) = numa.capacity(0);
    }

    pub(super) fn release(&mut self, wanted: &GuestCells, vcpus: &mut Figure) {
        let Some(numa) = self.0.as_mut().map(Arc::make_mut) else { return };
        if let Some(place) = numa.held.iter().rposition(|held| held == wanted) {
            numa.held.remove(place);
        }
        numa.left.clone_from(&numa.told);
        numa.held.clone().iter().for_each(|held| numa.take(held));
        (vcpus.total, vcpus.capacity) = numa.capacity(0);
    }
}
