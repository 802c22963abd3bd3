//! The life of an agent: it registers, reconciles what an earlier incarnation left, and then keeps reporting and
//! publishing until it stops.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Epoch, ServiceKind};
use kilonova_proto::conductor::v1::RegisterHostRequest;
use kilonova_proto::types::v1::ServiceKind as ProtoServiceKind;
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use kilonova_rpc::server::{Served, ServerBuilder};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval_at, sleep};
use tonic::Status;

use super::admin::Admin;
use super::capability_server::{CAPABILITY_SERVICE, Source, capability_service};
use super::conductor::Conductor;
use super::publisher::CapabilityPublisher;
use super::reconciled::Reconciled;
use super::register::{jittered, keep_registered};
use super::reporter::{Report, Reporter, Sink};
use super::store_memory::StoreMemory;
use crate::base::VERSION;
use crate::readiness::{Readiness, STORE};
use crate::service::Context;

/// The condition that a conductor knows the host.
const REGISTERED: &str = "registered";
/// How often it is said that they are not.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// The condition that nothing of an earlier incarnation is left to be decided, or removed.
const RECONCILED: &str = "reconciled";

/// One agent.
#[async_trait]
pub trait Agent: Source {
    /// Counts the changes of what it publishes.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The administrator's word.
    fn admin(&self) -> &Admin;

    /// Shows in a metric whether the records are in another store than the data are known to.
    fn show_foreign_store(&self, foreign: bool);

    /// Whether it is in line with the records; new work is refused while it is not.
    fn reconciled(&self) -> &Reconciled;

    /// Brings what there is in line with the conductor's records, until nothing is left that is not wanted.
    async fn reconcile(&self, conductor: &Conductor) -> Result<(), Status>;
}

/// How often things are repeated.
#[derive(Debug, Clone, Copy)]
pub struct LifeOptions {
    /// Asking the driver for its figures.
    pub refresh_interval: Duration,
    /// Registering with a conductor.
    pub register_interval: Duration,
    /// Comparing what there is with the conductor's records.
    pub reconcile_interval: Duration,
}

/// Starts everything an agent does by itself. Ready once it has registered and reconciled, with the store that `memory` knows.
pub fn live<A: Agent, R: Report>(
    context: &Context,
    agent: &Arc<A>,
    reporter: Reporter<R>,
    memory: &StoreMemory,
    options: LifeOptions,
) where
    Conductor: Sink<R>,
{
    let channel = context.peers.call(ServiceKind::Conductor);
    let conductor = Conductor::new(channel, context.host.clone(), context.epochs(), memory.clone());
    context.readiness.not(REGISTERED, "waiting for a conductor to register with");
    context.readiness.not(RECONCILED, "waiting for the registration");

    let registered = watch::Sender::new(None);
    let known = registered.subscribe();
    keep_reporting(context, "reports", reporter, memory);
    context.tasks.spawn(
        "registration",
        keep_registered(
            conductor.clone(),
            about(context),
            options.register_interval,
            agent.admin().clone(),
            registered,
            memory.clone(),
        ),
    );
    context
        .tasks
        .spawn("store identity", watch_store(memory.clone(), agent.clone(), context.readiness.clone()));
    let readiness = context.readiness.clone();
    let every = options.reconcile_interval;
    context.tasks.spawn(
        "reconcile",
        keep_reconciled(agent.clone(), conductor.clone(), known, readiness, every, memory.clone()),
    );
    context.tasks.spawn("capabilities", publish(agent.clone(), conductor));
    context.tasks.spawn("driver refresh", refresh(agent.clone(), options.refresh_interval));
}

/// Tells conductors what is reported of one kind of resource.
pub fn keep_reporting<R: Report>(
    context: &Context,
    name: &'static str,
    reporter: Reporter<R>,
    memory: &StoreMemory,
) where
    Conductor: Sink<R>,
{
    let channel = context.peers.call(ServiceKind::Conductor);
    let conductor = Conductor::new(channel, context.host.clone(), context.epochs(), memory.clone());
    context.tasks.spawn(name, reporter.run(conductor));
}

/// Adds the agent's capability streams to its server.
pub fn serve_capabilities<A: Agent>(
    server: ServerBuilder,
    agent: &Arc<A>,
    publisher: CapabilityPublisher,
) -> ServerBuilder {
    server.add(capability_service(publisher, agent.clone()), Served::all(CAPABILITY_SERVICE))
}

