//! The manager of one storage backend: the only one who knows what is promised in its pools and what is being done.
//!
//! # Theory of operation
//!
//! A command is first measured against backend and incarnation (`server.rs`), then taken by the executor of
//! [`kilonova_runtime::agent`]: one lock covers the ledger of commands and the claims of all pools, so that of all
//! that arrive together exactly what fits is taken, each once. What was taken runs in a task named after the
//! command, and its end is reported until a conductor has it.
//!
//! ```text
//!   CreateVolume ──► claimed ──► creating ─────────► there ──► DeleteVolume
//!        │              in a        │ fails    ▲        │            │
//!        ▼ no room,     pool        ▼          │ found  │            ▼
//!     refused  disabled, older    delete       │ at start └───────► deleting ──► gone, room free
//!                                   └► failed, room free
//! ```
//!
//! The storage is the truth about volumes: what it has when the agent starts is entered, with its room, before the
//! first command can arrive; what the conductor's records say about it comes later (`reconcile.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, Reason, SnapshotId, VolumeId, ZoneName, time};
use kilonova_proto::conductor::v1::{SnapshotReport, VolumeReport};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ServiceKind as ProtoServiceKind, VolumeResources};
use kilonova_proto::volume::v1 as pb;
use kilonova_proto::volume::v1::GetVolumeStateResponse;
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

use crate::config::Config;
use crate::connections::Connections;
use crate::driver::{BackendFigures, Driver, SnapshotOrder, Stored, StoredSnapshot, VolumeOrder};
use crate::pools::PoolClaims;
use crate::reconcile::record;
use crate::snapshots::{self, NoRoom, Snapshots};
use crate::stored::{self, Extend, Presence, Volumes};

/// What a manager is given.
pub struct Parts {
    /// The backend.
    pub site: Site,
    /// Its zone.
    pub zone: ZoneName,
    /// Its incarnation.
    pub epochs: watch::Receiver<Epoch>,
    /// Whether it is stopping.
    pub readiness: Readiness,
    /// Who runs its work.
    pub tasks: Tasks,
    /// Its storage.
    pub driver: Arc<dyn Driver>,
    /// Its line to the conductors.
    pub reporter: Reporter<VolumeReport>,
    /// Its line to the conductors about snapshots.
    pub snapshot_reporter: Reporter<SnapshotReport>,
}

/// The manager.
pub struct Manager {
    site: Site,
    zone: ZoneName,
    epochs: watch::Receiver<Epoch>,
    readiness: Readiness,
    driver: Arc<dyn Driver>,
    executor: Executor<Volumes>,
    snapshots: Executor<Snapshots>,
    connections: Connections,
    admin: Admin,
    reconciled: Reconciled,
    publisher: CapabilityPublisher,
    collected: Mutex<Collected>,
}

/// What the driver last said of itself.
struct Collected {
    figures: BackendFigures,
    at: SystemTime,
}

impl Manager {
    /// Asks the driver what there is and claims it.
    pub async fn start(config: &Config, parts: Parts) -> Result<Self, Error> {
        let Parts { site, zone, epochs, readiness, tasks, driver, reporter, snapshot_reporter } = parts;
        let figures = answered(driver.figures()).await?;
        let volumes = answered(driver.list()).await?;
        let claims = PoolClaims::new(figures.pools.clone());
        let presence = Presence::default();
        let work = Volumes::new(site.clone(), driver.clone(), presence.clone());
        let executor = Executor::new(work, claims, site.clone(), tasks.clone(), reporter, config.executor());
        executor.change(|book| volumes.into_iter().for_each(|volume| restore(book, volume)));
        let found = answered(driver.list_snapshots()).await?;
        let work = Snapshots::new(site.clone(), driver.clone(), presence.clone());
        let options = config.executor();
        let snapshots = Executor::new(work, NoRoom, site.clone(), tasks.clone(), snapshot_reporter, options);
        let connections =
            Connections::new(driver.clone(), executor.clone(), presence, tasks, options.act_timeout);
        snapshots.change(|book| found.into_iter().for_each(|snapshot| restore_snapshot(book, snapshot)));
        let publisher = CapabilityPublisher::new(Capabilities {
            host: site.host.to_string(),
            service: ProtoServiceKind::Volume.into(),
            collect_interval: Some(time::duration(config.refresh_interval.get())),
            ..Capabilities::default()
        });
        let reconciled = Reconciled::new(epochs.clone());
        let manager = Self {
            site,
            zone,
            epochs,
            readiness,
            driver,
            executor,
            snapshots,
            connections,
            admin: Admin::default(),
            reconciled,
            publisher,
            collected: Mutex::new(Collected { figures, at: SystemTime::now() }),
        };
        manager.publish();
        Ok(manager)
    }

