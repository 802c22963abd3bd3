//! The manager of one hypervisor: the only one who knows what is claimed and what is being done.
//!
//! # Theory of operation
//!
//! A command is first measured against host and incarnation (`server.rs`), then taken by the executor of
//! [`kilonova_runtime::agent`]: one lock covers the ledger of commands and the claims, so that of all that arrive
//! together exactly what fits is taken, each once. What was taken runs in a task named after the command, and its
//! end is reported until a conductor has it.
//!
//! ```text
//!   BuildInstance ──► claimed ──► spawning ──────────► running ──► TerminateInstance
//!        │                           │ fails    ▲          │             │
//!        ▼ no room, disabled,        ▼          │ found at │             ▼
//!     refused  older command      destroy       │ start    └───────► destroying ──► gone, room free
//!                                    │          │                        ▲
//!                                    └► failed, room free    guest nobody wants, found at start
//! ```
//!
//! The hypervisor is the truth about guests. At start its guests are entered with the commands that made them, and
//! their room is claimed, before the first command can arrive; what the conductor's records say about them comes
//! later (`reconcile.rs`). So a host never promises room that a guest already has.
//!
//! Everything that changes wakes the task that publishes capabilities; it reads book, administrator's word and
//! incarnation at one moment, so that what is published last is also newest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, InstanceId, Reason, ZoneName, time};
use kilonova_proto::compute::v1 as pb;
use kilonova_proto::compute::v1::GetInstanceStateResponse;
use kilonova_proto::conductor::v1::InstanceReport;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ComputeResources, ServiceKind as ProtoServiceKind};
use kilonova_runtime::agent::admin::Admin;
use kilonova_runtime::agent::capability_server::Source;
use kilonova_runtime::agent::conductor::Conductor;
use kilonova_runtime::agent::executor::{Book, Executor};
use kilonova_runtime::agent::guard::refuse_if_stopping;
use kilonova_runtime::agent::inventory;
use kilonova_runtime::agent::ledger::{Outcome, Stamp};
use kilonova_runtime::agent::life::Agent;
use kilonova_runtime::agent::publisher::CapabilityPublisher;
use kilonova_runtime::agent::reconciled::Reconciled;
use kilonova_runtime::agent::reporter::Reporter;
use kilonova_runtime::agent::work::{Site, answered};
use kilonova_runtime::readiness::Readiness;
use kilonova_runtime::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

use crate::claims::HostClaims;
use crate::config::{Allocation, Config};
use crate::driver::{Driver, Guest, GuestAct, GuestSpec, HostFigures};
use crate::guests::{self, Guests};
use crate::meters::Meters;
use crate::reconcile::record;
use crate::share::Amount;

/// Most images that are published as cached.
const MAX_CACHED_IMAGES: usize = 100;

/// What a manager is given.
pub struct Parts {
    /// The host.
    pub site: Site,
    /// Its zone.
    pub zone: ZoneName,
    /// Its incarnation.
    pub epochs: watch::Receiver<Epoch>,
    /// Whether it is stopping.
    pub readiness: Readiness,
    /// Who runs its work.
    pub tasks: Tasks,
    /// Its hypervisor.
    pub driver: Arc<dyn Driver>,
    /// Its line to the conductors.
    pub reporter: Reporter<InstanceReport>,
}

/// The manager.
pub struct Manager {
    site: Site,
    zone: ZoneName,
    /// How much may be promised where no aggregate says otherwise.
    allocation: Allocation,
    epochs: watch::Receiver<Epoch>,
    readiness: Readiness,
    driver: Arc<dyn Driver>,
    executor: Executor<Guests>,
    admin: Admin,
    reconciled: Reconciled,
    publisher: CapabilityPublisher,
    collected: Mutex<Collected>,
    meters: Meters,
}

/// What the driver last said of itself.
struct Collected {
    figures: HostFigures,
    at: SystemTime,
}

