//! Room on the host: what there is, what may be promised of it, and who holds what. Pure.

use std::collections::HashMap;

use kilonova_model::numa::{CellShare, HostCells};
use kilonova_model::numa_spec::GuestCells;
use kilonova_model::pci::{Devices, PciPools};
use kilonova_model::{Error, InstanceId, Reason};
use kilonova_runtime::agent::work;

use crate::config::Allocation;
use crate::driver::GuestSpec;
use crate::share::{Amount, Share};

/// The claims of one host.
#[derive(Debug)]
pub struct HostClaims {
    total: Amount,
    allocation: Allocation,
    held: HashMap<InstanceId, Share>,
    used: Amount,
    pools: PciPools,
    cells: HostCells,
}

impl HostClaims {
    /// Nothing is claimed of `total`, `devices` and `cells`.
    pub fn new(total: Amount, devices: &Devices, cells: &HostCells, allocation: Allocation) -> Self {
        let (pools, cells) = (PciPools::new(devices), cells.clone());
        Self { total, allocation, held: HashMap::new(), used: Amount::default(), pools, cells }
    }

    /// What the host has.
    pub fn total(&self) -> Amount {
        self.total
    }

    /// What the host has changed. Claims stay, even if they are more than fits now.
    pub fn set_total(&mut self, total: Amount, devices: &Devices, cells: &HostCells) {
        self.total = total;
        self.pools = PciPools::new(devices);
        self.cells.clone_from(cells);
        for share in self.held.values() {
            self.pools.take(&share.devices);
            self.cells.take(&share.cells);
        }
    }

    /// How much may be promised has changed. Claims stay, even if they are more than fits now.
    pub fn set_allocation(&mut self, allocation: Allocation) {
        self.allocation = allocation;
    }

    /// How much of it may be promised.
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// What is claimed.
    pub fn used(&self) -> Amount {
        self.used
    }

    /// Its PCI devices.
    pub fn pools(&self) -> &PciPools {
        &self.pools
    }

    /// Its NUMA cells.
    pub fn cells(&self) -> &HostCells {
        &self.cells
    }

    /// How many instances hold a claim.
    pub fn instances(&self) -> usize {
        self.held.len()
    }

    /// Who holds what.
    pub fn held(&self) -> impl Iterator<Item = (InstanceId, Amount)> + '_ {
        self.held.iter().map(|(id, share)| (*id, share.amount))
    }

    /// What may be claimed in all: total x ratio - reserved, rounded down. A thread that belongs to one virtual CPU counts once.
    pub fn capacity(&self) -> Amount {
        self.capacity_beside(self.cells.pinned())
    }

    fn capacity_beside(&self, pinned: u32) -> Amount {
        let Allocation { cpu_allocation_ratio, ram_allocation_ratio, disk_allocation_ratio, .. } =
            self.allocation;
        let ram_mib = scaled(self.total.ram_mib, ram_allocation_ratio);
        Amount {
            vcpus: scaled(self.total.vcpus.saturating_sub(pinned), cpu_allocation_ratio)
                .saturating_add(pinned),
            ram_mib: ram_mib.saturating_sub(self.allocation.ram_reserved_mib),
            disk_gib: scaled(self.total.disk_gib, disk_allocation_ratio),
        }
    }

    /// Enters what a guest found on the host takes, whether or not it fits.
    pub fn restore(&mut self, id: InstanceId, share: Share) {
        self.give_back(id);
        self.used = self.used.plus(share.amount);
        self.pools.take(&share.devices);
        self.cells.take(&share.cells);
        self.held.insert(id, share);
    }

    /// Which cells hold these, or why none do. Nothing is taken.
    fn place(&self, cells: &GuestCells) -> Result<Vec<CellShare>, Error> {
        let fit = self.cells.fit(cells, self.allocation.cpu_allocation_ratio);
        fit.map_err(|short| {
            refused(short.to_string(), "numa_cells", cells.count).with("free", short.fitting())
        })
    }

    /// Takes room, or says what is short of how much.
    pub fn take(&mut self, id: InstanceId, share: Share) -> Result<(), Error> {
        let amount = share.amount;
        let own = share.pinned();
        let capacity = self.capacity_beside(self.cells.pinned().saturating_add(own));
        let (used, mut total) = (self.used, self.total);
        if own == 0 {
            total.vcpus = total.vcpus.saturating_sub(self.cells.pinned());
        }
        let figures = [
            ("vcpus", "VCPUs", amount.vcpus, capacity.vcpus, used.vcpus, total.vcpus),
            ("ram_mib", "MiB of memory", amount.ram_mib, capacity.ram_mib, used.ram_mib, total.ram_mib),
            ("disk_gib", "GiB of disk", amount.disk_gib, capacity.disk_gib, used.disk_gib, total.disk_gib),
        ];
        for (resource, unit, wanted, capacity, used, total) in figures {
            if u64::from(used) + u64::from(wanted) > u64::from(capacity) {
                let free = capacity.saturating_sub(used);
                let message = format!("needs {wanted} {unit}, has {free} of {capacity}");
                return Err(refused(message, resource, wanted).with("free", free).with("capacity", capacity));
            }
            if wanted > total {
                let message = format!("needs {wanted} {unit}, the host itself has {total}");
                return Err(refused(message, resource, wanted).with("total", total));
            }
        }
        if let Some(short) = self.pools.short_of(&share.devices) {
            let error = refused(short.to_string(), &short.alias, short.needed);
            return Err(error.with("free", short.free).with("total", short.total));
        }
        self.restore(id, share);
        Ok(())
    }

    /// Takes more disk for an instance, if it is more than it holds, and gives what it held; or says how much is short.
    pub fn grow_disk(&mut self, id: InstanceId, disk_gib: u32) -> Result<u32, Error> {
        let held = self.held.get(&id).map_or(0, |share| share.amount.disk_gib);
        let (capacity, used) = (self.capacity().disk_gib, self.used.disk_gib);
        let more = disk_gib.saturating_sub(held);
        if u64::from(used) + u64::from(more) > u64::from(capacity) {
            let free = capacity.saturating_sub(used);
            let message = format!("needs {more} GiB of disk more, has {free} of {capacity}");
            return Err(refused(message, "disk_gib", more).with("free", free).with("capacity", capacity));
        }
        self.set_disk(id, disk_gib.max(held));
        Ok(held)
    }

    /// An instance holds so much disk.
    pub fn set_disk(&mut self, id: InstanceId, disk_gib: u32) {
        if let Some(share) = self.held.get_mut(&id) {
            self.used = self.used.minus(share.amount);
            share.amount.disk_gib = disk_gib;
            self.used = self.used.plus(share.amount);
        }
    }

    /// Gives back what an instance holds.
    pub fn give_back(&mut self, id: InstanceId) {
        if let Some(share) = self.held.remove(&id) {
            self.used = self.used.minus(share.amount);
            self.pools.give_back(&share.devices);
            self.cells.give_back(&share.cells);
        }
    }
}

