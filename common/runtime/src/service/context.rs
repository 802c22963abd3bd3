//! What a registered service is built from, and its second step: serving.

use std::time::SystemTime;

use kilonova_model::{CellName, Epoch, HostName, ServiceKind, Version, ZoneName};
use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
use kilonova_rpc::peers::Peers;
use kilonova_rpc::registry::{Registration, Registry};
use kilonova_rpc::server::{Health, Identity, Served, Server, ServerBuilder};
use kilonova_store::SharedStore;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::launch::{LaunchOptions, StartError};
use super::running::{Running, left_early};
use crate::base::{self, Base};
use crate::diagnostics::Diagnostics;
use crate::http::SidePort;
use crate::readiness::Readiness;
use crate::signals;
use crate::tasks::Tasks;
use crate::telemetry::{FOLD_EVERY, Metrics};

/// A registered service that does not serve yet. Clone out of it what the service's parts need.
pub struct Context {
    /// Which service.
    pub service: ServiceKind,
    /// Which member of it.
    pub host: HostName,
    /// The cell it belongs to.
    pub cell: CellName,
    /// Its availability zone.
    pub zone: ZoneName,
    /// Where others reach it.
    pub addr: String,
    /// The cell's store.
    pub store: SharedStore,
    /// The cell's members.
    pub registry: Registry,
    /// Channels to them.
    pub peers: Peers,
    /// The service's tasks. They outlive the drain: calls in progress may need them.
    pub tasks: Tasks,
    /// The tasks' token.
    pub shutdown: CancellationToken,
    /// The conditions under which the service takes work. Add the service's own before [`Context::serve`].
    pub readiness: Readiness,
    /// What the service tells about itself; add sections of its own.
    pub diagnostics: Diagnostics,
    /// Cancelled when streams are to end, before calls drain.
    pub streams_end: CancellationToken,
    /// For what the service cannot go on after.
    pub fatal: Fatal,
    /// Its tasks end with it if it is dropped before it serves.
    pub(super) tasks_end: DropGuard,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) metrics: Metrics,
    pub(super) registration: Registration,
    pub(super) listener: TcpListener,
    pub(super) http: Option<TcpListener>,
    pub(super) options: LaunchOptions,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Context");
        shown.field("service", &self.service).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Tells whoever runs the service that it cannot go on. Clones share it.
#[derive(Clone, Debug)]
pub struct Fatal {
    reason: watch::Sender<Option<String>>,
}

impl Default for Fatal {
    fn default() -> Self {
        Self { reason: watch::Sender::new(None) }
    }
}

