//! Logs and metrics. Both are the process's own, whatever services run in it.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// How the log is written.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or levels per module: `info`, `info,kilonova_rpc=debug`. Access lines are the target
    /// `kilonova::access`.
    pub level: String,
    /// For people or for machines.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is not one.
    #[error("`{level}` is not a log level: {problem}")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else in the process logs already.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// The running log, whose level can be changed.
#[derive(Clone, Debug)]
pub struct Log {
    level: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Starts logging to standard error, panics included, for the whole process.
    pub fn start(config: &LogConfig) -> Result<Self, LogError> {
        Self::start_to(config, io::stderr, io::stderr().is_terminal())
    }

    /// Starts logging to a file, for the whole process.
    pub fn start_in_file(config: &LogConfig, file: File) -> Result<Self, LogError> {
        Self::start_to(config, Arc::new(file), false)
    }

    fn start_to(
        config: &LogConfig,
        writer: impl for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
        colours: bool,
    ) -> Result<Self, LogError> {
        let (filter, level) = reload::Layer::new(parse_level(&config.level)?);
        let lines = match config.format {
            LogFormat::Text => fmt::layer().with_ansi(colours).with_writer(writer).boxed(),
            LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        subscriber.try_init().map_err(|_| LogError::AlreadySet)?;
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string);
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(place, panic = panic.payload_as_str(), %backtrace, "panic");
        }));
        Ok(Self { level })
    }

    /// Changes the level; a bad one changes nothing.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse_level(level)?;
        self.level
            .reload(filter)
            .map_err(|error| LogError::Level { level: level.to_owned(), problem: error.to_string() })
    }
}

fn parse_level(level: &str) -> Result<EnvFilter, LogError> {
    let refuse = |problem: String| LogError::Level { level: level.to_owned(), problem };
    if level.trim().is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    // A filter reads any unknown word as a module's name; alone it would silence everything else.
    let bare = level.split(',').map(str::trim).find(|part| {
        !part.contains(['=', '[', ':']) && part.parse::<tracing::level_filters::LevelFilter>().is_err()
    });
    if let Some(word) = bare {
        return Err(refuse(format!("`{word}` is none of off, error, warn, info, debug, trace")));
    }
    EnvFilter::try_new(level).map_err(|error| refuse(error.to_string()))
}

/// Upper bounds of histograms of seconds: those Prometheus clients have by default, and finer ones below.
const SECONDS_BUCKETS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The process's metrics. The first use installs them.
#[derive(Clone, Copy, Debug)]
pub struct Metrics(());

impl Metrics {
    /// Installs the recorder unless that was done before.
    pub fn install() -> Self {
        handle();
        Self(())
    }

    /// All metrics in Prometheus' text format.
    pub fn render(self) -> String {
        handle().map(PrometheusHandle::render).unwrap_or_default()
    }

    /// Folds samples into their histograms; without it they pile up between two renderings. Every service of a
    /// process may ask for it; it is done once per [`FOLD_EVERY`].
    pub fn fold(self) {
        static LAST: Mutex<Option<Instant>> = Mutex::new(None);
        let now = Instant::now();
        let due = {
            let mut last = LAST.lock();
            let due = last.is_none_or(|last| now.duration_since(last) >= FOLD_EVERY);
            if due {
                *last = Some(now);
            }
            due
        };
        if due && let Some(handle) = handle() {
            handle.run_upkeep();
        }
    }
}

/// How often samples are folded into histograms.
pub const FOLD_EVERY: Duration = Duration::from_secs(5);

/// None when another recorder owns the process.
fn handle() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .expect("the list of buckets is not empty");
        match builder.install_recorder() {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::warn!(%error, "metrics are not available");
                None
            }
        }
    };
    HANDLE.get_or_init(install).as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_histograms_with_the_usual_buckets() {
        let metrics = Metrics::install();
        metrics::histogram!("kilonova_test_seconds").record(0.02);
        metrics::counter!("kilonova_test_total").increment(3);
        metrics.fold();
        let text = metrics.render();
        assert!(text.contains("kilonova_test_seconds_bucket{le=\"0.025\"} 1"), "{text}");
        assert!(text.contains("kilonova_test_total 3"), "{text}");
    }

    #[test]
    fn levels_are_checked() {
        for good in ["info", "warn,h2=debug", "info,kilonova_rpc::server=trace", "off"] {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,loud", "h2=loud"] {
            assert!(parse_level(bad).is_err(), "{bad}");
        }
    }
}