    /// The backend.
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

    /// Takes a create.
    pub fn create(&self, id: VolumeId, stamp: Stamp, mut order: VolumeOrder) -> Result<(), Error> {
        if let Ok(pool) = self.executor.read(|book| book.claims.resolve(&order.share.pool)) {
            order.share.pool = pool;
        }
        self.executor.make(id, stamp, order, || {
            refuse_if_stopping(&self.readiness, &self.site.host)?;
            self.reconciled.admit(&self.site.host)?;
            self.admin.admit(&self.site.host)
        })
    }

    /// Takes a delete.
    pub fn delete(&self, id: VolumeId, stamp: Stamp) -> Result<(), Error> {
        self.executor.unmake(id, stamp)
    }

    /// Takes an extend.
    pub fn extend(&self, id: VolumeId, stamp: Stamp, size_gib: u32) -> Result<(), Error> {
        self.executor.act(id, stamp, Extend::to(size_gib))
    }

    /// Takes a snapshot of a volume that is there.
    pub fn create_snapshot(&self, id: SnapshotId, stamp: Stamp, order: SnapshotOrder) -> Result<(), Error> {
        let there = self.executor.read(|book| book.ledger.is_there(order.volume));
        if !there {
            let message = format!("{} is not here", order.volume);
            return Err(Error::new(Reason::VolumeNotFound, message).with("id", order.volume));
        }
        self.snapshots.make(id, stamp, order, || {
            refuse_if_stopping(&self.readiness, &self.site.host)?;
            self.reconciled.admit(&self.site.host)
        })
    }

    /// Takes the end of a snapshot.
    pub fn delete_snapshot(&self, id: SnapshotId, stamp: Stamp) -> Result<(), Error> {
        self.snapshots.unmake(id, stamp)
    }

    /// Which hosts reach which volumes.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// What is known of a volume.
    pub async fn state(&self, id: VolumeId) -> Result<GetVolumeStateResponse, Error> {
        let known = self.executor.read(|book| {
            let view = book.ledger.view(id)?;
            let fault = match view.outcome {
                Some(Outcome::Failed(fault)) => Some(*fault.clone()),
                Some(Outcome::Ready(())) => None,
                None if view.busy => None,
                Some(Outcome::Gone) | None => return None,
            };
            Some(GetVolumeStateResponse {
                generation: view.stamp.generation.0,
                attempt: view.stamp.attempt.0,
                busy: view.busy,
                fault,
                ..GetVolumeStateResponse::default()
            })
        });
        let state = known.ok_or_else(|| {
            Error::new(Reason::VolumeNotFound, format!("{} has no volume {id}", self.site.host))
                .with("id", id)
        })?;
        let size = answered(self.driver.size(id)).await?;
        Ok(GetVolumeStateResponse { present: size.is_some(), size_gib: size.unwrap_or_default(), ..state })
    }

    /// The volumes there are on the backend, in the order of ids, with exports, claims and what is being done.
    pub async fn volumes(&self) -> Result<BTreeMap<VolumeId, pb::StoredVolume>, Error> {
        let before = self.executor.known();
        let found = answered(self.driver.list()).await?;
        let (after, held) = self.executor.read(|book| {
            let held: Vec<_> = book.claims.held().collect();
            (inventory::known(book), held)
        });
        Ok(stored::inventory(&inventory::both(&before, after), found, held))
    }

