//! Placement of volumes in the pools of storage backends, by Cinder's formulas.

use std::collections::BTreeMap;
use std::sync::Arc;

use kilonova_model::ServiceKind;
use kilonova_proto::scheduler::v1::SelectBackendsRequest;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, StoragePool, VolumeResources};

use super::space::{Amount, Demand, Head, Row, Space, Wishes};
use super::vocabulary::Vocabulary;
use super::world::{HostId, World};

/// The extra spec that asks for room that is really there.
const PROVISIONING_TYPE: &str = "provisioning:type";

/// The oversubscription ratio of a pool that names none, as in Cinder.
const DEFAULT_RATIO: f64 = 20.0;
/// The greatest one believed: figures stay finite.
const MAX_RATIO: f64 = 1_000_000.0;
/// The goodness of a pool that could not be better.
const MAX_GOODNESS: u32 = 100;

/// Placement of volumes.
#[derive(Debug, Clone, Copy)]
pub struct Storage;

impl Space for Storage {
    type Row = PoolRow;
    type Demand = StorageDemand;
    const NOUN: &'static str = "backend";
    const PUBLISHER: ServiceKind = ServiceKind::Volume;

    fn rows(head: Head, name: &str, capabilities: Option<&Capabilities>, _: &mut Vocabulary) -> Vec<PoolRow> {
        let resources = match capabilities.and_then(|capabilities| capabilities.resources.as_ref()) {
            Some(Resources::Volume(resources)) if !resources.pools.is_empty() => resources.clone(),
            _ => VolumeResources { pools: vec![StoragePool::default()], ..VolumeResources::default() },
        };
        resources.pools.iter().map(|pool| PoolRow::new(head, name, &resources, pool)).collect()
    }
}

/// One pool of a backend.
#[derive(Debug, Clone)]
pub struct PoolRow {
    /// What every candidate has.
    pub head: Head,
    name: Arc<str>,
    /// Size in GiB.
    pub total_gib: u32,
    /// Really free, in GiB.
    pub free_gib: u32,
    /// Sizes of the volumes made here, in GiB.
    pub allocated_gib: u32,
    /// Sizes promised here by anyone, in GiB.
    pub provisioned_gib: u32,
    /// Promised to requests and not reported by the backend yet, in GiB.
    pub held_gib: u64,
    /// Volumes there.
    pub volumes: u32,
    /// Volumes promised and not reported yet.
    pub held_volumes: u32,
    /// Kept back, in percent.
    pub reserved_percentage: u32,
    /// Whether volumes take room only as they are written.
    pub thin: bool,
    /// With thin provisioning: promised per room there is.
    pub max_over_subscription_ratio: f64,
    /// How good a place the driver finds it, 0 to 100.
    pub goodness: u32,
    /// What the pool says of itself, by the names that extra specs use.
    pub capabilities: Arc<BTreeMap<String, String>>,
}

impl PoolRow {
    /// Reads one pool of what a backend published.
    #[must_use]
    pub fn new(head: Head, backend: &str, resources: &VolumeResources, pool: &StoragePool) -> Self {
        let ratio = pool.max_over_subscription_ratio;
        Self {
            head,
            name: pool.name.as_str().into(),
            total_gib: pool.total_gib,
            free_gib: pool.free_gib,
            allocated_gib: pool.allocated_gib,
            provisioned_gib: pool.provisioned_gib,
            held_gib: 0,
            volumes: pool.volumes,
            held_volumes: 0,
            reserved_percentage: pool.reserved_percentage.min(100),
            thin: pool.thin_provisioning,
            max_over_subscription_ratio: if ratio.is_finite() && ratio != 0.0 {
                ratio.min(MAX_RATIO)
            } else {
                DEFAULT_RATIO
            },
            goodness: pool.goodness.filter(|goodness| *goodness <= MAX_GOODNESS).unwrap_or_default(),
            capabilities: Arc::new(capabilities(backend, resources, pool)),
        }
    }

    /// Cinder's virtual free capacity, less what is held. With thin provisioning it is what may still be promised:
    /// (total − reserved) × ratio − provisioned; else the lesser of what is really free and what is not promised.
    #[must_use]
    pub fn virtual_free_gib(&self, thick: bool) -> f64 {
        let total = f64::from(self.total_gib);
        let usable = total - (total * f64::from(self.reserved_percentage) / 100.0).floor();
        let provisioned = f64::from(self.provisioned_gib);
        let free = if self.is_thin(thick) {
            usable * self.max_over_subscription_ratio - provisioned
        } else {
            (usable - provisioned).min(f64::from(self.free_gib))
        };
        free - self.held_gib as f64
    }

