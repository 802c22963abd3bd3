//! Where configuration comes from, each source made into one layer of values.

use std::path::PathBuf;

use figment::value::{Dict, Empty, Value};
use serde::Serialize;

use super::error::{ConfigError, Origin};

/// What every configuration variable's name starts with.
pub const ENV_PREFIX: &str = "KILONOVA_";

/// The sources of one configuration, weakest first: file, variables, flags, settings.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    reserved: Vec<String>,
    flags: Vec<Dict>,
    settings: Vec<(String, String)>,
}

impl Sources {
    /// No sources: the defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this TOML file, which must exist.
    pub fn file(mut self, path: Option<PathBuf>) -> Self {
        self.file = path;
        self
    }

    /// Takes the process's own environment.
    pub fn process_env(self) -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        self.env(variables)
    }

    /// Takes these variables; those not starting with [`ENV_PREFIX`] are left alone.
    /// `KILONOVA_SERVER__LISTEN` is the key `server.listen`.
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.variables.extend(variables.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)));
        self.variables.sort();
        self
    }

    /// Names variables that start with the prefix and are no configuration keys, such as the one naming the file.
    pub fn reserved_env(mut self, names: &[&str]) -> Self {
        self.reserved.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }

    /// Lays command line flags over everything else; a flag not given is a `None` and changes nothing.
    pub fn flags(mut self, overlay: &impl Serialize) -> Self {
        if let Ok(Value::Dict(_, dict)) = Value::serialize(overlay) {
            self.flags.push(without_unset(dict));
        }
        self
    }

    /// Lays single settings from the command line over everything else: keys with dots, values as in a variable.
    pub fn settings(mut self, settings: impl IntoIterator<Item = (String, String)>) -> Self {
        self.settings.extend(settings);
        self
    }

    pub(super) fn into_layers(self) -> Result<Vec<Layer>, ConfigError> {
        let mut layers = Vec::new();
        if let Some(path) = self.file {
            layers.push(read_file(path)?);
        }
        for (name, value) in self.variables {
            if !self.reserved.contains(&name) && !is_service_link(&name, &value) {
                let path = name[ENV_PREFIX.len()..].to_lowercase();
                layers.push(Layer::text(Origin::Variable(name), path.split("__"), value));
            }
        }
        let flags = self.flags.into_iter().map(|values| Layer { origin: Origin::Flag, values, text: None });
        layers.extend(flags);
        for (key, value) in self.settings {
            layers.push(Layer::text(Origin::Flag, key.split('.'), value));
        }
        Ok(layers)
    }
}

/// One source's values.
#[derive(Debug)]
pub(super) struct Layer {
    pub origin: Origin,
    pub values: Dict,
    /// The text of one value whose type was guessed from how it looks.
    text: Option<(Vec<String>, String)>,
}

impl Layer {
    fn text<'a>(origin: Origin, path: impl Iterator<Item = &'a str>, text: String) -> Self {
        let path: Vec<String> = path.map(str::to_owned).collect();
        let guess: Value = text.parse().unwrap_or_else(|never| match never {});
        let values = nest(&path, guess);
        Self { origin, values, text: Some((path, text)) }
    }

    /// Takes a value as the text it is instead of the number or table it looks like; false if it was already.
    pub fn reread_as_text(&mut self) -> bool {
        let Some((path, text)) = self.text.take() else { return false };
        self.values = nest(&path, Value::from(text));
        true
    }
}

/// Kubernetes gives every container variables for every Service in its namespace; for one named `kilonova-api` they
/// start as ours do.
fn is_service_link(name: &str, value: &str) -> bool {
    let port_link = name.ends_with("_PORT") && value.contains("://");
    let port_part = || {
        let rest = name.rsplit_once("_PORT_").map_or("", |(_, rest)| rest);
        rest.split_once('_').is_some_and(|(port, rest)| {
            let protocol = ["TCP", "UDP", "SCTP"].iter().find_map(|known| rest.strip_prefix(known));
            port.parse::<u16>().is_ok() && protocol.is_some()
        })
    };
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || port_link || port_part()
}

fn nest(path: &[String], value: Value) -> Dict {
    let (first, rest) = path.split_first().expect("splitting a string yields at least one part");
    let value = if rest.is_empty() { value } else { Value::from(nest(rest, value)) };
    Dict::from([(first.clone(), value)])
}

fn read_file(path: PathBuf) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(&path)
        .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.clone(),
        line: error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
        problem: error.message().replace('\n', " "),
    })?;
    let values = match Value::serialize(&table) {
        Ok(Value::Dict(_, values)) => values,
        _ => Dict::new(),
    };
    Ok(Layer { origin: Origin::File(path), values, text: None })
}

fn without_unset(dict: Dict) -> Dict {
    let set = dict.into_iter().filter_map(|(key, value)| match value {
        Value::Empty(_, Empty::None | Empty::Unit) => None,
        Value::Dict(tag, inner) => {
            let inner = without_unset(inner);
            (!inner.is_empty()).then_some((key, Value::Dict(tag, inner)))
        }
        set => Some((key, set)),
    });
    set.collect()
}
