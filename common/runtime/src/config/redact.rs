//! A configuration as it may be shown: what is secret is hidden.

use serde::Serialize;
use serde_json::Value;

const HIDDEN: &str = "(hidden)";

/// Whether a key of this name holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["password", "secret", "token"].iter().any(|part| name.contains(part)) || name.ends_with("_key")
}

/// The configuration as TOML, for `--print-config`. Keys without a value are left out: TOML cannot say "none".
pub fn to_toml_redacted<T: Serialize>(config: &T) -> String {
    let table = match to_toml(to_json_redacted(config)) {
        Some(toml::Value::Table(table)) => table,
        _ => toml::Table::new(),
    };
    table.to_string()
}

/// The configuration as JSON, for diagnostics.
pub fn to_json_redacted<T: Serialize>(config: &T) -> Value {
    let json = serde_json::to_value(config).unwrap_or_else(|error| Value::String(error.to_string()));
    redacted(json)
}

/// Hides whatever a key's name says is secret, and passwords inside URLs.
pub fn redacted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let shown = map.into_iter().map(|(key, value)| {
                let value = match value {
                    Value::Null => Value::Null,
                    _ if is_secret(&key) => HIDDEN.into(),
                    other => redacted(other),
                };
                (key, value)
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(redacted).collect()),
        Value::String(text) => Value::String(without_userinfo(text)),
        plain => plain,
    }
}

fn without_userinfo(text: String) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://{HIDDEN}{}", &rest[at..]),
        None => text,
    }
}

fn to_toml(value: Value) -> Option<toml::Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(flag) => flag.into(),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => number.as_f64()?.into(),
        },
        Value::String(text) => text.into(),
        Value::Array(items) => toml::Value::Array(items.into_iter().filter_map(to_toml).collect()),
        Value::Object(map) => {
            let entries = map.into_iter().filter_map(|(key, value)| Some((key, to_toml(value)?)));
            toml::Value::Table(entries.collect())
        }
    })
}
