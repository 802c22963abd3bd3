//! The service config: per method, the longest a call may take and whether it may be tried again.
//!
//! It is the standard gRPC document (grpc/grpc-proto, `service_config.proto`; retries: gRFC A6), so clients in
//! every language can load the same file. The entry that names the method wins, then the one that names its
//! service, then the one that names nothing.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use crate::backoff::{BackoffPolicy, InvalidBackoff, Jitter};

/// What holds for the calls of one method.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct MethodPolicy {
    /// The longest a call may take, and how long one may take that sets no deadline.
    pub(crate) timeout: Option<Duration>,
    /// How calls that came back `UNAVAILABLE` are tried again.
    pub(crate) retry: Option<RetryPolicy>,
}

/// How one method is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RetryPolicy {
    /// Attempts in all, the first included.
    pub(crate) attempts: u32,
    /// The delays between them.
    pub(crate) backoff: BackoffPolicy,
}

/// How many retries there may be for how many calls (gRFC A6, `retryThrottling`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Throttling {
    /// The full bucket; retries stop when it is half empty.
    pub(crate) max_tokens: u32,
    /// What a success puts back of what a failure takes.
    pub(crate) token_ratio: f64,
}

/// The whole document, ready for look-ups.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceConfig {
    by_name: HashMap<(String, String), MethodPolicy>,
    pub(crate) throttling: Throttling,
}

/// A document that cannot be used: a defect of this build.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadServiceConfig {
    #[error("not a service config: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0:?} is not a duration like \"1.5s\"")]
    Duration(String),
    #[error(transparent)]
    Backoff(#[from] InvalidBackoff),
    #[error("maxAttempts must be from 2 to 5")]
    Attempts,
    #[error("only UNAVAILABLE can be told to be retried")]
    Codes,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    retry_throttling: ThrottlingEntry,
    method_config: Vec<MethodEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ThrottlingEntry {
    max_tokens: u32,
    token_ratio: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MethodEntry {
    name: Vec<Name>,
    timeout: Option<String>,
    retry_policy: Option<RetryEntry>,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetryEntry {
    max_attempts: u32,
    initial_backoff: String,
    max_backoff: String,
    backoff_multiplier: f64,
    retryable_status_codes: Vec<String>,
}

impl ServiceConfig {
    pub(crate) fn parse(json: &str) -> Result<Self, BadServiceConfig> {
        let document: Document = serde_json::from_str(json)?;
        let mut by_name = HashMap::new();
        for entry in document.method_config {
            let policy = MethodPolicy {
                timeout: entry.timeout.as_deref().map(duration).transpose()?,
                retry: entry.retry_policy.as_ref().map(retry).transpose()?,
            };
            by_name.extend(entry.name.into_iter().map(|name| ((name.service, name.method), policy)));
        }
        let ThrottlingEntry { max_tokens, token_ratio } = document.retry_throttling;
        Ok(Self { by_name, throttling: Throttling { max_tokens, token_ratio } })
    }

    pub(crate) fn of(&self, service: &str, method: &str) -> MethodPolicy {
        let named = |service: &str, method: &str| self.by_name.get(&(service.to_owned(), method.to_owned()));
        let found = named(service, method).or_else(|| named(service, "")).or_else(|| named("", ""));
        found.copied().unwrap_or_default()
    }
}

fn retry(entry: &RetryEntry) -> Result<RetryPolicy, BadServiceConfig> {
    if !(2..=5).contains(&entry.max_attempts) {
        return Err(BadServiceConfig::Attempts);
    }
    if entry.retryable_status_codes != ["UNAVAILABLE"] {
        return Err(BadServiceConfig::Codes);
    }
    let (initial, max) = (duration(&entry.initial_backoff)?, duration(&entry.max_backoff)?);
    let backoff = BackoffPolicy::new(initial, max, entry.backoff_multiplier, Jitter::Full)?;
    Ok(RetryPolicy { attempts: entry.max_attempts, backoff })
}

/// A duration as protobuf's JSON writes it.
fn duration(text: &str) -> Result<Duration, BadServiceConfig> {
    let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
    let duration = seconds.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| BadServiceConfig::Duration(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use crate::wire::method;

    fn ours() -> ServiceConfig {
        ServiceConfig::parse(kilonova_proto::SERVICE_CONFIG).unwrap()
    }

    #[test]
    fn the_most_specific_entry_wins() {
        let config = ServiceConfig::parse(
            r#"{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5}, "methodConfig": [
                {"name": [{}], "timeout": "10s"},
                {"name": [{"service": "a.B"}], "timeout": "2.5s"},
                {"name": [{"service": "a.B", "method": "C"}]}]}"#,
        )
        .unwrap();
        assert_eq!(config.of("x.Y", "Z").timeout, Some(Duration::from_secs(10)));
        assert_eq!(config.of("a.B", "Z").timeout, Some(Duration::from_millis(2500)));
        assert_eq!(config.of("a.B", "C"), MethodPolicy::default());
        assert_eq!(config.throttling, Throttling { max_tokens: 10, token_ratio: 0.5 });
    }

    #[test]
    fn nonsense_is_refused() {
        for (attempts, code, initial) in [
            (1, "UNAVAILABLE", "1s"),
            (6, "UNAVAILABLE", "1s"),
            (3, "INTERNAL", "1s"),
            (3, "UNAVAILABLE", "1"),
        ] {
            let json = format!(
                r#"{{"retryThrottling": {{"maxTokens": 10, "tokenRatio": 0.1}}, "methodConfig": [{{"name": [{{}}],
                "retryPolicy": {{"maxAttempts": {attempts}, "initialBackoff": "{initial}", "maxBackoff": "2s",
                "backoffMultiplier": 2, "retryableStatusCodes": ["{code}"]}}}}]}}"#
            );
            assert!(ServiceConfig::parse(&json).is_err(), "{json}");
        }
    }

    /// Every call of ours ends, streams have no end of their own, and only what may be repeated is.
    #[test]
    fn our_document_fits_our_protos() {
        let config = ours();
        let set = FileDescriptorSet::decode(kilonova_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut names: std::collections::HashSet<_> = config.by_name.keys().cloned().collect();
        names.remove(&(String::new(), String::new()));
        for (service, methods) in method::services(&set) {
            for facts in methods {
                let policy = config.of(&service, &facts.name);
                let streams = facts.shape.server_streams();
                assert_eq!(policy.timeout.is_none(), streams, "{service}/{}", facts.name);
                assert!(policy.retry.is_none() || facts.idempotency.may_repeat(), "{service}/{}", facts.name);
                names.remove(&(service.clone(), facts.name));
            }
        }
        assert_eq!(
            names.into_iter().map(|(service, _)| service).collect::<Vec<_>>(),
            ["grpc.health.v1.Health"]
        );
    }
}
