//! Placement of volumes once more, written from the rules alone.

use kilonova_proto::scheduler::v1::SelectBackendsRequest;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, SchedulerHints, StoragePool, VolumeResources, VolumeSpec};
use kilonova_scheduler::config::BackendMultipliers;
use kilonova_scheduler::placement::{AggregatesId, Head, PoolRow, Space, Storage, World};

use super::rules::{Place, Rules, add};

/// One backend, as it would be told to a person.
#[derive(Debug, Clone, Default)]
pub struct Backend {
    /// Its name, as `host@backend`.
    pub name: String,
    /// Its availability zone.
    pub zone: String,
    /// Whether it answers.
    pub up: bool,
    /// Whether its administrator lets it take new work.
    pub enabled: bool,
    /// Its pools.
    pub pools: Vec<StoragePool>,
}

/// The same backends as a scheduler keeps them.
#[must_use]
pub fn world_of(backends: &[Backend]) -> World<PoolRow> {
    let mut world = World::new();
    for backend in backends {
        let host = world.add(&backend.name);
        let zone = world.vocabulary_mut().intern(&backend.zone);
        let (aggregates, up, enabled) = (AggregatesId::default(), backend.up, backend.enabled);
        let head = Head { host, zone, aggregates, up, enabled, quarantined: false };
        let resources = VolumeResources { pools: backend.pools.clone(), ..VolumeResources::default() };
        let resources = Some(Resources::Volume(resources));
        let capabilities = Capabilities { resources, ..Capabilities::default() };
        let rows = Storage::rows(head, &backend.name, Some(&capabilities), world.vocabulary_mut());
        world.set_rows(host, rows);
    }
    world
}

/// The rules once more.
pub struct Plain<'a> {
    /// What is asked for.
    pub request: &'a SelectBackendsRequest,
    /// The backends.
    pub backends: Vec<Backend>,
    /// What each weigher counts.
    pub multipliers: BackendMultipliers,
}

impl Plain<'_> {
    fn volume(&self) -> VolumeSpec {
        self.request.volume.clone().unwrap_or_default()
    }

    fn hints(&self) -> SchedulerHints {
        self.volume().hints.unwrap_or_default()
    }

    fn is_thin(&self, pool: &StoragePool) -> bool {
        let wanted = self.volume().extra_specs.get("provisioning:type").cloned();
        pool.thin_provisioning && wanted.as_deref() != Some("thick")
    }

    /// All that may be promised, and what of it is left.
    fn room(&self, pool: &StoragePool) -> (f64, f64) {
        let usable = f64::from(pool.total_gib - pool.total_gib * pool.reserved_percentage / 100);
        let provisioned = f64::from(pool.provisioned_gib);
        if self.is_thin(pool) {
            let all = usable * ratio(pool);
            (all, all - provisioned)
        } else {
            (usable, f64::from(pool.free_gib).min(usable - provisioned))
        }
    }

    /// Cinder's test as it stands: of the size, and with thin provisioning of the ratio too.
    fn has_room(&self, pool: &StoragePool) -> bool {
        let needed = f64::from(self.volume().size_gib);
        let (all, left) = self.room(pool);
        let promised = (f64::from(pool.provisioned_gib) + needed) / all;
        let ratio_holds = !self.is_thin(pool) || ratio(pool) >= 1.0 && promised <= ratio(pool);
        pool.total_gib > 0 && needed <= left && ratio_holds
    }

    fn may_have(&self, backend: &Backend) -> bool {
        let (request, volume, hints) = (self.request, self.volume(), self.hints());
        let name = &backend.name;
        let host = name.split('@').next();
        backend.up
            && backend.enabled
            && (volume.availability_zone.is_empty() || volume.availability_zone == backend.zone)
            && (hints.force_host.is_empty() || hints.force_host == *name)
            && !hints.exclude_hosts.contains(name)
            && !request.excluded_backends.contains(name)
            && (hints.same_host.is_empty() || request.same_backends.contains(name))
            && !request.different_backends.contains(name)
            && (hints.local_to_instance.is_empty() || host == Some(request.instance_host.as_str()))
    }

    fn meets(&self, pool: &StoragePool) -> bool {
        self.volume().extra_specs.iter().all(|(name, wanted)| match name.as_str() {
            "provisioning:type" => true,
            "pool_name" => pool.name == *wanted,
            "thin_provisioning_support" => pool.thin_provisioning == (wanted == "<is> True"),
            name => pool.capabilities.get(name) == Some(wanted),
        })
    }
}

impl Rules for Plain<'_> {
    fn weigh(&self) -> Vec<(Place, f64)> {
        let mut fitting: Vec<(&Backend, &StoragePool)> = Vec::new();
        for backend in self.backends.iter().filter(|backend| self.may_have(backend)) {
            let pools = backend.pools.iter().filter(|pool| self.meets(pool) && self.has_room(pool));
            fitting.extend(pools.map(|pool| (backend, pool)));
        }
        let mut weights = vec![0.0; fitting.len()];
        let mut add = |multiplier: f64, figure: &dyn Fn(&StoragePool) -> f64| {
            let figures: Vec<f64> = fitting.iter().map(|(_, pool)| figure(pool)).collect();
            add(&mut weights, |_| multiplier, &figures);
        };
        let by = &self.multipliers;
        add(by.capacity, &|pool| self.room(pool).1);
        add(by.allocated_capacity, &|pool| f64::from(pool.allocated_gib));
        add(by.volume_number, &|pool| f64::from(pool.volumes));
        add(by.goodness, &|pool| pool.goodness.filter(|goodness| *goodness <= 100).map_or(0.0, f64::from));
        let places = fitting.iter().map(|(backend, pool)| (backend.name.clone(), pool.name.clone()));
        places.zip(weights).collect()
    }

    fn put(&mut self, (backend, pool): &Place) {
        let gib = self.volume().size_gib;
        let backend = self.backends.iter_mut().find(|one| one.name == *backend).expect("it is known");
        let pool = backend.pools.iter_mut().find(|one| one.name == *pool).expect("it is there");
        pool.free_gib = pool.free_gib.saturating_sub(gib);
        pool.allocated_gib += gib;
        pool.provisioned_gib += gib;
        pool.volumes += 1;
    }
}

fn ratio(pool: &StoragePool) -> f64 {
    if pool.max_over_subscription_ratio == 0.0 { 20.0 } else { pool.max_over_subscription_ratio }
}