impl Manager {
    /// Asks the driver what there is and claims it.
    pub async fn start(config: &Config, parts: Parts) -> Result<Self, Error> {
        let Parts { site, zone, epochs, readiness, tasks, driver, reporter } = parts;
        let figures = answered(driver.figures()).await?;
        let guests = answered(driver.list()).await?;
        let claims = HostClaims::new(figures.total, &figures.devices, &figures.cells, config.allocation);
        let work = Guests::new(site.clone(), driver.clone());
        let executor = Executor::new(work, claims, site.clone(), tasks, reporter, config.executor());
        executor.change(|book| guests.into_iter().for_each(|guest| restore(book, guest)));
        let publisher = CapabilityPublisher::new(Capabilities {
            host: site.host.to_string(),
            service: ProtoServiceKind::Compute.into(),
            collect_interval: Some(time::duration(config.refresh_interval.get())),
            ..Capabilities::default()
        });
        let reconciled = Reconciled::new(epochs.clone());
        let manager = Self {
            meters: Meters::new(&site),
            site,
            zone,
            allocation: config.allocation,
            epochs,
            readiness,
            driver,
            executor,
            admin: Admin::default(),
            reconciled,
            publisher,
            collected: Mutex::new(Collected { figures, at: SystemTime::now() }),
        };
        manager.publish();
        Ok(manager)
    }

    /// The host.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its incarnation now.
    pub fn epoch(&self) -> Epoch {
        *self.epochs.borrow()
    }

    /// What is published.
    pub fn publisher(&self) -> CapabilityPublisher {
        self.publisher.clone()
    }

    /// Takes a build.
    pub fn build(&self, id: InstanceId, stamp: Stamp, spec: GuestSpec) -> Result<(), Error> {
        self.executor.make(id, stamp, spec, || {
            refuse_if_stopping(&self.readiness, &self.site.host)?;
            self.reconciled.admit(&self.site.host)?;
            self.admin.admit(&self.site.host)
        })
    }

    /// Takes a terminate.
    pub fn terminate(&self, id: InstanceId, stamp: Stamp) -> Result<(), Error> {
        self.executor.unmake(id, stamp)
    }

    /// Takes a change of a guest that is there.
    pub fn act(&self, id: InstanceId, stamp: Stamp, act: GuestAct) -> Result<(), Error> {
        self.executor.act(id, stamp, act)
    }

    /// What is known of an instance.
    pub async fn state(&self, id: InstanceId) -> Result<GetInstanceStateResponse, Error> {
        let known = self.executor.read(|book| {
            let view = book.ledger.view(id)?;
            let fault = match view.outcome {
                Some(Outcome::Failed(fault)) => Some(*fault.clone()),
                Some(Outcome::Ready(_)) => None,
                None if view.busy => None,
                Some(Outcome::Gone) | None => return None,
            };
            Some(GetInstanceStateResponse {
                generation: view.stamp.generation.0,
                attempt: view.stamp.attempt.0,
                busy: view.busy,
                fault,
                ..GetInstanceStateResponse::default()
            })
        });
        let mut state = known.ok_or_else(|| {
            Error::new(Reason::InstanceNotFound, format!("{} has no instance {id}", self.site.host))
                .with("id", id)
        })?;
        state.set_power_state(answered(self.driver.power_state(id)).await?.unwrap_or_default());
        Ok(state)
    }

    /// What there is on the host, in the order of ids: guests, claims, and what is being done.
    pub async fn inventory(&self) -> Result<BTreeMap<InstanceId, pb::Guest>, Error> {
        let before = self.executor.known();
        let found = answered(self.driver.list()).await?;
        let (after, held) = self.executor.read(|book| {
            let held: Vec<_> = book.claims.held().collect();
            (inventory::known(book), held)
        });
        Ok(guests::inventory(&inventory::both(&before, after), found, held))
    }

    /// What the host knows, for diagnostics.
    pub fn describe(&self) -> serde_json::Value {
        let admin = self.admin.current();
        self.executor.read(|book| {
            serde_json::json!({
                "enabled": admin.enabled,
                "disabled_reason": admin.disabled_reason,
                "instances": book.ledger.live(),
                "busy": book.ledger.busy(),
                "remembered": book.ledger.remembered(),
                "failed_builds_in_row": book.failed_in_row,
                "claims": {
                    "instances": book.claims.instances(),
                    "used": book.claims.used(),
                    "capacity": book.claims.capacity(),
                    "total": book.claims.total(),
                },
            })
        })
    }
}

