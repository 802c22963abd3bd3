//! Layered configuration: defaults, then a TOML file, then `KILONOVA_…` variables, then flags; the last one wins.
//!
//! A configuration type is an ordinary serde struct with a `Default`. Its default value, serialised, is also the
//! list of keys that exist, so optional keys must be serialised too (no `skip_serializing_if`). A table whose keys
//! are free (a map) simply keeps what it is given. A key nobody reads is refused rather than ignored: a misspelt
//! limit that silently keeps its default is found in the worst night of the year.

mod error;
mod keys;
mod period;
mod redact;
mod sources;

pub use error::{ConfigError, Origin};
pub use period::{Period, PeriodError};
pub use redact::{redacted, to_json_redacted, to_toml_redacted};
pub use sources::{ENV_PREFIX, Sources};

use error::bad_value;
use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sources::Layer;

/// Reads a configuration from its sources.
pub fn load<T>(sources: Sources) -> Result<T, ConfigError>
where
    T: Serialize + DeserializeOwned + Default,
{
    let defaults = serialise(&T::default());
    let mut layers = sources.into_layers()?;
    let config = extract::<T>(&defaults, &mut layers)?;
    refuse_ignored_keys(&defaults, &serialise(&config), &layers)?;
    Ok(config)
}

fn extract<T: DeserializeOwned>(defaults: &Dict, layers: &mut [Layer]) -> Result<T, ConfigError> {
    loop {
        let error = match merge(defaults, layers).extract::<T>() {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        // A variable is text; whether `17` in it means a number or a name is known only to the type it is read into.
        if matches!(error.kind, Kind::InvalidType(..))
            && let Some(layer) = giver(layers, &error.path)
            && layer.reread_as_text()
        {
            continue;
        }
        return Err(explain(error, defaults, layers));
    }
}

fn merge(defaults: &Dict, layers: &[Layer]) -> Figment {
    let start = Figment::from(Serialized::globals(defaults));
    layers.iter().fold(start, |figment, layer| figment.merge(Serialized::globals(&layer.values)))
}

/// The layer whose value for `path` was used: the last one that has it.
fn giver<'a>(layers: &'a mut [Layer], path: &[String]) -> Option<&'a mut Layer> {
    layers.iter_mut().rev().find(|layer| keys::find(&layer.values, path).is_some())
}

fn explain(error: figment::Error, defaults: &Dict, layers: &mut [Layer]) -> ConfigError {
    let key = error.path.join(".");
    let layer = giver(layers, &error.path);
    let origin = layer.as_ref().map_or(Origin::Default, |layer| layer.origin.clone());
    if let Kind::UnknownField(_, siblings) = error.kind {
        let nearest = keys::nearest_sibling(&error.path, siblings).or_else(|| keys::nearest(&key, defaults));
        return ConfigError::UnknownKey { key, origin, nearest };
    }
    let value = layer.and_then(|layer| keys::find(&layer.values, &error.path));
    bad_value(key, value, origin, &error.kind)
}

fn refuse_ignored_keys(defaults: &Dict, accepted: &Dict, layers: &[Layer]) -> Result<(), ConfigError> {
    for layer in layers {
        if let Some(path) = keys::first_absent(&layer.values, accepted) {
            let key = path.join(".");
            let nearest = keys::nearest(&key, defaults);
            return Err(ConfigError::UnknownKey { key, origin: layer.origin.clone(), nearest });
        }
    }
    Ok(())
}

fn serialise<T: Serialize>(config: &T) -> Dict {
    match Value::serialize(config) {
        Ok(Value::Dict(_, dict)) => dict,
        other => panic!("a configuration serialises to a table, this one to {other:?}"),
    }
}

#[cfg(test)]
mod tests;
