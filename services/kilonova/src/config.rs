//! The one configuration of a machine: what its services share, and a section for each of them.
//!
//! One file serves every service of a machine: a `listen` without a port leaves each its usual one, and the data
//! of each lies in a directory of its own below `data_dir`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_runtime::LaunchOptions;
use kilonova_runtime::config::{Period, to_json_redacted};
use kilonova_runtime::telemetry::LogConfig;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::limits::LimitsConfig;
use crate::targets::{RegistryConfig, TargetsConfig};

/// How far a service's HTTP side port lies above its gRPC port.
pub const HTTP_PORT_OFFSET: u16 = 1000;

/// Where data lies unless told otherwise.
const DATA_DIR: &str = "/var/lib/kilonova";

/// All keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The cell the services belong to.
    pub cell: CellName,
    /// The name a service is known by; the machine's own when not set, with the driver as the backend of a volume
    /// service (`node7@simulated`).
    pub host: Option<HostName>,
    /// Where to serve gRPC; the service's usual port on the loopback address when not set.
    pub listen: Option<Address>,
    /// Where to serve metrics and probes; the gRPC address, 1000 ports up, when not set.
    pub http_listen: Option<Address>,
    /// The address others reach it under, `host:port` or `host`; where it listens when not set.
    pub advertise: Option<String>,
    /// The availability zone.
    pub zone: ZoneName,
    /// What services keep on this machine lies below this directory; `/var/lib/kilonova` when not set, or a temporary
    /// one if all services run in one process.
    pub data_dir: Option<PathBuf>,
    /// Where records and the registry are.
    pub store: StoreConfig,
    /// The log.
    pub log: LogConfig,
    /// How a service is registered, and what it remembers of the others.
    pub registry: RegistryConfig,
    /// How each service is found by those who call it.
    pub targets: TargetsConfig,
    /// How much a service takes at once.
    pub limits: LimitsConfig,
    /// How a service stops.
    pub drain: DrainConfig,
    /// The public edge.
    pub api: kilonova_api::Config,
    /// The owner of records.
    pub conductor: kilonova_conductor::Config,
    /// The one that answers "where".
    pub scheduler: kilonova_scheduler::Config,
    /// The agent of a hypervisor.
    pub compute: kilonova_compute::Config,
    /// The agent of a storage backend.
    pub volume: kilonova_volume::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cell: CellName::parse("default").expect("it is a valid name"),
            host: None,
            listen: None,
            http_listen: None,
            advertise: None,
            zone: ZoneName::parse("default").expect("it is a valid name"),
            data_dir: None,
            store: StoreConfig::default(),
            log: LogConfig::default(),
            registry: RegistryConfig::default(),
            targets: TargetsConfig::default(),
            limits: LimitsConfig::default(),
            drain: DrainConfig::default(),
            api: kilonova_api::Config::default(),
            conductor: kilonova_conductor::Config::default(),
            scheduler: kilonova_scheduler::Config::default(),
            compute: kilonova_compute::Config::default(),
            volume: kilonova_volume::Config::default(),
        }
    }
}

/// Where records and the registry are.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// `etcd` for a cell of several processes, `embedded` for one; when not set, `etcd` if endpoints are given.
    pub kind: Option<StoreKind>,
    /// The etcd members, as URLs.
    pub endpoints: Vec<String>,
    /// The user of etcd, where it wants to know.
    pub user: Option<String>,
    /// That user's password.
    pub password: Option<String>,
    /// The directory of the embedded store; `store` below `data_dir` when not set.
    pub path: Option<PathBuf>,
    /// Whether to open an embedded store that has lost what it had, or is another one. For one start, after a restore.
    pub accept_older: bool,
}

/// The two stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A file, open in one process.
    Embedded,
    /// An etcd cluster.
    Etcd,
}

const LOCAL_ETCD: &str = "http://127.0.0.1:2379";

impl StoreConfig {
    /// With everything decided that was left open.
    fn resolved(mut self, data_dir: &Path) -> Self {
        let given = if self.endpoints.is_empty() { StoreKind::Embedded } else { StoreKind::Etcd };
        match *self.kind.get_or_insert(given) {
            StoreKind::Etcd if self.endpoints.is_empty() => self.endpoints = vec![LOCAL_ETCD.to_owned()],
            StoreKind::Etcd => {}
            StoreKind::Embedded => {
                self.path.get_or_insert_with(|| data_dir.join("store"));
            }
        }
        self
    }
}

/// How a service stops.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// How long a stop may take in all; what has not ended by then is cut.
    pub timeout: Period,
    /// How long callers get to leave once the registry says that this member is going.
    pub settle: Period,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { timeout: Period::from_secs(8), settle: Period::from_millis(100) }
    }
}

/// Whether a directory given for an agent is kept; several agents of one process cannot share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepGiven {
    /// It is this agent's alone.
    Yes,
    /// Others were given the same.
    No,
}

