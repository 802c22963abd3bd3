//! What a service is started with, and its first step: the registration.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kilonova_model::{CellName, Epoch, HostName, ServiceKind, ZoneName};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, RegisterError, Registry, RegistryOptions, Sources, Targets};
use kilonova_rpc::server::{BuildError, Limits};
use kilonova_store::SharedStore;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::context::{Context, Fatal};
use crate::config::redacted;
use crate::diagnostics::Diagnostics;
use crate::readiness::Readiness;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;

/// The condition of those who cannot work without an epoch.
const REGISTRATION: &str = "registry";

/// A service about to start.
pub struct Launch {
    /// Which service.
    pub service: ServiceKind,
    /// Which member of it; unique among its members.
    pub host: HostName,
    /// The cell it belongs to.
    pub cell: CellName,
    /// Its availability zone.
    pub zone: ZoneName,
    /// The cell's store.
    pub store: SharedStore,
    /// Where it serves gRPC.
    pub listener: TcpListener,
    /// Where it serves HTTP, if it does.
    pub http: Option<TcpListener>,
    /// Where others reach it, as `host` or `host:port`; the listener's address if not given.
    pub advertise: Option<String>,
    /// The rest.
    pub options: LaunchOptions,
}

/// What seldom differs between services.
#[derive(Clone, Debug)]
pub struct LaunchOptions {
    /// How long a stop may take in all.
    pub stop_within: Duration,
    /// How long callers get to leave once the registry says that this member is going.
    pub settle: Duration,
    /// How much its server takes at once.
    pub limits: Limits,
    /// How it stays registered.
    pub registry: RegistryOptions,
    /// How it finds the services it calls, where that is not by the store.
    pub targets: Targets,
    /// The file in which the members last known are kept. With a good one it starts even while the store is away,
    /// and registers when it can.
    pub snapshot: Option<PathBuf>,
    /// How it reaches others.
    pub peers: PeersOptions,
    /// The minor version of the API it speaks.
    pub minor: u32,
    /// The `:authority` others send to it; its address if not given.
    pub authority: Option<String>,
    /// Whether its server describes itself to tools.
    pub reflection: bool,
    /// Its configuration, for diagnostics. Secrets in it are hidden.
    pub config: serde_json::Value,
}

impl Default for LaunchOptions {
    fn default() -> Self {
        Self {
            stop_within: Duration::from_secs(8),
            settle: Duration::from_millis(100),
            limits: Limits::default(),
            registry: RegistryOptions::default(),
            targets: Targets::new(),
            snapshot: None,
            peers: PeersOptions::default(),
            minor: 0,
            authority: None,
            reflection: true,
            config: serde_json::Value::Null,
        }
    }
}

