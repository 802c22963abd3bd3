//! Room on the host: what there is, what may be promised of it, and who holds what. Pure.

use std::collections::HashMap;

use kilonova_model::{Error, InstanceId, Reason};
use kilonova_runtime::agent::work;
use serde::{Deserialize, Serialize};

use crate::config::Allocation;
use crate::driver::GuestSpec;

/// What an instance takes, or a host has.
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
    fn plus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_add(other.vcpus),
            ram_mib: self.ram_mib.saturating_add(other.ram_mib),
            disk_gib: self.disk_gib.saturating_add(other.disk_gib),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            vcpus: self.vcpus.saturating_sub(other.vcpus),
            ram_mib: self.ram_mib.saturating_sub(other.ram_mib),
            disk_gib: self.disk_gib.saturating_sub(other.disk_gib),
        }
    }
}

/// The claims of one host.
#[derive(Debug)]
pub struct HostClaims {
    total: Amount,
    allocation: Allocation,
    held: HashMap<InstanceId, Amount>,
    used: Amount,
}

impl HostClaims {
    /// Nothing is claimed of `total`.
    pub fn new(total: Amount, allocation: Allocation) -> Self {
        Self { total, allocation, held: HashMap::new(), used: Amount::default() }
    }

    /// What the host has.
    pub fn total(&self) -> Amount {
        self.total
    }

    /// What the host has changed. Claims stay, even if they are more than fits now.
    pub fn set_total(&mut self, total: Amount) {
        self.total = total;
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

    /// How many instances hold a claim.
    pub fn instances(&self) -> usize {
        self.held.len()
    }

    /// Who holds what.
    pub fn held(&self) -> impl Iterator<Item = (InstanceId, Amount)> + '_ {
        self.held.iter().map(|(id, amount)| (*id, *amount))
    }

    /// What may be claimed in all: total x ratio - reserved, rounded down.
    pub fn capacity(&self) -> Amount {
        let Allocation { cpu_allocation_ratio, ram_allocation_ratio, disk_allocation_ratio, .. } =
            self.allocation;
        let ram_mib = scaled(self.total.ram_mib, ram_allocation_ratio);
        Amount {
            vcpus: scaled(self.total.vcpus, cpu_allocation_ratio),
            ram_mib: ram_mib.saturating_sub(self.allocation.ram_reserved_mib),
            disk_gib: scaled(self.total.disk_gib, disk_allocation_ratio),
        }
    }

    /// Enters what a guest found on the host takes, whether or not it fits.
    pub fn restore(&mut self, id: InstanceId, amount: Amount) {
        if let Some(before) = self.held.insert(id, amount) {
            self.used = self.used.minus(before);
        }
        self.used = self.used.plus(amount);
    }

    /// Takes room, or says what is short of how much.
    pub fn take(&mut self, id: InstanceId, amount: Amount) -> Result<(), Error> {
        let (capacity, used, total) = (self.capacity(), self.used, self.total);
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
        self.restore(id, amount);
        Ok(())
    }

    /// Gives back what an instance holds.
    pub fn give_back(&mut self, id: InstanceId) {
        if let Some(amount) = self.held.remove(&id) {
            self.used = self.used.minus(amount);
        }
    }
}

impl work::Claims for HostClaims {
    type Id = InstanceId;
    type Order = GuestSpec;

    fn claim(&mut self, id: InstanceId, order: &GuestSpec) -> Result<String, Error> {
        let amount @ Amount { vcpus, ram_mib, disk_gib } = order.amount;
        self.take(id, amount)?;
        Ok(format!("{vcpus} VCPUs, {ram_mib} MiB, {disk_gib} GiB"))
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
    use proptest::prelude::*;

    const HOST: Amount = Amount { vcpus: 4, ram_mib: 8192, disk_gib: 100 };

    fn claims() -> HostClaims {
        HostClaims::new(HOST, Allocation::default())
    }

    fn amount(vcpus: u32, ram_mib: u32, disk_gib: u32) -> Amount {
        Amount { vcpus, ram_mib, disk_gib }
    }

    #[test]
    fn capacity_is_total_by_ratio_less_what_is_reserved() {
        assert_eq!(claims().capacity(), amount(16, 7680, 100));
        let odd = Allocation { cpu_allocation_ratio: 1.3, ..Allocation::default() };
        assert_eq!(HostClaims::new(HOST, odd).capacity().vcpus, 5);
    }

    #[test]
    fn a_refusal_has_the_figures() {
        let mut claims = claims();
        claims.take(InstanceId::generate(), amount(1, 4096, 10)).unwrap();
        let error = claims.take(InstanceId::generate(), amount(1, 4096, 10)).unwrap_err();
        assert_eq!(error.reason, Reason::ClaimRefused);
        assert_eq!(error.message, "needs 4096 MiB of memory, has 3584 of 7680");
        assert_eq!(error.metadata["free"], "3584");
        assert_eq!(claims.instances(), 1);
    }

    #[test]
    fn an_instance_does_not_overcommit_against_itself() {
        let error = claims().take(InstanceId::generate(), amount(5, 1, 1)).unwrap_err();
        assert_eq!(error.message, "needs 5 VCPUs, the host itself has 4");
    }

    #[test]
    fn what_was_found_counts_even_if_it_does_not_fit() {
        let mut claims = claims();
        let found = InstanceId::generate();
        claims.restore(found, amount(20, 9000, 10));
        claims.restore(found, amount(18, 9000, 10));
        assert_eq!(claims.used(), amount(18, 9000, 10));
        assert!(claims.take(InstanceId::generate(), amount(1, 1, 1)).is_err());
        claims.give_back(found);
        claims.give_back(found);
        assert_eq!((claims.used(), claims.instances()), (Amount::default(), 0));
    }

    proptest! {
        #[test]
        fn claims_never_exceed_capacity_and_add_up(
            steps in proptest::collection::vec((0_u8..12, any::<bool>(), 0_u32..6, 0_u32..5000, 0_u32..60), 1..200)
        ) {
            let ids: Vec<InstanceId> = (0..12).map(|_| InstanceId::generate()).collect();
            let mut claims = claims();
            let mut model: HashMap<InstanceId, Amount> = HashMap::new();
            for (who, take, vcpus, ram_mib, disk_gib) in steps {
                let id = ids[usize::from(who)];
                if !take {
                    claims.give_back(id);
                    model.remove(&id);
                } else if !model.contains_key(&id) && claims.take(id, amount(vcpus, ram_mib, disk_gib)).is_ok() {
                    model.insert(id, amount(vcpus, ram_mib, disk_gib));
                }
                let (used, capacity) = (claims.used(), claims.capacity());
                let sum = model.values().fold(Amount::default(), |sum, one| sum.plus(*one));
                prop_assert_eq!(used, sum);
                prop_assert!(used.vcpus <= capacity.vcpus);
                prop_assert!(used.ram_mib <= capacity.ram_mib && used.disk_gib <= capacity.disk_gib);
            }
        }
    }
}