impl Fatal {
    /// Asks for the end of the service. The first reason is kept.
    pub fn report(&self, reason: impl Into<String>) {
        self.reason.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason.into());
            }
            first
        });
    }

    /// Waits for a reason.
    pub async fn reported(&self) -> String {
        let mut changes = self.reason.subscribe();
        match changes.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender is `self`, which outlives the wait.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Context {
    /// The incarnation now. It changes if the registry's lease was lost and taken again.
    pub fn epoch(&self) -> Epoch {
        self.registration.epoch()
    }

    /// The incarnation, as it changes.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.registration.epochs()
    }

    /// Who serves, for [`ServerBuilder::new`].
    pub fn identity(&self) -> Identity {
        Identity {
            service: self.service,
            host: self.host.clone(),
            cell: self.cell.clone(),
            version: Version::v1(self.options.minor),
            epoch: self.epochs(),
        }
    }

    /// A server to add the service's own gRPC services to.
    pub fn server(&self) -> ServerBuilder {
        ServerBuilder::new(self.identity())
            .limits(self.options.limits.clone())
            .end_streams_with(self.streams_end.clone())
    }

    /// Serves what a service built, or leaves the cell if it could not be built.
    pub async fn serve_built(self, built: Result<ServerBuilder, StartError>) -> Result<Running, StartError> {
        match built {
            Ok(server) => self.serve(server).await,
            Err(error) => {
                left_early(self.registration, &self.tasks).await;
                Err(error)
            }
        }
    }

    /// Serves: the services in `server`, `BaseService`, health, reflection, and the side port.
    pub async fn serve(self, server: ServerBuilder) -> Result<Running, StartError> {
        let base = BaseServiceServer::new(self.base());
        let server = server
            .end_streams_with(self.streams_end.clone())
            .reflection(self.options.reflection)
            .add(base, Served::all(base::SERVICE));
        let side_port = SidePort {
            readiness: self.readiness.clone(),
            diagnostics: self.diagnostics.clone(),
            metrics: self.metrics,
        };
        let reports = self.diagnostics.clone();
        let open = || {
            let server = self.tasks.span().in_scope(|| server.serve(self.listener))?;
            let http_addr = self.http.map(|listener| side_port.serve(listener, &self.tasks)).transpose()?;
            signals::on_user2(&self.tasks, move || reports.log())?;
            Ok((server, http_addr))
        };
        let (server, http_addr) = match open() {
            Ok(opened) => opened,
            Err(error) => {
                left_early(self.registration, &self.tasks).await;
                return Err(error);
            }
        };

        describe(&self.diagnostics, &self.tasks, &self.readiness, &self.peers, &self.registration, &server);
        keep_house(&self.tasks, self.metrics);
        self.tasks.spawn("health", follow(self.readiness.clone(), server.health().clone()));
        self.readiness.ok("server");
        tracing::info!(
            service = %self.service, host = %self.host, cell = %self.cell, addr = %server.address(),
            epoch = %self.registration.epoch(), "serving"
        );
        Ok(Running {
            service: self.service,
            host: self.host,
            grpc_addr: server.address(),
            http_addr,
            _tasks_end: self.tasks_end,
            tasks: self.tasks,
            readiness: self.readiness,
            diagnostics: self.diagnostics,
            fatal: self.fatal,
            registration: self.registration,
            peers: self.peers,
            server,
            options: self.options,
        })
    }

    fn base(&self) -> Base {
        Base {
            service: self.service,
            host: self.host.clone(),
            cell: self.cell.clone(),
            minor: self.options.minor,
            epoch: self.registration.epochs(),
            started: self.started,
            started_at: self.started_at,
            readiness: self.readiness.clone(),
            diagnostics: self.diagnostics.clone(),
        }
    }
}

async fn follow(readiness: Readiness, health: Health) {
    let mut changes = readiness.subscribe();
    loop {
        let conditions = changes.borrow_and_update().clone();
        let serves = conditions.serves();
        if serves != health.is_serving() {
            tracing::info!(ready = serves, waiting_for = conditions.summary(), "readiness changed");
        }
        health.set_serving(serves);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn keep_house(tasks: &Tasks, metrics: Metrics) {
    tasks.spawn("metrics folding", async move {
        let mut ticks = tokio::time::interval(FOLD_EVERY);
        loop {
            ticks.tick().await;
            metrics.fold();
        }
    });
}

fn describe(
    diagnostics: &Diagnostics,
    tasks: &Tasks,
    readiness: &Readiness,
    peers: &Peers,
    registration: &Registration,
    server: &Server,
) {
    let listed = tasks.clone();
    diagnostics.add("tasks", move || json!({ "running": listed.list(), "panics": listed.panics() }));
    let readiness = readiness.clone();
    diagnostics.add("readiness", move || json!(readiness.current()));
    let epoch = registration.epochs();
    diagnostics.add("registration", move || {
        let epoch = epoch.borrow().0;
        json!({ "epoch": epoch, "registered": epoch > 0 })
    });
    let load = server.load();
    diagnostics.add("server", move || json!({ "calls": load.calls(), "connections": load.connections() }));
    let peers = peers.clone();
    diagnostics.add("peers", move || {
        let states = peers.states().into_iter().map(|peer| {
            json!({
                "service": peer.service.as_str(), "host": peer.host.as_str(), "addr": peer.addr,
                "directed": peer.directed, "ready": peer.ready, "detail": peer.detail,
                "in_flight": peer.in_flight,
            })
        });
        states.collect()
    });
}