fn about(context: &Context) -> RegisterHostRequest {
    let service = match context.service {
        ServiceKind::Volume => ProtoServiceKind::Volume,
        _ => ProtoServiceKind::Compute,
    };
    RegisterHostRequest {
        service: service.into(),
        availability_zone: context.zone.to_string(),
        address: context.addr.clone(),
        version: VERSION.to_owned(),
        ..RegisterHostRequest::default()
    }
}

async fn keep_reconciled<A: Agent>(
    agent: Arc<A>,
    conductor: Conductor,
    mut registered: watch::Receiver<Option<Epoch>>,
    readiness: Readiness,
    every: Duration,
    memory: StoreMemory,
) {
    let (mut foreign, mut store) = (memory.foreign(), memory.id());
    let mut epochs = conductor.epochs();
    loop {
        let epoch = *epochs.borrow_and_update();
        let waits = foreign.borrow_and_update().is_some();
        store.mark_unchanged();
        let changed = tokio::select! {
            changed = epochs.changed() => changed,
            changed = foreign.changed() => changed,
            // Another store was accepted before this one was ever seen to be another.
            changed = store.changed() => changed,
            () = in_one_incarnation(agent.as_ref(), &conductor, &mut registered, &readiness, epoch, every, &memory), if !waits => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Says so, and takes nothing new, while the records are in another store.
async fn watch_store<A: Agent>(memory: StoreMemory, agent: Arc<A>, readiness: Readiness) {
    let mut foreign = memory.foreign();
    loop {
        let seen = foreign.borrow_and_update().clone();
        agent.show_foreign_store(seen.is_some());
        let Some(seen) = seen else {
            readiness.ok(STORE);
            if foreign.changed().await.is_err() {
                return;
            }
            continue;
        };
        agent.reconciled().withdraw();
        readiness.not(STORE, seen.to_string());
        tracing::error!(seen = seen.seen, remembered = seen.remembered.id, "{seen}");
        if let Ok(Err(_)) = tokio::time::timeout(SAY_EVERY, foreign.changed()).await {
            return;
        }
    }
}

/// Brings the host in line once a conductor knows it in this incarnation, and every so often from then on; `memory` gets to know with which
/// store it was compared. Ends when nobody
/// registers it any more.
async fn in_one_incarnation(
    agent: &impl Agent,
    conductor: &Conductor,
    registered: &mut watch::Receiver<Option<Epoch>>,
    readiness: &Readiness,
    epoch: Epoch,
    every: Duration,
    memory: &StoreMemory,
) {
    readiness.not(RECONCILED, "waiting for the registration");
    if registered.wait_for(|registered| *registered == Some(epoch)).await.is_err() {
        return;
    }
    readiness.ok(REGISTERED);
    readiness.not(RECONCILED, "comparing with the conductor's records");
    loop {
        let store = memory.id().borrow().clone();
        bring_in_line(agent, conductor).await;
        memory.set_compared(store);
        agent.reconciled().set(epoch);
        readiness.ok(RECONCILED);
        sleep(jittered(every)).await;
    }
}

async fn bring_in_line(agent: &impl Agent, conductor: &Conductor) {
    let mut backoff = Backoff::new(BackoffPolicy::reconnect());
    while let Err(error) = agent.reconcile(conductor).await {
        if backoff.failures() == 0 {
            tracing::warn!(error = error.message(), code = ?error.code(), "cannot reconcile yet; trying on");
        }
        sleep(backoff.next_delay()).await;
    }
}

/// Publishes after every change.
async fn publish<A: Agent>(agent: Arc<A>, conductor: Conductor) {
    let (mut changes, mut admin, mut epochs) =
        (agent.changes(), agent.admin().subscribe(), conductor.epochs());
    let mut reconciled = agent.reconciled().subscribe();
    loop {
        agent.publish();
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = admin.changed() => changed,
            changed = epochs.changed() => changed,
            changed = reconciled.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Asks the driver every so often. Apart from publishing, which a slow driver must not hold up.
async fn refresh(agent: Arc<impl Agent>, every: Duration) {
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = agent.refresh().await {
            tracing::warn!(%error, "the driver gives no figures; the last ones stay published");
        }
    }
}
