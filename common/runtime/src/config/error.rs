//! What can be wrong with a configuration, each said in one sentence.

use std::fmt;
use std::path::PathBuf;

use figment::error::Kind;
use figment::value::Value;

use super::redact::is_secret;

/// The source a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable, by its full name.
    Variable(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the built-in defaults"),
            Origin::File(path) => write!(f, "the file {}", path.display()),
            Origin::Variable(name) => write!(f, "the environment variable {name}"),
            Origin::Flag => f.write_str("the command line"),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is not valid TOML at line {line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: String,
    },
    /// A key that nothing reads.
    #[error("unknown key `{key}` in {origin}{}", suggestion(nearest))]
    UnknownKey {
        /// The key, with dots between its parts.
        key: String,
        /// Who set it.
        origin: Origin,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A value that its key cannot have.
    #[error("bad value {value} for `{key}` in {origin}: {problem}")]
    BadValue {
        /// The key, with dots between its parts.
        key: String,
        /// The value as given, or a placeholder where it is a secret.
        value: String,
        /// Who set it.
        origin: Origin,
        /// What was expected.
        problem: String,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |nearest| format!("; the nearest known key is `{nearest}`"))
}

pub(super) fn bad_value(key: String, value: Option<&Value>, origin: Origin, kind: &Kind) -> ConfigError {
    let secret = key.split('.').any(is_secret);
    let value = match value {
        Some(_) if secret => "(hidden)".to_owned(),
        Some(value) => format!("`{}`", plain(value)),
        None => "(none)".to_owned(),
    };
    let problem = match kind {
        // Serde's own sentence for these repeats the value, which may have to stay hidden.
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) => format!("expected {expected}"),
        Kind::UnknownVariant(_, known) => format!("expected one of {}", known.join(", ")),
        Kind::Message(_) if secret => "it is not accepted".to_owned(),
        other => other.to_string(),
    };
    ConfigError::BadValue { key, value, origin, problem }
}

fn plain(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => serde_json::to_string(value).unwrap_or_else(|_| "?".to_owned()),
    }
}