    /// Whether a volume takes room here only as it is written.
    #[must_use]
    pub fn is_thin(&self, thick: bool) -> bool {
        self.thin && !thick
    }
}

/// The pool's own word, and by their usual Cinder names the facts that have a field of their own.
fn capabilities(backend: &str, resources: &VolumeResources, pool: &StoragePool) -> BTreeMap<String, String> {
    let volume_backend_name = backend.split_once('@').map_or(backend, |(_, name)| name);
    let known = [
        ("volume_backend_name", volume_backend_name),
        ("pool_name", &pool.name),
        ("driver", &resources.driver),
        ("driver_version", &resources.driver_version),
        ("storage_protocol", &resources.storage_protocol),
        ("thin_provisioning_support", if pool.thin_provisioning { "True" } else { "False" }),
        ("thick_provisioning_support", if pool.thin_provisioning { "False" } else { "True" }),
    ];
    let mut all: BTreeMap<_, _> =
        known.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    all.extend(pool.capabilities.clone());
    all
}

/// What one volume takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolAmount {
    /// Its size.
    pub gib: u32,
}

impl Amount for PoolAmount {
    fn take(&mut self, part: &Self) -> bool {
        let left = self.gib.checked_sub(part.gib);
        self.gib = left.unwrap_or(self.gib);
        left.is_some()
    }
}

impl Row for PoolRow {
    type Amount = PoolAmount;
    type Columns = ();

    fn head(&self) -> &Head {
        &self.head
    }

    fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    fn pool(&self) -> &str {
        &self.name
    }

    fn hold(&mut self, amount: &PoolAmount) {
        self.held_gib += u64::from(amount.gib);
        self.held_volumes = self.held_volumes.saturating_add(1);
    }

    fn release(&mut self, amount: &PoolAmount) {
        self.held_gib = self.held_gib.saturating_sub(u64::from(amount.gib));
        self.held_volumes = self.held_volumes.saturating_sub(1);
    }

    fn growth_since(&self, before: &Self) -> PoolAmount {
        PoolAmount { gib: self.allocated_gib.saturating_sub(before.allocated_gib) }
    }
}

/// What a volume asks for.
#[derive(Debug, Clone)]
pub struct StorageDemand {
    wishes: Wishes,
    /// Its size.
    pub gib: u32,
    /// It wants room that is really there.
    pub thick: bool,
    /// Demands on the pool, sorted by name.
    pub extra_specs: Vec<(String, String)>,
    /// Only these backends, sorted; any if not set.
    pub same: Option<Vec<HostId>>,
    /// None of these backends, sorted.
    pub different: Vec<HostId>,
    /// Only backends of this compute host, which is empty while it is not known; any if not set.
    pub local_to: Option<String>,
}

impl Demand for StorageDemand {
    type Amount = PoolAmount;

    fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    fn amount(&self) -> PoolAmount {
        PoolAmount { gib: self.gib }
    }
}

impl StorageDemand {
    /// Reads a checked request.
    #[must_use]
    pub fn new(request: &SelectBackendsRequest, world: &World<PoolRow>) -> Self {
        let volume = request.volume.clone().unwrap_or_default();
        let hints = volume.hints.unwrap_or_default();
        let excluded = request.excluded_backends.iter().chain(&hints.exclude_hosts);
        let mut extra_specs: Vec<_> = volume.extra_specs.into_iter().collect();
        extra_specs.sort_unstable();
        let thick = extra_specs.iter().any(|(key, value)| key == PROVISIONING_TYPE && value == "thick");
        Self {
            wishes: Wishes::new(world, &volume.availability_zone, &hints.force_host, excluded),
            gib: volume.size_gib,
            thick,
            extra_specs,
            same: (!hints.same_host.is_empty()).then(|| world.find_all(&request.same_backends)),
            different: world.find_all(&request.different_backends),
            local_to: (!hints.local_to_instance.is_empty()).then(|| request.instance_host.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{backend, pool};

    fn row(pool: StoragePool) -> PoolRow {
        let mut world = World::new();
        backend(&mut world, "node1@file", &[pool]);
        world.rows()[0].clone()
    }

    #[test]
    fn held_room_is_not_free() {
        let mut row = row(pool("p"));
        let before = row.virtual_free_gib(false);
        row.hold(&PoolAmount { gib: 7 });
        assert_eq!(row.virtual_free_gib(false), before - 7.0);
        row.release(&PoolAmount { gib: 7 });
        assert_eq!(row.virtual_free_gib(false), before);
    }

    #[test]
    fn pools_answer_by_the_names_extra_specs_use() {
        let row = row(pool("gold"));
        assert_eq!(row.capabilities["volume_backend_name"], "file");
        assert_eq!(row.capabilities["pool_name"], "gold");
    }
}
