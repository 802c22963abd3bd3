//! `kilonova api|conductor|scheduler|compute|volume`: one service in one process, until it is told to stop.

use kilonova_model::ServiceKind;
use kilonova_runtime::config::to_toml_redacted;
use kilonova_runtime::tasks::Tasks;
use kilonova_runtime::telemetry::{Log, LogConfig};
use kilonova_runtime::{diagnostics, signals};
use tokio_util::sync::CancellationToken;

use crate::bind::Ports;
use crate::config::{Config, StoreKind};
use crate::failure::Failure;
use crate::flags::ServeFlags;
use crate::{output, renamed, services, stores};

/// Runs the service to its end.
pub async fn run(service: ServiceKind, flags: ServeFlags) -> Result<(), Failure> {
    let (config, place) = flags.load()?.resolve(service, &machine_name()).map_err(Failure::usage)?;
    if flags.shared.print_config {
        output::say(&to_toml_redacted(&config));
        return Ok(());
    }
    if config.store.kind == Some(StoreKind::Embedded) {
        return Err(Failure::usage(format!(
            "the embedded store is open in one process only, so {} {service} of its own would be alone in it: \
             run all services in one process with `kilonova up`, or name an etcd with --etcd-endpoints",
            if service == ServiceKind::Api { "an" } else { "a" }
        )));
    }
    renamed::check(&config, &place)?;
    let log = start_log(&config.log)?;
    let ports = Ports::bind(service.as_str(), place.listen, place.http_listen).await?;

    let process = Process::watch()?;
    process.reload_log(log, move || flags.load())?;
    let member = {
        let starting = async {
            let store = {
                let remembered = config.registry.snapshot_of(service, &place.host);
                stores::open(&config.store, remembered.is_some_and(|file| file.is_file())).await?
            };
            services::start(config, &place, ports, store).await
        };
        tokio::select! {
            member = starting => member?,
            () = process.stop.cancelled() => return Ok(()),
        }
    };
    let end = tokio::select! {
        () = process.stop.cancelled() => Ok(()),
        reason = member.running.wait() => Err(Failure::failed(format!("{service} {}: {reason}", place.host))),
    };
    member.running.stop().await;
    end
}

/// What a process that serves listens to besides its ports: signals.
pub struct Process {
    /// Cancelled at the first signal to stop.
    pub stop: CancellationToken,
    tasks: Tasks,
}

impl Process {
    /// Stops at the first SIGTERM or SIGINT, and exits at the second.
    pub fn watch() -> Result<Self, Failure> {
        let process = Self { stop: CancellationToken::new(), tasks: Tasks::new("process") };
        signals::stop_on_terminate(&process.tasks, process.stop.clone()).map_err(no_signals)?;
        Ok(process)
    }

    /// Reads the configuration again at SIGHUP, for the level of the log.
    pub fn reload_log(
        &self,
        log: Log,
        reread: impl Fn() -> Result<Config, Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let level = move || {
            let level = reread()?.log.level;
            set_level(&log, &level)?;
            Ok::<_, Failure>(level)
        };
        let reload = move || match level() {
            Ok(level) => tracing::info!(level, "the level of the log was read again"),
            Err(failure) => tracing::warn!(%failure, "the level of the log stays as it was"),
        };
        signals::on_hangup(&self.tasks, reload).map_err(no_signals)
    }
}

/// Starts the log of a process that serves.
pub fn start_log(config: &LogConfig) -> Result<Log, Failure> {
    let log = Log::start(config).map_err(Failure::usage)?;
    set_level(&log, &config.level)?;
    Ok(log)
}

/// Sets the level as it was given; what a signal asks for is written at any.
fn set_level(log: &Log, level: &str) -> Result<(), Failure> {
    log.set_level(level).map_err(Failure::usage)?;
    log.set_level(&format!("{level},{}=info", diagnostics::TARGET)).map_err(Failure::usage)
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::failed(format!("cannot listen for signals: {error}"))
}

/// What this machine calls itself.
pub fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
