//! `[limits]`: how much a service takes at once before it refuses more.

use kilonova_rpc::server::{AdmissionLimits, Limits};
use serde::{Deserialize, Serialize};

/// All keys. What is over a limit hears `RESOURCE_EXHAUSTED` and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Unary calls in progress. User calls fill at most 80 % of it, reports of agents 90 %, health checks all.
    pub calls: usize,
    /// Unary calls in progress of one peer: a machine, or on this machine a connection.
    pub calls_per_peer: usize,
    /// Open streams, shared in the same way.
    pub streams: usize,
    /// Open streams of one peer.
    pub streams_per_peer: usize,
    /// Open connections; further ones wait to be accepted.
    pub connections: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let (limits, admission) = (Limits::default(), AdmissionLimits::default());
        Self {
            calls: admission.calls,
            calls_per_peer: admission.calls_per_peer,
            streams: admission.streams,
            streams_per_peer: admission.streams_per_peer,
            connections: limits.max_connections,
        }
    }
}

impl LimitsConfig {
    /// Refuses limits that let nothing in.
    pub fn check(&self) -> Result<(), String> {
        let all = [
            ("calls", self.calls),
            ("calls_per_peer", self.calls_per_peer),
            ("streams", self.streams),
            ("streams_per_peer", self.streams_per_peer),
            ("connections", self.connections),
        ];
        match all.into_iter().find(|(_, limit)| *limit == 0) {
            Some((key, _)) => Err(format!("limits.{key}: 0 lets nothing in; give at least 1")),
            None => Ok(()),
        }
    }

    /// For the server.
    pub fn limits(&self) -> Limits {
        let admission = AdmissionLimits {
            calls: self.calls,
            calls_per_peer: self.calls_per_peer,
            streams: self.streams,
            streams_per_peer: self.streams_per_peer,
        };
        Limits { max_connections: self.connections, admission, ..Limits::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_server_s_and_nothing_is_refused() {
        assert_eq!(LimitsConfig::default().limits(), Limits::default());
        assert_eq!(LimitsConfig::default().check(), Ok(()));
        let none = LimitsConfig { streams: 0, ..LimitsConfig::default() };
        assert_eq!(none.check(), Err("limits.streams: 0 lets nothing in; give at least 1".to_owned()));
    }
}
