//! What every command takes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use kilonova_runtime::config::Period;

use super::failure::Failure;

/// The variables the command line reads; they are not configuration keys.
pub const ENVIRONMENT: &[&str] = &["KILONOVA_ENDPOINT", "KILONOVA_PROJECT"];

/// How long one request may take unless the user says otherwise.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a command that waits for a resource may take unless the user says otherwise.
const WAIT_LIMIT: Duration = Duration::from_secs(300);

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct GlobalOptions {
    /// Where the api listens.
    #[arg(
        long,
        global = true,
        env = "KILONOVA_ENDPOINT",
        default_value = "http://127.0.0.1:7770",
        value_name = "URL"
    )]
    pub endpoint: String,
    /// The project to work in. Without it, new things go to `default` and lists show every project.
    #[arg(long, global = true, env = "KILONOVA_PROJECT", value_name = "ID")]
    pub project: Option<String>,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// How long the command may take in all: 10s, or 5m with --wait; a watch has no limit.
    #[arg(long, global = true, value_name = "DURATION")]
    pub timeout: Option<Period>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// The protobuf JSON mapping, with the field names of the contracts.
    Json,
}

impl GlobalOptions {
    /// The limit of a command that makes requests only.
    #[must_use]
    pub fn request_limit(&self) -> Duration {
        self.timeout.map_or(REQUEST_LIMIT, Period::get)
    }

    /// The limit of a command that may also wait.
    #[must_use]
    pub fn limit(&self, waits: bool) -> Duration {
        if waits { self.timeout.map_or(WAIT_LIMIT, Period::get) } else { self.request_limit() }
    }

    /// The project as requests name it: empty when the user named none.
    #[must_use]
    pub fn project(&self) -> String {
        self.project.clone().unwrap_or_default()
    }
}

/// Reads `KEY=VALUE`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

/// What every change takes.
#[derive(Debug, Clone, Args)]
pub struct Mutation {
    /// Makes the request idempotent: the same id again gets the first answer again. Made up when not given.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Mutation {
    /// The id given, or a new one.
    #[must_use]
    pub fn id(&self) -> String {
        self.request_id.clone().unwrap_or_else(new_request_id)
    }
}

/// An id no other request has.
#[must_use]
pub fn new_request_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// What to delete, of resources that take their time.
#[derive(Debug, Clone, Args)]
pub struct Removal {
    /// Their ids, or their names where no other has them.
    #[arg(required = true, value_name = "ID|NAME")]
    pub targets: Vec<String>,
    /// What is not there is no error.
    #[arg(long)]
    pub allow_missing: bool,
    /// Wait until they are gone.
    #[arg(long)]
    pub wait: bool,
}

/// What to delete, of resources that are gone at once.
#[derive(Debug, Clone, Args)]
pub struct Discard {
    /// Their ids.
    #[arg(required = true, value_name = "ID")]
    pub targets: Vec<String>,
    /// What is not there is no error.
    #[arg(long)]
    pub allow_missing: bool,
}

/// Reads states by their own names, in any case.
pub fn state_numbers(
    names: &[String],
    prefix: &str,
    read: impl Fn(&str) -> Option<i32>,
) -> Result<Vec<i32>, Failure> {
    let number = |name: &String| {
        let full = format!("{prefix}{}", name.to_uppercase().replace('-', "_"));
        read(&full)
            .ok_or_else(|| Failure::Usage(format!("`{name}` is no state; see --help for those there are")))
    };
    names.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::volume::State;

    #[test]
    fn states_are_read_in_any_case_and_refused_by_name() {
        let read = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            state_numbers(&names, "STATE_", |name| State::from_str_name(name).map(i32::from))
        };
        assert_eq!(read(&["in-use", "ERROR"]).unwrap(), [State::InUse as i32, State::Error as i32]);
        assert_eq!(read(&["lost"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn pairs_need_a_key_and_a_value() {
        assert_eq!(key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(key_value("a="), Ok(("a".into(), String::new())));
        assert!(key_value("a").is_err() && key_value("=b").is_err());
    }
}
