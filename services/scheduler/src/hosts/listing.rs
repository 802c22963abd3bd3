//! What is known of the hosts, for people: pages, counts, and who is down.

use std::collections::BTreeSet;
use std::ops::Bound;

use kilonova_model::{HostName, time};
use kilonova_proto::scheduler::v1::HostState;
use kilonova_proto::types::v1::host::State;
use tokio::time::Instant;

use super::entry::Entry;
use super::manager::HostManager;
use crate::placement::Space;

/// How many hosts there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Up.
    pub up: usize,
    /// Down, or gone and not forgotten yet.
    pub down: usize,
    /// Of those that are up: kept away from new work because builds fail there.
    pub quarantined: usize,
    /// Requests that are promised something.
    pub held_requests: usize,
}

impl<S: Space> HostManager<S> {
    /// Up to `limit` hosts in the order of their names, those after `after`; of those in `names`, unless it is empty.
    pub fn list(
        &self,
        after: Option<&HostName>,
        names: &BTreeSet<HostName>,
        limit: usize,
        now: Instant,
    ) -> Vec<HostState> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let state = |(host, entry)| self.state(host, entry, now);
        if names.is_empty() {
            return self.entries.range::<HostName, _>(range).take(limit).map(state).collect();
        }
        let named = names.range::<HostName, _>(range).filter_map(|host| self.entries.get_key_value(host));
        named.take(limit).map(state).collect()
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        Counts {
            up: self.standing.up,
            down: self.entries.len() - self.standing.up,
            quarantined: self.quarantined,
            held_requests: self.holds.len(),
        }
    }

    /// The first `limit` of those that are down, and why.
    pub fn down(&self, limit: usize) -> Vec<(String, String)> {
        let down =
            self.entries.iter().filter_map(|(host, entry)| Some((host.to_string(), entry.down_reason()?)));
        down.take(limit).collect()
    }

    fn state(&self, host: &HostName, entry: &Entry, now: Instant) -> HostState {
        let reason = entry.down_reason().or_else(|| entry.kept_away_reason());
        let state = if entry.is_up() { State::Up } else { State::Down };
        let age = entry.received.map(|at| time::duration(now.saturating_duration_since(at)));
        HostState {
            host: host.to_string(),
            state: state.into(),
            state_detail: reason.unwrap_or_default(),
            capabilities: entry.capabilities.as_deref().cloned(),
            capabilities_age: age,
            holds: u32::try_from(self.holds.on(entry.id).count()).unwrap_or(u32::MAX),
        }
    }
}