impl work::Claims for HostClaims {
    type Id = InstanceId;
    type Order = GuestSpec;

    fn claim(&mut self, id: InstanceId, order: &mut GuestSpec) -> Result<String, Error> {
        order.share.cells =
            order.cells.as_ref().map(|cells| self.place(cells)).transpose()?.unwrap_or_default();
        self.take(id, order.share.clone())?;
        Ok(order.share.to_string())
    }

    fn release(&mut self, id: InstanceId) {
        self.give_back(id);
    }
}

fn refused(message: String, resource: &str, wanted: u32) -> Error {
    Error::new(Reason::ClaimRefused, message).with("resource", resource).with("wanted", wanted)
}

fn scaled(total: u32, ratio: f64) -> u32 {
    // A float too large for the type becomes the greatest value of it.
    (f64::from(total) * ratio).floor() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::numa::HostCell;
    use kilonova_model::numa_spec::PageSize;
    use proptest::prelude::*;

    const HOST: Amount = Amount { vcpus: 4, ram_mib: 8192, disk_gib: 100 };

    fn claims() -> HostClaims {
        HostClaims::new(HOST, &devices(2), &HostCells::default(), Allocation::default())
    }

    fn amount(vcpus: u32, ram_mib: u32, disk_gib: u32) -> Amount {
        Amount { vcpus, ram_mib, disk_gib }
    }

    fn share(vcpus: u32, ram_mib: u32, disk_gib: u32) -> Share {
        amount(vcpus, ram_mib, disk_gib).into()
    }

    fn devices(gpus: u32) -> Devices {
        [("gpu".to_owned(), gpus)].into()
    }

    #[test]
    fn capacity_is_total_by_ratio_less_what_is_reserved() {
        assert_eq!(claims().capacity(), amount(16, 7680, 100));
        let odd = Allocation { cpu_allocation_ratio: 1.3, ..Allocation::default() };
        assert_eq!(HostClaims::new(HOST, &Devices::new(), &HostCells::default(), odd).capacity().vcpus, 5);
    }

    #[test]
    fn a_refusal_has_the_figures() {
        let mut claims = claims();
        claims.take(InstanceId::generate(), share(1, 4096, 10)).unwrap();
        let error = claims.take(InstanceId::generate(), share(1, 4096, 10)).unwrap_err();
        assert_eq!(error.reason, Reason::ClaimRefused);
        assert_eq!(error.message, "needs 4096 MiB of memory, has 3584 of 7680");
        assert_eq!(error.metadata["free"], "3584");
        assert_eq!(claims.instances(), 1);
    }

    #[test]
    fn a_guest_that_is_made_anew_takes_what_disk_it_needs_more() {
        let (mut claims, id) = (claims(), InstanceId::generate());
        claims.take(id, share(1, 1, 30)).unwrap();
        claims.take(InstanceId::generate(), share(1, 1, 50)).unwrap();
        let error = claims.grow_disk(id, 51).unwrap_err();
        assert_eq!(error.message, "needs 21 GiB of disk more, has 20 of 100");
        assert_eq!((claims.grow_disk(id, 50), claims.used().disk_gib), (Ok(30), 100));
        claims.set_disk(id, 30);
        assert_eq!((claims.grow_disk(id, 0), claims.used().disk_gib), (Ok(30), 80));
    }

    #[test]
    fn an_instance_does_not_overcommit_against_itself() {
        let error = claims().take(InstanceId::generate(), share(5, 1, 1)).unwrap_err();
        assert_eq!(error.message, "needs 5 VCPUs, the host itself has 4");
    }

    #[test]
    fn what_was_found_counts_even_if_it_does_not_fit() {
        let mut claims = claims();
        let found = InstanceId::generate();
        claims.restore(found, share(20, 9000, 10));
        claims.restore(found, share(18, 9000, 10));
        assert_eq!(claims.used(), amount(18, 9000, 10));
        assert!(claims.take(InstanceId::generate(), share(1, 1, 1)).is_err());
        claims.give_back(found);
        claims.give_back(found);
        assert_eq!((claims.used(), claims.instances()), (Amount::default(), 0));
    }

    #[test]
    fn devices_are_held_and_missed_with_the_figures() {
        let mut claims = claims();
        let with = |gpus| Share { devices: devices(gpus), ..share(1, 1, 1) };
        let first = InstanceId::generate();
        claims.take(first, with(2)).unwrap();
        let error = claims.take(InstanceId::generate(), with(1)).unwrap_err();
        assert_eq!(error.message, "needs 1 gpu devices, has 0 of 2 free");
        assert_eq!((error.reason, error.metadata["free"].as_str()), (Reason::ClaimRefused, "0"));
        claims.set_total(HOST, &devices(3), &HostCells::default());
        claims.take(InstanceId::generate(), with(1)).unwrap();
        claims.give_back(first);
        assert_eq!(claims.pools().free(), 2);
    }

    #[test]
    fn a_thread_that_is_pinned_is_not_shared() {
        let cell = HostCell { cpus: 4, memory_mib: 8192, ..HostCell::default() };
        let mut claims =
            HostClaims::new(HOST, &Devices::new(), &HostCells(vec![cell]), Allocation::default());
        let wanted = |vcpus| GuestCells {
            count: 1,
            vcpus,
            pinned: true,
            memory_mib: 1024,
            page_size: PageSize::Small,
        };
        let take = |claims: &mut HostClaims, vcpus| {
            let cells = claims.place(&wanted(vcpus))?;
            let id = InstanceId::generate();
            claims.take(id, Share { cells, ..share(vcpus, 1024, 1) }).map(|()| id)
        };
        claims.take(InstanceId::generate(), share(4, 1, 1)).unwrap();
        let pinned = take(&mut claims, 2).unwrap();
        assert_eq!(
            (claims.capacity().vcpus, claims.used().vcpus),
            (10, 6),
            "two pinned, and two shared by four each"
        );
        claims.take(InstanceId::generate(), share(2, 1, 1)).unwrap();
        let error = take(&mut claims, 1).unwrap_err();
        assert_eq!(error.message, "needs 1 VCPUs, has 0 of 7");
        let error = take(&mut claims, 3).unwrap_err();
        assert!(error.message.contains("0 of 1 cells do, at most 2 CPUs and 7168 MiB"), "{}", error.message);
        let error = claims.take(InstanceId::generate(), share(3, 1, 1)).unwrap_err();
        assert_eq!(error.message, "needs 3 VCPUs, has 2 of 10");
        claims.give_back(pinned);
        assert_eq!((claims.capacity().vcpus, claims.cells().pinned()), (16, 0));
    }

    proptest! {
        #[test]
        fn claims_never_exceed_capacity_and_add_up(
            steps in proptest::collection::vec(
                (0_u8..12, any::<bool>(), (0_u32..6, 0_u32..5000, 0_u32..60), 0_u32..3), 1..200)
        ) {
            let ids: Vec<InstanceId> = (0..12).map(|_| InstanceId::generate()).collect();
            let mut claims = claims();
            let mut model: HashMap<InstanceId, Share> = HashMap::new();
            for (who, take, (vcpus, ram_mib, disk_gib), gpus) in steps {
                let id = ids[usize::from(who)];
                let wanted = Share { devices: devices(gpus), ..share(vcpus, ram_mib, disk_gib) };
                if !take {
                    claims.give_back(id);
                    model.remove(&id);
                } else if !model.contains_key(&id) && claims.take(id, wanted.clone()).is_ok() {
                    model.insert(id, wanted);
                }
                let (used, capacity) = (claims.used(), claims.capacity());
                let sum = model.values().fold(Amount::default(), |sum, one| sum.plus(one.amount));
                let gpus: u32 = model.values().map(|one| one.devices["gpu"]).sum();
                prop_assert!(gpus <= 2);
                prop_assert_eq!(claims.pools().free(), 2 - gpus);
                prop_assert_eq!(used, sum);
                prop_assert!(used.vcpus <= capacity.vcpus);
                prop_assert!(used.ram_mib <= capacity.ram_mib && used.disk_gib <= capacity.disk_gib);
            }
        }
    }
}
