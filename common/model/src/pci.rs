//! PCI devices, counted by the aliases that flavors ask for them by. Pure: schedulers and hosts reckon alike.

use std::collections::BTreeMap;
use std::fmt;

use kilonova_proto::types::v1::PciPool;

/// The extra spec that asks for devices: `gpu:2,nic:1`.
pub const PCI_ALIAS: &str = "pci_passthrough:alias";
/// Most devices of one alias that a flavor may ask for.
const MAX_DEVICES: u32 = 256;

/// So many devices, by alias.
pub type Devices = BTreeMap<String, u32>;

/// What a flavor asks for, or what its extra spec should have said.
pub fn requested(extra_specs: &BTreeMap<String, String>) -> Result<Devices, String> {
    let mut devices = Devices::new();
    let Some(text) = extra_specs.get(PCI_ALIAS) else { return Ok(devices) };
    for part in text.split(',') {
        let read = part.trim().rsplit_once(':').and_then(|(alias, count)| {
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let count = count.trim().parse().ok().filter(|count| (1..=MAX_DEVICES).contains(count))?;
            (!alias.is_empty() && alias.chars().all(is_name)).then_some((alias, count))
        });
        let Some((alias, count)) = read else {
            return Err(format!("aliases with 1 to {MAX_DEVICES} devices each, such as `gpu:2,nic:1`"));
        };
        if devices.insert(alias.to_owned(), count).is_some() {
            return Err(format!("{alias:?} once only, with all its devices"));
        }
    }
    Ok(devices)
}

/// The devices of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciPools(BTreeMap<String, Pool>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pool {
    total: u32,
    used: u32,
}

impl Pool {
    fn free(self) -> u32 {
        self.total.saturating_sub(self.used)
    }
}

/// Which devices there are too few of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciShortage {
    /// Their alias.
    pub alias: String,
    /// How many are needed.
    pub needed: u32,
    /// How many are free.
    pub free: u32,
    /// How many there are.
    pub total: u32,
}

impl fmt::Display for PciShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, needed, free, total } = self;
        write!(f, "needs {needed} {alias} devices, has {free} of {total} free")
    }
}

impl PciPools {
    /// No devices.
    pub const NONE: Self = Self(BTreeMap::new());

    /// These devices, all free.
    #[must_use]
    pub fn new(totals: &Devices) -> Self {
        let pools = totals.iter().map(|(alias, total)| (alias.clone(), Pool { total: *total, used: 0 }));
        Self(pools.collect())
    }

    /// What a host published.
    #[must_use]
    pub fn read(pools: &[PciPool]) -> Self {
        let pools = pools.iter().map(|pool| {
            let PciPool { alias, total, used } = pool.clone();
            (alias, Pool { total, used })
        });
        Self(pools.collect())
    }

    /// As a host publishes it.
    #[must_use]
    pub fn tell(&self) -> Vec<PciPool> {
        let pools = self.0.iter();
        pools
            .map(|(alias, Pool { total, used })| PciPool { alias: alias.clone(), total: *total, used: *used })
            .collect()
    }

    /// How many are free, of all kinds.
    #[must_use]
    pub fn free_in_all(&self) -> u32 {
        self.0.values().fold(0, |sum, pool| sum.saturating_add(pool.free()))
    }

    /// The first alias of which too few are free.
    #[must_use]
    pub fn short_of(&self, wanted: &Devices) -> Option<PciShortage> {
        wanted.iter().find_map(|(alias, needed)| {
            let pool = self.0.get(alias).copied().unwrap_or_default();
            let (alias, needed, free, total) = (alias.clone(), *needed, pool.free(), pool.total);
            (free < needed).then_some(PciShortage { alias, needed, free, total })
        })
    }

    /// Takes devices, whether or not they are there.
    pub fn take(&mut self, devices: &Devices) {
        for (alias, count) in devices {
            let pool = self.0.entry(alias.clone()).or_default();
            pool.used = pool.used.saturating_add(*count);
        }
    }

    /// Gives devices back.
    pub fn give_back(&mut self, devices: &Devices) {
        for (alias, count) in devices {
            if let Some(pool) = self.0.get_mut(alias) {
                pool.used = pool.used.saturating_sub(*count);
            }
        }
    }

    /// By how much what is used has grown.
    #[must_use]
    pub fn growth_since(&self, before: &Self) -> Devices {
        let used_before = |alias: &str| before.0.get(alias).map_or(0, |pool| pool.used);
        let grown =
            self.0.iter().map(|(alias, pool)| (alias.clone(), pool.used.saturating_sub(used_before(alias))));
        grown.filter(|(_, growth)| *growth > 0).collect()
    }

    /// How many devices are free, of any kind.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.0.values().fold(0, |free, pool| free.saturating_add(pool.free()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(text: &str) -> BTreeMap<String, String> {
        [(PCI_ALIAS.to_owned(), text.to_owned())].into()
    }

    fn devices(all: &[(&str, u32)]) -> Devices {
        all.iter().map(|(alias, count)| ((*alias).to_owned(), *count)).collect()
    }

    #[test]
    fn aliases_are_read_with_their_counts() {
        assert_eq!(requested(&BTreeMap::new()), Ok(Devices::new()));
        assert_eq!(requested(&specs("gpu:2, nic:1")), Ok(devices(&[("gpu", 2), ("nic", 1)])));
        for bad in ["", "gpu", "gpu:0", "gpu:257", ":1", "gpu:x", "gpu:1,", "g pu:1", "a:b:1"] {
            assert!(requested(&specs(bad)).unwrap_err().contains("gpu:2,nic:1"), "{bad}");
        }
        assert_eq!(requested(&specs("gpu:1,gpu:2")).unwrap_err(), "\"gpu\" once only, with all its devices");
    }

    #[test]
    fn devices_are_taken_and_given_back() {
        let mut pools = PciPools::new(&devices(&[("gpu", 4), ("nic", 2)]));
        let told = pools.clone();
        let wanted = devices(&[("gpu", 3), ("nic", 1)]);
        assert_eq!(pools.short_of(&wanted), None);
        pools.take(&wanted);
        assert_eq!(pools.short_of(&wanted).unwrap().to_string(), "needs 3 gpu devices, has 1 of 4 free");
        assert_eq!((pools.growth_since(&told), pools.free()), (wanted.clone(), 2));
        assert_eq!(PciPools::read(&pools.tell()), pools);
        pools.give_back(&wanted);
        assert_eq!(pools, told);
        let none = pools.short_of(&devices(&[("fpga", 1)])).unwrap();
        assert_eq!(none.to_string(), "needs 1 fpga devices, has 0 of 0 free");
    }

    #[test]
    fn what_is_used_beyond_what_there_is_counts() {
        let mut pools = PciPools::new(&devices(&[("gpu", 1)]));
        pools.take(&devices(&[("gpu", 3)]));
        pools.give_back(&devices(&[("gpu", 1)]));
        assert_eq!(pools.free(), 0, "two are still used, and there is one");
    }
}
