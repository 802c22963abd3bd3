//! A whole cloud in one process: every service with ports of its own, all of them on one store.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{join_all, select_all, try_join_all};
use kilonova_model::{HostName, ServiceKind};
use kilonova_store::SharedStore;
use tempfile::TempDir;
use tokio::time::{Instant, timeout_at};

use super::plan::{Counts, Planned, PortChoice, members};
use crate::bind::{Ports, TAKEN};
use crate::config::{Config, KeepGiven, Place};
use crate::failure::Failure;
use crate::services::{self, Member};
use crate::stores;

/// What is to run.
pub struct Plan {
    /// How many of each.
    pub counts: Counts,
    /// Where all of them listen.
    pub ip: IpAddr,
    /// On which ports.
    pub ports: PortChoice,
    /// What they share, and the sections of each kind.
    pub config: Config,
}

/// A cloud that runs.
pub struct Cloud {
    members: Vec<Member>,
    data_dir: PathBuf,
    config: Config,
    foreign_store: Option<String>,
    /// Removed last.
    temporary: Option<TempDir>,
}

/// One member, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its service.
    pub service: ServiceKind,
    /// Its name.
    pub host: HostName,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// Where it serves HTTP.
    pub http: Option<SocketAddr>,
}

/// How long everything may take to become ready.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// They stop in layers, which share the time a stop may take.
const LAYERS: u32 = 3;
/// In which order services stop, so that nobody loses what it still needs.
const STOP_ORDER: [&[ServiceKind]; LAYERS as usize] = [
    &[ServiceKind::Api],
    &[ServiceKind::Compute, ServiceKind::Volume, ServiceKind::Scheduler],
    &[ServiceKind::Conductor],
];

impl Cloud {
    /// Takes every port, opens the store, starts everything and waits until all of it is ready, or waits for an operator's word on the
    /// store.
    pub async fn start(plan: Plan) -> Result<Self, Failure> {
        let planned = members(plan.counts);
        let places = take_ports(&planned, plan.ip, plan.ports).await?;
        let temporary = if plan.config.data_dir.is_none() { Some(temporary_dir()?) } else { None };
        let fallback = temporary.as_ref().map_or(Path::new(""), TempDir::path);
        let mut config = plan.config.resolve_shared(fallback);
        config.drain.timeout = (config.drain.timeout.get() / LAYERS).into();
        let store: SharedStore = stores::open(&config.store, false).await?;
        let starting = places.into_iter().map(|(place, ports)| {
            let (mut config, store) = (config.clone(), store.clone());
            config.own_data(place.service, &place.host, KeepGiven::No);
            async move { Box::pin(services::start(config, &place, ports, store)).await }
        });
        let members = try_join_all(starting).await?;
        let data_dir = config.data_dir.clone().unwrap_or_default();
        let mut cloud = Self { members, data_dir, config, foreign_store: None, temporary };
        let ready = tokio::select! {
            ready = cloud.ready() => ready.map(|()| None),
            reason = cloud.sees_foreign_store() => Ok(Some(reason)),
        };
        match ready {
            Ok(foreign_store) => {
                cloud.foreign_store = foreign_store;
                Ok(cloud)
            }
            Err(failure) => {
                cloud.stop().await;
                Err(failure)
            }
        }
    }

    /// Waits until an agent or a conductor says that the store is not what it was, and why.
    async fn sees_foreign_store(&self) -> String {
        let waits = self.members.iter().map(|member| {
            Box::pin(async move {
                let mut conditions = member.running.readiness.subscribe();
                // The sender lives as long as the member.
                let seen = conditions.wait_for(|conditions| conditions.foreign_store().is_some()).await;
                seen.ok().and_then(|seen| seen.foreign_store().map(str::to_owned)).unwrap_or_default()
            })
        });
        select_all(waits).await.0
    }

    async fn ready(&self) -> Result<(), Failure> {
        let end = Instant::now() + READY_WITHIN;
        for member in &self.members {
            let running = &member.running;
            if timeout_at(end, running.readiness.wait_ready()).await.is_err() {
                let waiting = running.readiness.current().summary();
                return Err(Failure::failed(format!(
                    "{} was not ready after {} s: {waiting}",
                    running.host,
                    READY_WITHIN.as_secs()
                )));
            }
        }
        Ok(())
    }

    /// Every member and where it listens.
    pub fn members(&self) -> Vec<Listening> {
        let listening = self.members.iter().map(|member| Listening {
            service: member.running.service,
            host: member.running.host.clone(),
            grpc: member.running.grpc_addr,
            http: member.running.http_addr,
        });
        listening.collect()
    }

    /// Why an operator has to say which store is the right one, if that is so: nothing goes on before.
    pub fn foreign_store(&self) -> Option<&str> {
        self.foreign_store.as_deref()
    }

    /// Where the api is reached from this machine.
    pub fn api(&self) -> SocketAddr {
        let api = self.members.iter().find(|member| member.running.service == ServiceKind::Api);
        reachable(api.expect("every cloud has one").running.grpc_addr)
    }

    /// What it runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where everything is kept.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether that goes away with the cloud.
    pub fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    /// Waits until one of the services says that it cannot go on, and why.
    pub async fn failed(&self) -> String {
        let waits = self.members.iter().map(|member| {
            Box::pin(async move { format!("{}: {}", member.running.host, member.running.wait().await) })
        });
        select_all(waits).await.0
    }

    /// Stops everything.
    pub async fn stop(self) {
        let mut rest = self.members;
        for kinds in STOP_ORDER {
            let (now, later): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|member| kinds.contains(&member.running.service));
            rest = later;
            join_all(now.into_iter().map(|member| member.running.stop())).await;
        }
    }
}

async fn take_ports(
    planned: &[Planned],
    ip: IpAddr,
    choice: PortChoice,
) -> Result<Vec<(Place, Ports)>, Failure> {
    let mut taken = Vec::with_capacity(planned.len());
    for member in planned {
        let candidates = member.candidates(ip, choice).into_iter();
        let bound = Ports::bind_first_free(member.host.as_str(), candidates).await;
        let ports = bound.map_err(|failure| match choice {
            PortChoice::Usual if failure.to_string().ends_with(TAKEN) => {
                Failure::failed(format!("{failure}; --ephemeral-ports takes any that are free"))
            }
            PortChoice::Usual | PortChoice::Ephemeral => failure,
        })?;
        let listen = ports.grpc.local_addr().map_err(Failure::failed)?;
        let http_listen = ports.http.local_addr().map_err(Failure::failed)?;
        // All of them are on this machine: a listener on every address is reached on the loopback one.
        let advertise = ip.is_unspecified().then(|| reachable(listen).to_string());
        let place =
            Place { service: member.service, host: member.host.clone(), listen, http_listen, advertise };
        taken.push((place, ports));
    }
    Ok(taken)
}

/// An address as this machine reaches it.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        given => given,
    }
}

fn temporary_dir() -> Result<TempDir, Failure> {
    let made = tempfile::Builder::new().prefix("kilonova-").tempdir();
    made.map_err(|error| Failure::failed(format!("cannot make a temporary directory: {error}")))
}
