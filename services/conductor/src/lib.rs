//! The conductor: the only service that reads or writes records.
//!
//! It accepts what users ask ([`accept`], [`requests`], [`power`], [`attach`], [`extend`],
//! [`moves`]), drives every record to what is wanted of it ([`plan`],
//! [`engine`]), takes what agents report ([`reports`]), and answers reads from memory ([`cache`], [`watch`]). Several
//! run side by side: any of them accepts and answers, and each drives the records of the shards it owns
//! ([`shards`]).

pub mod accept;
pub mod agents;
pub mod aggregates;
pub mod attach;
pub mod audit;
mod barrier;
pub mod cache;
pub mod catalogue;
mod compaction;
pub mod config;
pub mod db;
pub mod engine;
pub mod expiry;
pub mod extend;
pub mod groups;
pub mod hints;
pub mod history;
pub mod hosts;
pub mod identity;
pub mod moves;
pub mod once;
pub mod operations;
pub mod placed;
pub mod plan;
pub mod power;
pub mod quota;
pub mod reach;
pub mod records;
pub mod reports;
pub mod requests;
mod server;
pub mod shards;
pub mod snapshots;
#[cfg(test)]
#[path = "traps_tests.rs"]
mod traps;
pub mod watch;

use std::sync::Arc;

use kilonova_model::{
    AggregateId, FlavorId, ImageId, InstanceId, ServerGroupId, ServiceKind, SnapshotId, VolumeId,
};
use kilonova_proto::conductor::v1::{
    HostRecord, InstanceRecord, ServerGroupRecord, SnapshotRecord, VolumeRecord,
};
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::reconcile::Priority;
use kilonova_runtime::service::{Context, Launch, Running, StartError};
use kilonova_store::keys::Keys;
use serde_json::json;
use tokio::sync::mpsc;

use crate::accept::{Acceptor, Lanes};
use crate::agents::{Agents, Callers};
use crate::audit::Auditor;
use crate::cache::Cache;
use crate::catalogue::Shelf;
pub use crate::config::Config;
use crate::db::Db;
use crate::engine::Engine;
use crate::groups::Groups;
use crate::hosts::{Fences, HostId, Hosts, compared, held};
use crate::identity::StoreIdentity;
use crate::moves::automatic::Automatic;
use crate::placed::Placed;
use crate::reach::Reach;
use crate::records::Records;
use crate::server::Conductor;
use crate::shards::Shards;

/// Starts a conductor.
pub async fn start(config: Config, launch: Launch) -> Result<Running, StartError> {
    config.check().map_err(StartError::service)?;
    let context = launch.register().await?;
    let config = Arc::new(config);
    let db = Db { store: context.store.clone(), keys: Keys::new(&context.cell) };
    let tasks = &context.tasks;

    let instances = Records::<InstanceRecord>::follow("instances", &db, tasks);
    let volumes = Records::<VolumeRecord>::follow("volumes", &db, tasks);
    let snapshots = Records::<SnapshotRecord>::follow("snapshots", &db, tasks);
    let identity = StoreIdentity::new(db.clone());
    tasks.spawn("store identity", identity.clone().follow(context.readiness.clone()));
    let callers = Callers {
        identity: identity.clone(),
        peers: context.peers.clone(),
        instances: instances.clone(),
        volumes: volumes.clone(),
        snapshots: snapshots.clone(),
        fences: Fences::follow(&db, identity.clone(), tasks),
    };
    let flavors = Shelf::flavors(&db, tasks);
    let images = Shelf::images(&db, tasks);
    let groups = Groups::follow(&db, tasks);
    let hosts = Hosts::follow(&db, callers.clone(), tasks);

    let (gained, gained_rx) = mpsc::channel(1);
    let shards = Shards::join(
        db.clone(),
        identity.clone(),
        context.host.clone(),
        context.epochs(),
        config.shard_ttl.get(),
        gained,
        tasks,
    );
    shards.watch_unowned(identity.clone(), config.shard_ttl.get(), context.readiness.clone(), tasks);
    tasks.spawn("request expiry", expiry::run(db.clone(), shards.clone(), config.request_retention.get()));
    tasks.spawn("compaction", compaction::run(db.clone(), shards.clone(), config.history.get()));
    let lanes = Arc::new(Lanes::default());
    let engines = Engines {
        callers,
        shards: shards.clone(),
        config: config.clone(),
        lanes: lanes.clone(),
        groups: groups.clone(),
        hosts: hosts.cache.clone(),
        fences: hosts.fences.clone(),
    };
    engines.drive(&context, gained_rx);
    let memories = Memories {
        instances: instances.cache.clone(),
        volumes: volumes.cache.clone(),
        snapshots: snapshots.cache.clone(),
        flavors: flavors.cache.clone(),
        images: images.cache.clone(),
        groups: groups.cache.clone(),
        hosts: hosts.cache.clone(),
        fences: hosts.fences.clone(),
        aggregates: hosts.aggregates.cache().clone(),
    };
    memories.fill(&context, &shards);

    let reach = engines.reach(&context, ServiceKind::Compute);
    let reaches = [reach.clone(), engines.reach(&context, ServiceKind::Volume)];
    for (kind, name) in [(ServiceKind::Compute, "held hosts"), (ServiceKind::Volume, "held backends")] {
        tasks.spawn(name, held::probe(context.peers.clone(), context.registry.members(kind)));
    }
    let grace = config.registration_grace.get();
    tasks.spawn("store comparison", compared::note(identity.clone(), reaches, grace));
    let acceptor = Arc::new(Acceptor::new(db.clone(), config.clone(), lanes, tasks));
    if config.evacuation.enabled {
        let automatic = Automatic {
            config: config.evacuation,
            conductor: context.host.clone(),
            reach: reach.clone(),
            instances: instances.clone(),
            volumes: volumes.clone(),
            shards: shards.clone(),
            acceptor: acceptor.clone(),
        };
        tasks.spawn("evacuation", automatic.run());
    }

    let auditor = Auditor {
        db: db.clone(),
        callers: engines.callers.clone(),
        groups: groups.clone(),
        hosts: hosts.cache.clone(),
    };
    let conductor = Conductor {
        identity,
        callers: engines.callers,
        auditor,
        audits: tokio::sync::Mutex::new(()),
        acceptor,
        name: context.host.clone(),
        tasks: context.tasks.clone(),
        streams_end: context.streams_end.clone(),
        registry: context.registry.clone(),
        db,
        config,
        instances,
        volumes,
        snapshots,
        flavors,
        images,
        groups,
        hosts,
        reach,
        shards,
    };
    let server = server::services(Arc::new(conductor), context.server());
    context.serve(server).await
}

