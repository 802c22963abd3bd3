//! The flags that stand for configuration keys, and the sources a configuration is read from.

use std::path::PathBuf;

use clap::Args;
use kilonova_runtime::config::{ConfigError, Sources, load};
use serde::{Deserialize, Serialize};

use crate::cli::options::key_value;
use crate::config::Config;
use crate::failure::Failure;

/// Names the configuration file; no key itself.
const CONFIG_VARIABLE: &str = "KILONOVA_CONFIG";

/// What everything that serves takes. Values are checked where those of files and variables are, so that all are
/// refused in the same words.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigFlags {
    /// Read this TOML file.
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Set any key, as in `log.format=json`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Print the configuration that would be used, as TOML with secrets hidden, and exit.
    #[arg(long)]
    pub print_config: bool,
    /// The cell the services belong to.
    #[arg(long, value_name = "NAME")]
    pub cell: Option<String>,
    /// The availability zone.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// Where records and the registry are: `etcd` or `embedded`.
    #[arg(long, value_name = "KIND")]
    pub store: Option<String>,
    /// The etcd members, separated by commas; implies `--store etcd`.
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub etcd_endpoints: Option<Vec<String>>,
    /// Keep what stays on this machine below this directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A level, or levels per module: `info`, `info,kilonova_rpc=debug`.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// `text` for people, `json` for machines.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// What a single service takes besides.
#[derive(Clone, Debug, Default, Args)]
pub struct ServeFlags {
    #[command(flatten)]
    pub shared: ConfigFlags,
    /// The name the service is known by; the machine's own unless given.
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Where to serve gRPC; without a port, on the service's usual one.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where to serve metrics and probes; 1000 ports above gRPC unless given.
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Option<String>,
    /// The address others reach it under, where that is not where it listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
}

/// The flags as a part of the configuration.
#[derive(Serialize)]
struct Overlay<'a> {
    cell: &'a Option<String>,
    zone: &'a Option<String>,
    data_dir: &'a Option<PathBuf>,
    host: Option<&'a String>,
    listen: Option<&'a String>,
    http_listen: Option<&'a String>,
    advertise: Option<&'a String>,
    store: StoreOverlay<'a>,
    log: LogOverlay<'a>,
}

#[derive(Serialize)]
struct StoreOverlay<'a> {
    kind: Option<&'a str>,
    endpoints: &'a Option<Vec<String>>,
}

#[derive(Serialize)]
struct LogOverlay<'a> {
    level: &'a Option<String>,
    format: &'a Option<String>,
}

impl ConfigFlags {
    /// Reads the configuration of a process that runs many services: its log starts at warnings.
    pub fn load_quiet(&self) -> Result<Config, Failure> {
        load(sources(self, None)).map(|Quiet(config)| config).map_err(refused)
    }
}

impl ServeFlags {
    /// Reads the configuration of one service.
    pub fn load(&self) -> Result<Config, Failure> {
        load(sources(&self.shared, Some(self))).map_err(refused)
    }
}

/// The sentence about a bad configuration, with the types of numbers as people call them.
fn refused(error: ConfigError) -> Failure {
    match error {
        ConfigError::BadValue { key, value, origin, problem } => {
            let number = ["u8", "u16", "u32", "u64", "usize", "i32", "i64"];
            let problem = match problem.strip_prefix("expected ") {
                Some(kind) if number.contains(&kind) => "expected a whole number".to_owned(),
                _ => problem,
            };
            Failure::usage(ConfigError::BadValue { key, value, origin, problem })
        }
        other => Failure::usage(other),
    }
}

/// The same keys with another default.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Quiet(Config);

impl Default for Quiet {
    fn default() -> Self {
        let mut config = Config::default();
        config.log.level = "warn".to_owned();
        Self(config)
    }
}

fn sources(shared: &ConfigFlags, own: Option<&ServeFlags>) -> Sources {
    let implied = shared.etcd_endpoints.as_ref().map(|_| "etcd");
    let overlay = Overlay {
        cell: &shared.cell,
        zone: &shared.zone,
        data_dir: &shared.data_dir,
        host: own.and_then(|own| own.host.as_ref()),
        listen: own.and_then(|own| own.listen.as_ref()),
        http_listen: own.and_then(|own| own.http_listen.as_ref()),
        advertise: own.and_then(|own| own.advertise.as_ref()),
        store: StoreOverlay { kind: shared.store.as_deref().or(implied), endpoints: &shared.etcd_endpoints },
        log: LogOverlay { level: &shared.log_level, format: &shared.log_format },
    };
    let mut reserved = vec![CONFIG_VARIABLE];
    reserved.extend_from_slice(crate::cli::ENVIRONMENT);
    Sources::new()
        .file(shared.config.clone())
        .process_env()
        .reserved_env(&reserved)
        .flags(&overlay)
        .settings(shared.set.iter().cloned())
}
