//! The conductor: the only service that reads or writes records.
//!
//! It accepts what users ask ([`accept`], [`requests`], [`power`], [`attach`], [`extend`]), drives every record to what is wanted of it ([`plan`],
//! [`engine`]), takes what agents report ([`reports`]), and answers reads from memory ([`cache`], [`watch`]). Several
//! run side by side: any of them accepts and answers, and each drives the records of the shards it owns
//! ([`shards`]).

pub mod accept;
pub mod agents;
pub mod attach;
pub mod cache;
pub mod catalogue;
pub mod config;
mod connections;
pub mod db;
pub mod engine;
pub mod expiry;
pub mod extend;
pub mod groups;
pub mod history;
pub mod hosts;
pub mod operations;
pub mod placed;
pub mod plan;
pub mod power;
pub mod quota;
pub mod records;
pub mod reports;
pub mod requests;
mod server;
pub mod shards;
pub mod watch;

use std::sync::Arc;

use kilonova_model::ServiceKind;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_runtime::service::{Context, Launch, Running, StartError};
use kilonova_store::keys::Keys;
use serde_json::json;
use tokio::sync::mpsc;

use crate::accept::{Acceptor, Lanes};
use crate::agents::Callers;
use crate::catalogue::Shelf;
pub use crate::config::Config;
use crate::db::Db;
use crate::engine::Engine;
use crate::groups::Groups;
use crate::hosts::Hosts;
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
    let callers =
        Callers { peers: context.peers.clone(), instances: instances.clone(), volumes: volumes.clone() };
    let flavors = Shelf::flavors(&db, tasks);
    let images = Shelf::images(&db, tasks);
    let groups = Groups::follow(&db, tasks);
    let hosts = Hosts::follow(&db, callers.clone(), tasks);

    let (gained, gained_rx) = mpsc::channel(1);
    let shards = Shards::join(
        db.clone(),
        context.host.clone(),
        context.epochs(),
        config.shard_ttl.get(),
        gained,
        tasks,
    );
    tasks.spawn("request expiry", expiry::run(db.clone(), shards.clone(), config.scan_interval.get()));
    let lanes = Arc::new(Lanes::default());
    drive(&context, &config, &instances, &volumes, &callers, &shards, &lanes, &groups, gained_rx);
    fill(&context, &instances, &volumes, &flavors, &images, &groups, &hosts, &shards);

    let conductor = Conductor {
        acceptor: Arc::new(Acceptor::new(db.clone(), config.clone(), lanes, tasks)),
        name: context.host.clone(),
        tasks: context.tasks.clone(),
        streams_end: context.streams_end.clone(),
        registry: context.registry.clone(),
        db,
        config,
        instances,
        volumes,
        flavors,
        images,
        groups,
        hosts,
        shards,
    };
    let server = server::services(Arc::new(conductor), context.server());
    context.serve(server).await
}

#[expect(clippy::too_many_arguments, reason = "each is a part that the engines work on")]
/// Starts the engines, and has them look at every record of a shard that is gained.
fn drive(
    context: &Context,
    config: &Arc<Config>,
    instances: &Records<InstanceRecord>,
    volumes: &Records<VolumeRecord>,
    callers: &Callers,
    shards: &Shards,
    lanes: &Arc<Lanes>,
    groups: &Groups,
    mut gained: mpsc::Receiver<()>,
) {
    let members = |kind: ServiceKind| context.registry.members(kind);
    let host = &context.host;
    let instance_engine = Engine::new(
        instances.clone(),
        callers.clone(),
        members(ServiceKind::Compute),
        shards.clone(),
        config.clone(),
        host.clone(),
        lanes.clone(),
        groups.clone(),
    );
    let volume_engine = Engine::new(
        volumes.clone(),
        callers.clone(),
        members(ServiceKind::Volume),
        shards.clone(),
        config.clone(),
        host.clone(),
        lanes.clone(),
        groups.clone(),
    );
    let (agents, stores) = (members(ServiceKind::Compute), members(ServiceKind::Volume));
    let (tasks, diagnostics) = (context.tasks.clone(), context.diagnostics.clone());
    context.tasks.spawn("engines", async move {
        // A host that is not known yet is not a host that has left.
        agents.known().await;
        stores.known().await;
        let instance_queue = instance_engine.run(&tasks);
        let volume_queue = volume_engine.run(&tasks);
        let (instances, volumes) = (instance_queue.clone(), volume_queue.clone());
        diagnostics
            .add("queues", move || json!({ "instances": instances.stats(), "volumes": volumes.stats() }));
        while gained.recv().await.is_some() {
            instance_engine.nudge_all(&instance_queue, |_| true);
            volume_engine.nudge_all(&volume_queue, |_| true);
        }
    });
}

#[expect(clippy::too_many_arguments, reason = "each is a memory to be filled")]
/// Ready once the memory is filled and the shards are shared out.
fn fill(
    context: &Context,
    instances: &Records<InstanceRecord>,
    volumes: &Records<VolumeRecord>,
    flavors: &Shelf<kilonova_proto::types::v1::Flavor>,
    images: &Shelf<kilonova_proto::types::v1::Image>,
    groups: &Groups,
    hosts: &Hosts,
    shards: &Shards,
) {
    let readiness = context.readiness.clone();
    readiness.not("records", "reading the store");
    readiness.not("shards", "joining the other conductors");
    let (instances, volumes) = (instances.cache.clone(), volumes.cache.clone());
    let (flavors, images, hosts) = (flavors.cache.clone(), images.cache.clone(), hosts.cache.clone());
    let groups = groups.cache.clone();
    {
        let (instances, volumes, shards) = (instances.clone(), volumes.clone(), shards.clone());
        context
            .diagnostics
            .add("records", move || json!({ "instances": instances.len(), "volumes": volumes.len() }));
        let owned = move || json!({ "owned": shards.owned(), "owners": shards.owners() });
        context.diagnostics.add("shards", owned);
    }
    let shards = shards.clone();
    // Followed from the start, so that the first one who asks for the services is told all of them.
    let members = ServiceKind::ALL.map(|kind| context.registry.members(kind));
    context.tasks.spawn("filling", async move {
        for members in &members {
            members.known().await;
        }
        instances.filled().await;
        volumes.filled().await;
        flavors.filled().await;
        images.filled().await;
        groups.filled().await;
        hosts.filled().await;
        readiness.ok("records");
        shards.settled().await;
        readiness.ok("shards");
    });
}