/// What the engines work with.
struct Engines {
    callers: Callers,
    shards: Shards,
    config: Arc<Config>,
    lanes: Arc<Lanes>,
    groups: Groups,
    hosts: Cache<HostId, HostRecord>,
    fences: Fences,
}

impl Engines {
    fn reach(&self, context: &Context, service: ServiceKind) -> Reach {
        let (db, members) = (self.callers.instances.db.clone(), context.registry.members(service));
        let (hosts, fences) = (self.hosts.clone(), self.fences.clone());
        Reach { db, service, members, hosts, fences }
    }

    fn engine<P: Placed>(&self, context: &Context, records: Records<P>) -> Arc<Engine<P, Callers>>
    where
        Callers: Agents<P>,
    {
        Engine::new(
            records,
            self.callers.clone(),
            self.reach(context, P::AGENT),
            self.shards.clone(),
            self.config.clone(),
            context.host.clone(),
            self.lanes.clone(),
            self.groups.clone(),
        )
    }

    /// Starts the engines, and has them look at every record of a shard that is gained.
    fn drive(&self, context: &Context, mut gained: mpsc::Receiver<()>) {
        let instance_engine = self.engine(context, self.callers.instances.clone());
        let volume_engine = self.engine(context, self.callers.volumes.clone());
        let snapshot_engine = self.engine(context, self.callers.snapshots.clone());
        let members = |kind: ServiceKind| context.registry.members(kind);
        let (agents, stores) = (members(ServiceKind::Compute), members(ServiceKind::Volume));
        let (tasks, diagnostics) = (context.tasks.clone(), context.diagnostics.clone());
        context.tasks.spawn("engines", async move {
            // A host that is not known yet is not a host that has left.
            agents.known().await;
            stores.known().await;
            let instance_queue = instance_engine.run(&tasks);
            let volume_queue = volume_engine.run(&tasks);
            let snapshot_queue = snapshot_engine.run(&tasks);
            let queues = (instance_queue.clone(), volume_queue.clone(), snapshot_queue.clone());
            diagnostics.add("queues", move || {
                json!({
                    "instances": queues.0.stats(),
                    "volumes": queues.1.stats(),
                    "snapshots": queues.2.stats(),
                })
            });
            while gained.recv().await.is_some() {
                instance_engine.nudge_all(&instance_queue, Priority::Repair, |_| true);
                volume_engine.nudge_all(&volume_queue, Priority::Repair, |_| true);
                snapshot_engine.nudge_all(&snapshot_queue, Priority::Repair, |_| true);
            }
        });
    }
}

/// What is kept in memory.
struct Memories {
    instances: Cache<InstanceId, InstanceRecord>,
    volumes: Cache<VolumeId, VolumeRecord>,
    snapshots: Cache<SnapshotId, SnapshotRecord>,
    flavors: Cache<FlavorId, pb::Flavor>,
    images: Cache<ImageId, pb::Image>,
    groups: Cache<ServerGroupId, ServerGroupRecord>,
    hosts: Cache<HostId, HostRecord>,
    fences: Fences,
    aggregates: Cache<AggregateId, pb::Aggregate>,
}

impl Memories {
    /// Ready once all of it is filled and the shards are shared out.
    fn fill(self, context: &Context, shards: &Shards) {
        let readiness = context.readiness.clone();
        readiness.not("records", "reading the store");
        readiness.not("shards", "joining the other conductors");
        let counted = (self.instances.clone(), self.volumes.clone(), self.snapshots.clone());
        context.diagnostics.add("records", move || {
            json!({
                "instances": counted.0.len(),
                "volumes": counted.1.len(),
                "snapshots": counted.2.len(),
            })
        });
        let described = shards.clone();
        let owned = move || json!({ "owned": described.owned(), "owners": described.owners() });
        context.diagnostics.add("shards", owned);
        let shards = shards.clone();
        // Followed from the start, so that the first one who asks for the services is told all of them.
        let members = ServiceKind::ALL.map(|kind| context.registry.members(kind));
        context.tasks.spawn("filling", async move {
            for members in &members {
                members.known().await;
            }
            self.instances.filled().await;
            self.volumes.filled().await;
            self.snapshots.filled().await;
            self.flavors.filled().await;
            self.images.filled().await;
            self.groups.filled().await;
            self.hosts.filled().await;
            self.fences.filled().await;
            self.aggregates.filled().await;
            readiness.ok("records");
            shards.settled().await;
            readiness.ok("shards");
        });
    }
}