#[async_trait]
impl Source for Manager {
    fn publish(&self) {
        let allocation = self.allocation.under(&self.admin.current().placement.aggregates);
        if self.executor.read(|book| book.claims.allocation() != allocation) {
            self.executor.change(|book| book.claims.set_allocation(allocation));
        }
        self.publisher.publish(|capabilities| {
            let admin = self.admin.current().withheld_unless(self.reconciled.holds());
            let collected = self.collected.lock();
            capabilities.epoch = self.epoch().0;
            admin.enter(capabilities, &self.zone, &collected.figures.traits);
            capabilities.collected_time = Some(time::timestamp(collected.at));
            let resources = self.executor.read(|book| resources(book, &collected.figures));
            self.meters.show(&resources);
            capabilities.resources = Some(Resources::Compute(resources));
        });
    }

    async fn refresh(&self) -> Result<(), Error> {
        let figures = answered(self.driver.figures()).await?;
        self.executor.change(|book| book.claims.set_total(figures.total, &figures.devices, &figures.cells));
        *self.collected.lock() = Collected { figures, at: SystemTime::now() };
        self.publish();
        Ok(())
    }
}

#[async_trait]
impl Agent for Manager {
    fn changes(&self) -> watch::Receiver<u64> {
        self.executor.changes()
    }

    fn admin(&self) -> &Admin {
        &self.admin
    }

    fn show_foreign_store(&self, foreign: bool) {
        self.executor.show_foreign_store(foreign);
    }

    fn reconciled(&self) -> &Reconciled {
        &self.reconciled
    }

    async fn reconcile(&self, conductor: &Conductor) -> Result<(), Status> {
        let found = self.executor.take_stock(self.driver.list(), |guest| guest.id, restore).await?;
        let records = conductor.instances().await?;
        tracing::info!(
            records = records.len(),
            guests = found.len(),
            "comparing the records with the hypervisor"
        );
        let here = records.iter().filter_map(|instance| record(&self.site.host, instance));
        let wanted =
            async |ids: Vec<_>| conductor.wanted(&ids, |request, ids| request.instance_ids = ids).await;
        self.executor.reconcile(here, &found, wanted).await
    }
}

fn restore(book: &mut Book<Guests>, guest: Guest) {
    book.claims.restore(guest.id, guest.share);
    book.ledger.restore(guest.id, guest.stamp, guest.facts, guest.act);
}

fn resources(book: &Book<Guests>, figures: &HostFigures) -> ComputeResources {
    let Amount { vcpus, ram_mib, disk_gib } = book.claims.total();
    let (used, allocation) = (book.claims.used(), book.claims.allocation());
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ComputeResources {
        vcpus,
        vcpus_used: used.vcpus,
        cpu_allocation_ratio: allocation.cpu_allocation_ratio,
        ram_mib,
        ram_used_mib: used.ram_mib,
        ram_reserved_mib: allocation.ram_reserved_mib,
        ram_allocation_ratio: allocation.ram_allocation_ratio,
        disk_gib,
        disk_used_gib: used.disk_gib,
        disk_allocation_ratio: allocation.disk_allocation_ratio,
        instances: count(book.claims.instances()),
        io_ops: count(book.ledger.busy()),
        failed_builds: book.failed_in_row,
        hypervisor_type: figures.hypervisor_type.clone(),
        hypervisor_version: figures.hypervisor_version.clone(),
        cpu_architecture: figures.cpu_architecture.clone(),
        machine_types: figures.machine_types.clone(),
        cached_images: figures.cached_images.iter().take(MAX_CACHED_IMAGES).cloned().collect(),
        capabilities: figures.capabilities.clone().into_iter().collect(),
        numa_cells: book.claims.cells().tell(),
        pci_pools: book.claims.pools().tell(),
    }
}
