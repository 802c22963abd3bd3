//! A service that serves, and how it stops.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, ServiceKind};
use kilonova_rpc::peers::Peers;
use kilonova_rpc::registry::Registration;
use kilonova_rpc::server::{Server, Stopped};
use tokio::time::{Instant, timeout};
use tokio_util::sync::DropGuard;

use super::context::Fatal;
use super::launch::LaunchOptions;
use crate::diagnostics::Diagnostics;
use crate::readiness::Readiness;
use crate::tasks::Tasks;

/// A service that serves. Dropping it is a crash: connections and tasks end at once, its registration with its lease.
pub struct Running {
    /// Which service.
    pub service: ServiceKind,
    /// Which member of it.
    pub host: HostName,
    /// Where it serves gRPC.
    pub grpc_addr: SocketAddr,
    /// Where it serves HTTP, if it does.
    pub http_addr: Option<SocketAddr>,
    /// Its tasks.
    pub tasks: Tasks,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// What it tells about itself.
    pub diagnostics: Diagnostics,
    /// Its tasks end with it even if it is dropped.
    pub(super) _tasks_end: DropGuard,
    pub(super) fatal: Fatal,
    pub(super) registration: Registration,
    pub(super) peers: Peers,
    pub(super) server: Server,
    pub(super) options: LaunchOptions,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Running");
        shown.field("service", &self.service).field("host", &self.host).finish_non_exhaustive()
    }
}

/// The part of a stop kept for tasks, whatever the drain took.
const FOR_TASKS: Duration = Duration::from_millis(1500);
/// How long one word to the registry may take; with the registry away, the lease says it later.
const FOR_REGISTRY: Duration = Duration::from_secs(1);

impl Running {
    /// The incarnation now.
    pub fn epoch(&self) -> Epoch {
        self.registration.epoch()
    }

    /// What it reaches others with.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Waits until the service says that it cannot go on, and why. It still has to be stopped.
    pub async fn wait(&self) -> String {
        self.fatal.reported().await
    }

    /// Stops within [`LaunchOptions::stop_within`].
    pub async fn stop(self) {
        let Self { service, host, registration, server, tasks, readiness, options, .. } = self;
        let end = Instant::now() + options.stop_within;
        let left = |reserve: Duration| end.saturating_duration_since(Instant::now()).saturating_sub(reserve);
        tracing::info!(%service, %host, "stopping");
        readiness.not("stopping", "the service is stopping");
        server.health().set_serving(false);

        if said("draining", left(FOR_TASKS), registration.set_draining()).await {
            tokio::time::sleep(options.settle.min(left(FOR_TASKS))).await;
        }
        said("deregister", left(FOR_TASKS), registration.deregister()).await;

        if let Stopped::Cut { calls } = server.stop(left(FOR_TASKS)).await {
            tracing::warn!(%service, %host, calls, "calls did not end in time and were cut");
        }
        let late = tasks.shutdown(left(Duration::ZERO)).await;
        tracing::info!(%service, %host, late_tasks = late.len(), "stopped");
    }
}

/// For a service that registered and cannot serve: nobody is to wait for a lease to find out that it never came.
pub(super) async fn left_early(registration: Registration, tasks: &Tasks) {
    tasks.token().cancel();
    said("deregister", FOR_REGISTRY, registration.deregister()).await;
    tasks.shutdown(FOR_TASKS).await;
}

/// Whether the registry took one word of ours in time.
async fn said<E: std::fmt::Display>(
    what: &str,
    left: Duration,
    word: impl Future<Output = Result<(), E>>,
) -> bool {
    match timeout(FOR_REGISTRY.min(left), word).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(what, %error, "the registry did not take it; the lease will end"),
        Err(_) => tracing::warn!(what, "the registry did not answer in time; the lease will end"),
    }
    false
}