    /// The snapshots there are on the backend, in the order of ids, with what is being done.
    pub async fn stored_snapshots(&self) -> Result<BTreeMap<SnapshotId, pb::StoredSnapshot>, Error> {
        let before = self.snapshots.known();
        let found = answered(self.driver.list_snapshots()).await?;
        Ok(snapshots::inventory(&inventory::both(&before, self.snapshots.known()), found))
    }

    /// What the backend knows, for diagnostics.
    pub fn describe(&self) -> serde_json::Value {
        let admin = self.admin.current();
        self.executor.read(|book| {
            let pools: Vec<_> = book
                .claims
                .report()
                .into_iter()
                .map(|pool| {
                    serde_json::json!({
                        "name": pool.name,
                        "volumes": pool.volumes,
                        "provisioned_gib": pool.provisioned_gib,
                        "total_gib": pool.total_gib,
                    })
                })
                .collect();
            serde_json::json!({
                "enabled": admin.enabled,
                "disabled_reason": admin.disabled_reason,
                "volumes": book.ledger.live(),
                "busy": book.ledger.busy(),
                "connecting": self.connections.busy(),
                "needed": self.connections.needed(),
                "remembered": book.ledger.remembered(),
                "claims": { "volumes": book.claims.volumes(), "pools": pools },
            })
        })
    }
}

#[async_trait]
impl Source for Manager {
    fn publish(&self) {
        self.publisher.publish(|capabilities| {
            let admin = self.admin.current().withheld_unless(self.reconciled.holds());
            let collected = self.collected.lock();
            capabilities.epoch = self.epoch().0;
            admin.enter(capabilities, &self.zone, &[]);
            capabilities.collected_time = Some(time::timestamp(collected.at));
            let pools = self.executor.read(|book| book.claims.report());
            for pool in &pools {
                self.site.claimed(format!("{}_gib", pool.name)).set(f64::from(pool.provisioned_gib));
            }
            capabilities.resources = Some(Resources::Volume(VolumeResources {
                pools,
                driver: collected.figures.driver.clone(),
                driver_version: collected.figures.driver_version.clone(),
                storage_protocol: collected.figures.storage_protocol.clone(),
            }));
        });
    }

    async fn refresh(&self) -> Result<(), Error> {
        let figures = answered(self.driver.figures()).await?;
        self.executor.change(|book| book.claims.set_figures(figures.pools.clone()));
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
        let found = self.executor.take_stock(self.driver.list(), |volume| volume.id, restore).await?;
        let records = conductor.volumes().await?;
        tracing::info!(
            records = records.len(),
            volumes = found.len(),
            "comparing the records with the storage"
        );
        let here = records.iter().filter_map(|volume| record(&self.site.host, volume));
        let wanted =
            async |ids: Vec<_>| conductor.wanted(&ids, |request, ids| request.volume_ids = ids).await;
        self.executor.reconcile(here, &found, wanted).await?;

        let list = self.driver.list_snapshots();
        let found = self.snapshots.take_stock(list, |snapshot| snapshot.id, restore_snapshot).await?;
        let records = conductor.snapshots().await?;
        let here = records.iter().filter_map(|snapshot| snapshots::record(&self.site.host, snapshot));
        let wanted =
            async |ids: Vec<_>| conductor.wanted(&ids, |request, ids| request.snapshot_ids = ids).await;
        self.snapshots.reconcile(here, &found, wanted).await
    }
}

fn restore_snapshot(book: &mut Book<Snapshots>, snapshot: StoredSnapshot) {
    book.ledger.restore(snapshot.id, snapshot.stamp, (), None);
}

fn restore(book: &mut Book<Volumes>, volume: Stored) {
    book.claims.restore(volume.id, volume.share);
    book.ledger.restore(volume.id, volume.stamp, (), volume.act);
}
