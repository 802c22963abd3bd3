//! Room in the pools of a backend: what there is, what may be promised of it, and who holds what. Pure.

use std::collections::HashMap;

use kilonova_model::{Error, Reason, VolumeId};
use kilonova_proto::types::v1::StoragePool;
use kilonova_runtime::agent::work;
use serde::{Deserialize, Serialize};

use crate::driver::{PoolFigures, VolumeOrder};

/// What a volume takes, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The pool; empty for the backend's first.
    pub pool: String,
    /// The size in GiB.
    pub size_gib: u32,
    /// Whether room is to be set aside even where volumes take it only as they are written.
    pub thick: bool,
}

#[derive(Debug)]
struct Pool {
    figures: PoolFigures,
    used_gib: u64,
    volumes: usize,
}

impl Pool {
    /// What may be promised in all: (total - reserved), with thin provisioning by the ratio, rounded down.
    fn capacity_gib(&self, thick: bool) -> u64 {
        let PoolFigures { total_gib, reserved_percentage, .. } = self.figures;
        let total = u64::from(total_gib);
        let usable = total - total * u64::from(reserved_percentage.min(100)) / 100;
        if self.figures.thin_provisioning && !thick {
            (usable as f64 * self.figures.max_over_subscription_ratio).floor() as u64
        } else {
            usable
        }
    }

    fn report(&self) -> StoragePool {
        let figures = &self.figures;
        let used = u32::try_from(self.used_gib).unwrap_or(u32::MAX);
        StoragePool {
            name: figures.name.clone(),
            total_gib: figures.total_gib,
            // The driver was asked a while ago; what thick volumes take is known to the last claim.
            free_gib: if figures.thin_provisioning {
                figures.free_gib
            } else {
                figures.total_gib.saturating_sub(used)
            },
            allocated_gib: used,
            provisioned_gib: used,
            reserved_percentage: figures.reserved_percentage,
            thin_provisioning: figures.thin_provisioning,
            max_over_subscription_ratio: figures.max_over_subscription_ratio,
            volumes: u32::try_from(self.volumes).unwrap_or(u32::MAX),
            capabilities: figures.capabilities.clone().into_iter().collect(),
            goodness: figures.goodness,
        }
    }
}

/// The claims of one backend.
#[derive(Debug)]
pub struct PoolClaims {
    pools: Vec<Pool>,
    held: HashMap<VolumeId, Share>,
}

impl PoolClaims {
    /// Nothing is claimed in these pools.
    pub fn new(figures: Vec<PoolFigures>) -> Self {
        let mut claims = Self { pools: Vec::new(), held: HashMap::new() };
        claims.set_figures(figures);
        claims
    }

    /// What the pools have changed. Claims stay, even in a pool that is no longer there.
    pub fn set_figures(&mut self, figures: Vec<PoolFigures>) {
        let pools = figures.into_iter().map(|figures| {
            let shares = || self.held.values().filter(|share| share.pool == figures.name);
            let (used_gib, volumes) =
                (shares().map(|share| u64::from(share.size_gib)).sum(), shares().count());
            Pool { figures, used_gib, volumes }
        });
        self.pools = pools.collect();
    }

    /// Every pool, for those who watch.
    pub fn report(&self) -> Vec<StoragePool> {
        self.pools.iter().map(Pool::report).collect()
    }

    /// What a volume holds.
    pub fn share(&self, id: VolumeId) -> Option<&Share> {
        self.held.get(&id)
    }

    /// The volumes that hold a claim.
    pub fn held(&self) -> impl Iterator<Item = VolumeId> + '_ {
        self.held.keys().copied()
    }

    /// How many volumes hold a claim.
    pub fn volumes(&self) -> usize {
        self.held.len()
    }

    /// The pool that is meant by this name.
    pub fn resolve(&self, pool: &str) -> Result<String, Error> {
        let known = self.pools.iter().find(|known| pool.is_empty() || known.figures.name == pool);
        known.map(|known| known.figures.name.clone()).ok_or_else(|| {
            Error::new(Reason::ClaimRefused, format!("there is no pool {pool:?} here")).with("pool", pool)
        })
    }

    /// Enters what a volume found on the backend takes, whether or not it fits.
    pub fn restore(&mut self, id: VolumeId, share: Share) {
        self.give_back(id);
        if let Some(pool) = self.pool(&share.pool) {
            pool.used_gib += u64::from(share.size_gib);
            pool.volumes += 1;
        }
        self.held.insert(id, share);
    }

    /// Takes room, or says what is short of how much.
    pub fn take(&mut self, id: VolumeId, share: Share) -> Result<(), Error> {
        let wanted = share.size_gib;
        let share = Share { pool: self.resolve(&share.pool)?, ..share };
        if let Some(pool) = self.pool(&share.pool) {
            let capacity = pool.capacity_gib(share.thick);
            let free = capacity.saturating_sub(pool.used_gib);
            if u64::from(wanted) > free {
                let message = format!(
                    "needs {wanted} GiB in pool {:?}, has {free} of {capacity} to promise",
                    share.pool
                );
                return Err(Error::new(Reason::ClaimRefused, message)
                    .with("pool", share.pool)
                    .with("wanted", wanted)
                    .with("free", free)
                    .with("capacity", capacity));
            }
        }
        self.restore(id, share);
        Ok(())
    }

    /// Makes what a volume holds larger, or says what is short of how much. Gives what it held before.
    pub fn grow(&mut self, id: VolumeId, size_gib: u32) -> Result<u32, Error> {
        let Some(share) = self.held.get(&id).cloned() else {
            return Err(Error::new(Reason::VolumeNotFound, format!("{id} holds nothing here")).with("id", id));
        };
        let before = share.size_gib;
        let larger = Share { size_gib: size_gib.max(before), ..share.clone() };
        self.give_back(id);
        if let Err(error) = self.take(id, larger) {
            self.restore(id, share);
            return Err(error);
        }
        Ok(before)
    }

    /// Makes what a volume holds as small as it was.
    pub fn shrink(&mut self, id: VolumeId, size_gib: u32) {
        if let Some(share) = self.held.get(&id).cloned() {
            self.restore(id, Share { size_gib, ..share });
        }
    }

    /// Gives back what a volume holds.
    pub fn give_back(&mut self, id: VolumeId) {
        let Some(share) = self.held.remove(&id) else { return };
        if let Some(pool) = self.pool(&share.pool) {
            pool.used_gib -= u64::from(share.size_gib);
            pool.volumes -= 1;
        }
    }

    fn pool(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.figures.name == name)
    }
}