/// What one service needs to start, everything decided.
#[derive(Clone, Debug)]
pub struct Place {
    /// The service.
    pub service: ServiceKind,
    /// Its name.
    pub host: HostName,
    /// Where it serves gRPC.
    pub listen: SocketAddr,
    /// Where it serves metrics and probes.
    pub http_listen: SocketAddr,
    /// Under which address others reach it, when that is not where it listens.
    pub advertise: Option<String>,
}

impl Config {
    /// Decides for one service what the sources left open.
    pub fn resolve(self, service: ServiceKind, machine: &str) -> Result<(Self, Place), String> {
        let mut config = self.resolve_shared(Path::new(DATA_DIR));
        let host = match config.host.take() {
            Some(host) => host,
            None => default_host(service, machine)?,
        };
        let loopback = Address { ip: Ipv4Addr::LOCALHOST.into(), port: None };
        let listen = config.listen.unwrap_or(loopback).or_port(service.default_port());
        let http_port = if listen.port() == 0 { 0 } else { listen.port().saturating_add(HTTP_PORT_OFFSET) };
        let http = config.http_listen.unwrap_or(Address { ip: listen.ip(), port: None }).or_port(http_port);
        if listen.ip().is_unspecified() && config.advertise.is_none() {
            return Err(format!(
                "listening on every address ({listen}) says nothing about where others reach the service: \
                 name that address with --advertise"
            ));
        }
        config.check()?;
        config.own_data(service, &host, KeepGiven::Yes);
        config.host = Some(host.clone());
        config.listen = Some(listen.into());
        config.http_listen = Some(http.into());
        let advertise = config.advertise.clone();
        Ok((config, Place { service, host, listen, http_listen: http, advertise }))
    }

    /// Refuses values that make no sense in any section, before anything is started.
    pub fn check(&self) -> Result<(), String> {
        self.registry.check()?;
        self.targets.targets()?;
        self.limits.check()?;
        ServiceKind::ALL.iter().try_for_each(|service| self.check_section(*service))
    }

    fn check_section(&self, service: ServiceKind) -> Result<(), String> {
        match service {
            ServiceKind::Api => self.api.check().map_err(|error| error.to_string()),
            ServiceKind::Conductor => self.conductor.check().map_err(|error| in_section(service, &error)),
            ServiceKind::Scheduler => self.scheduler.check().map_err(|error| error.to_string()),
            ServiceKind::Compute => self.compute.check().map_err(|error| in_section(service, &error)),
            ServiceKind::Volume => self.volume.check().map_err(|error| in_section(service, &error)),
        }
    }

    /// Decides what does not depend on the service; `data_dir` is for when none is set.
    pub fn resolve_shared(mut self, data_dir: &Path) -> Self {
        let data_dir = self.data_dir.get_or_insert_with(|| data_dir.to_owned());
        self.store = self.store.resolved(data_dir);
        self
    }

    /// Where one service keeps what stays on this machine.
    pub fn data_dir_of(&self, service: ServiceKind, host: &HostName) -> PathBuf {
        let data_dir = self.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
        data_dir.join(service.as_str()).join(host.as_str())
    }

    /// Gives an agent the directory that is its own below `data_dir`, unless it was given another.
    pub fn own_data(&mut self, service: ServiceKind, host: &HostName, given: KeepGiven) {
        let own = self.data_dir_of(service, host);
        let decide = |dir: &mut PathBuf, default: PathBuf| {
            if given == KeepGiven::No || *dir == default {
                *dir = own;
            }
        };
        match service {
            ServiceKind::Compute => {
                decide(&mut self.compute.data_dir, kilonova_compute::Config::default().data_dir);
            }
            ServiceKind::Volume => {
                decide(&mut self.volume.data_dir, kilonova_volume::Config::default().data_dir);
            }
            ServiceKind::Api | ServiceKind::Conductor | ServiceKind::Scheduler => {}
        }
    }

    /// How a service is run.
    pub fn launch_options(&self, service: ServiceKind, host: &HostName) -> Result<LaunchOptions, String> {
        Ok(LaunchOptions {
            stop_within: self.drain.timeout.get(),
            settle: self.drain.settle.get(),
            limits: self.limits.limits(),
            registry: self.registry.options(service),
            targets: self.targets.targets()?,
            snapshot: self.registry.snapshot_of(service, host),
            config: to_json_redacted(self),
            ..LaunchOptions::default()
        })
    }
}

/// The fields of an error, named as keys.
fn in_section(service: ServiceKind, error: &kilonova_model::Error) -> String {
    let wrong =
        error.violations.iter().map(|wrong| format!("{service}.{}: {}", wrong.field, wrong.description));
    wrong.collect::<Vec<_>>().join("; ")
}

fn default_host(service: ServiceKind, machine: &str) -> Result<HostName, String> {
    let name = match service {
        ServiceKind::Volume => format!("{machine}@simulated"),
        _ => machine.to_owned(),
    };
    HostName::parse(&name).map_err(|error| {
        format!("this machine's name cannot be a service's ({error}): name the service with --host")
    })
}