/// Why a service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener is of no use.
    #[error("a listening socket is of no use: {0}")]
    Listener(#[from] io::Error),
    /// It listens on every address, and others need one.
    #[error("{service} listens on every address ({listening}); say in `advertise` where others reach it")]
    NothingToAdvertise {
        /// The service.
        service: ServiceKind,
        /// Where it listens.
        listening: SocketAddr,
    },
    /// The registry refused it.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// Its server cannot be built.
    #[error("the server cannot be built: {0}")]
    Server(#[from] BuildError),
    /// Something of its own failed.
    #[error("{0}")]
    Service(Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    /// A failure of the service's own.
    pub fn service(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Service(error.into())
    }
}

impl Launch {
    /// Makes the member known and gathers what a service is built from.
    pub async fn register(self) -> Result<Context, StartError> {
        let metrics = Metrics::install();
        let listening = self.listener.local_addr()?;
        let addr = advertised(self.service, self.advertise.as_deref(), listening)?;
        let sources = Sources {
            targets: self.options.targets.clone(),
            snapshot: self.options.snapshot.clone(),
            ..Sources::default()
        };
        let registry = Registry::with_sources(self.store.clone(), self.cell.clone(), sources);
        let endpoint = Endpoint {
            service: self.service,
            host: self.host.clone(),
            addr: addr.clone(),
            zone: self.zone.clone(),
            minor: self.options.minor,
            authority: self.options.authority.clone(),
        };
        let options = self.options.registry.clone();
        let registration = if registry.remembers() {
            registry.register_eventually(endpoint, options).await?
        } else {
            registry.register(endpoint, options).await?
        };
        let caller = Caller::new(self.service, self.host.clone());
        let peers = Peers::new(registry.clone(), caller, self.options.peers.clone().suiting(self.service));
        // Several members may log in one process. The level is the highest, so that no filter of levels hides it.
        let span = tracing::error_span!("member", service = %self.service, host = %self.host);
        let tasks = Tasks::new(self.service.as_str()).in_span(span);
        let readiness = Readiness::new();
        readiness.not("server", "starting");
        if needs_epoch(self.service) && registration.epoch() == Epoch(0) {
            readiness.not(REGISTRATION, "the store cannot be reached");
            tasks.spawn("registration awaited", await_registration(registration.epochs(), readiness.clone()));
        }
        let config = redacted(self.options.config.clone());
        let diagnostics = Diagnostics::default();
        diagnostics.add("config", move || config.clone());
        Ok(Context {
            service: self.service,
            host: self.host,
            cell: self.cell,
            zone: self.zone,
            addr,
            store: self.store,
            registry,
            peers,
            tasks_end: tasks.token().clone().drop_guard(),
            shutdown: tasks.token().clone(),
            tasks,
            readiness,
            diagnostics,
            streams_end: CancellationToken::new(),
            fatal: Fatal::default(),
            started: Instant::now(),
            started_at: SystemTime::now(),
            metrics,
            registration,
            listener: self.listener,
            http: self.http,
            options: self.options,
        })
    }
}

/// Whether a service's work carries its epoch. Others may serve before they are registered.
fn needs_epoch(service: ServiceKind) -> bool {
    match service {
        ServiceKind::Conductor | ServiceKind::Compute | ServiceKind::Volume => true,
        ServiceKind::Api | ServiceKind::Scheduler => false,
    }
}

async fn await_registration(mut epochs: watch::Receiver<Epoch>, readiness: Readiness) {
    if epochs.wait_for(|epoch| *epoch > Epoch(0)).await.is_ok() {
        readiness.ok(REGISTRATION);
    }
}

/// The address to register: as given, with the listener's port where it names none.
fn advertised(
    service: ServiceKind,
    given: Option<&str>,
    listening: SocketAddr,
) -> Result<String, StartError> {
    let Some(given) = given else {
        if listening.ip().is_unspecified() {
            return Err(StartError::NothingToAdvertise { service, listening });
        }
        return Ok(listening.to_string());
    };
    let bare_v6 = given.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = given.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(match (bare_v6, has_port) {
        (true, _) => format!("[{given}]:{}", listening.port()),
        (false, true) => given.to_owned(),
        (false, false) => format!("{given}:{}", listening.port()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_can_be_dialled() {
        let listening: SocketAddr = "127.0.0.1:7771".parse().unwrap();
        let everywhere: SocketAddr = "0.0.0.0:7771".parse().unwrap();
        let advertised = |given, at| advertised(ServiceKind::Conductor, given, at);
        assert_eq!(advertised(None, listening).unwrap(), "127.0.0.1:7771");
        assert_eq!(advertised(Some("node1"), everywhere).unwrap(), "node1:7771");
        assert_eq!(advertised(Some("node1:99"), everywhere).unwrap(), "node1:99");
        assert_eq!(advertised(Some("fd00::1"), everywhere).unwrap(), "[fd00::1]:7771");
        assert_eq!(advertised(Some("[fd00::1]:99"), everywhere).unwrap(), "[fd00::1]:99");
        assert!(advertised(None, everywhere).unwrap_err().to_string().contains("`advertise`"));
    }
}