impl work::Claims for PoolClaims {
    type Id = VolumeId;
    type Order = VolumeOrder;

    fn claim(&mut self, id: VolumeId, order: &mut VolumeOrder) -> Result<String, Error> {
        self.take(id, order.share.clone())?;
        let pool = self.share(id).map(|share| share.pool.as_str()).unwrap_or_default();
        Ok(format!("{} GiB in pool {pool:?}", order.share.size_gib))
    }

    fn release(&mut self, id: VolumeId) {
        self.give_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn figures(name: &str, thin: bool) -> PoolFigures {
        PoolFigures {
            name: name.into(),
            total_gib: 105,
            free_gib: 105,
            reserved_percentage: 10,
            thin_provisioning: thin,
            max_over_subscription_ratio: 2.0,
            capabilities: Default::default(),
            goodness: Some(70),
        }
    }

    fn claims() -> PoolClaims {
        PoolClaims::new(vec![figures("fast", false), figures("wide", true)])
    }

    fn share(pool: &str, size_gib: u32) -> Share {
        Share { pool: pool.into(), size_gib, thick: false }
    }

    #[test]
    fn each_pool_has_its_own_room() {
        let mut claims = claims();
        let (first, second) = (VolumeId::generate(), VolumeId::generate());
        claims.take(first, share("", 95)).unwrap();
        assert_eq!(claims.share(first).unwrap().pool, "fast");
        let error = claims.take(second, share("fast", 1)).unwrap_err();
        assert_eq!(error.message, "needs 1 GiB in pool \"fast\", has 0 of 95 to promise");
        claims.take(second, share("wide", 190)).unwrap();
        assert!(claims.take(VolumeId::generate(), share("wide", 1)).is_err());
        let report = claims.report();
        assert_eq!(report[0].goodness, Some(70));
        assert_eq!((report[0].free_gib, report[0].provisioned_gib, report[0].volumes), (10, 95, 1));
        assert_eq!((report[1].free_gib, report[1].provisioned_gib, report[1].volumes), (105, 190, 1));
        claims.give_back(first);
        claims.give_back(first);
        assert!(claims.take(VolumeId::generate(), share("fast", 95)).is_ok());
    }

    #[test]
    fn a_thick_volume_is_not_overcommitted_in_a_thin_pool() {
        let thick = |size_gib| Share { thick: true, ..share("wide", size_gib) };
        assert!(claims().take(VolumeId::generate(), thick(96)).is_err());
        assert!(claims().take(VolumeId::generate(), thick(95)).is_ok());
    }

    #[test]
    fn an_unknown_pool_is_refused_and_claims_outlive_changed_figures() {
        let mut claims = claims();
        assert_eq!(
            claims.take(VolumeId::generate(), share("none", 1)).unwrap_err().reason,
            Reason::ClaimRefused
        );
        let id = VolumeId::generate();
        claims.take(id, share("wide", 50)).unwrap();
        claims.set_figures(vec![figures("fast", false)]);
        claims.set_figures(vec![figures("wide", true)]);
        assert_eq!(claims.report()[0].provisioned_gib, 50);
        claims.give_back(id);
        assert_eq!((claims.report()[0].provisioned_gib, claims.volumes()), (0, 0));
    }

    proptest! {
        #[test]
        fn claims_never_exceed_capacity_and_add_up(
            steps in proptest::collection::vec((0_usize..10, any::<bool>(), any::<bool>(), 0_u32..80), 1..150)
        ) {
            let ids: Vec<VolumeId> = (0..10).map(|_| VolumeId::generate()).collect();
            let mut claims = claims();
            for (who, take, wide, size_gib) in steps {
                if !take {
                    claims.give_back(ids[who]);
                } else if claims.share(ids[who]).is_none() {
                    let _ = claims.take(ids[who], share(if wide { "wide" } else { "fast" }, size_gib));
                }
                for (pool, most) in claims.report().iter().zip([95, 190]) {
                    let held = ids.iter().filter_map(|id| claims.share(*id));
                    let sum: u32 = held.filter(|s| s.pool == pool.name).map(|s| s.size_gib).sum();
                    prop_assert_eq!(pool.provisioned_gib, sum);
                    prop_assert!(sum <= most);
                }
            }
        }
    }
}
