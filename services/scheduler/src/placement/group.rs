//! The server group that an instance is a member of, as far as placement cares.

use std::collections::BTreeMap;

use kilonova_proto::scheduler::v1::GroupHosts;
use kilonova_proto::types::v1::server_group::Policy;

use super::space::Row;
use super::vocabulary::Symbol;
use super::world::{HostId, World};

/// A group: its rule, and how many other members are on which host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The rule.
    pub policy: Policy,
    /// How many may share a host, where the rule counts.
    pub max_per_host: u32,
    /// By host, sorted.
    members: Vec<(HostId, u32)>,
    /// By zone, sorted.
    zones: BTreeMap<Symbol, u32>,
    /// The names of all hosts with members, also of those not known here.
    pub names: Vec<String>,
}

impl Group {
    /// Looks up the hosts that are named.
    pub fn new<R: Row>(group: &GroupHosts, world: &World<R>) -> Self {
        let known = |host: &kilonova_proto::scheduler::v1::GroupHost| {
            world.find(&host.host).map(|id| (id, host.members))
        };
        let mut members: Vec<(HostId, u32)> = group.hosts.iter().filter_map(known).collect();
        members.sort_unstable();
        let mut zones = BTreeMap::new();
        for (host, count) in &members {
            let zone = world.rows_of(*host).next().map(|row| row.head().zone);
            zone.into_iter().for_each(|zone| *zones.entry(zone).or_default() += count);
        }
        Self {
            policy: group.policy(),
            max_per_host: group.max_per_host.max(1),
            members,
            zones,
            names: group.hosts.iter().map(|host| host.host.clone()).collect(),
        }
    }

    /// How many other members are in a zone.
    #[must_use]
    pub fn in_zone(&self, zone: Symbol) -> u32 {
        self.zones.get(&zone).copied().unwrap_or_default()
    }

    /// How many other members are on a host.
    #[must_use]
    pub fn on(&self, host: HostId) -> u32 {
        let found = self.members.binary_search_by_key(&host, |(id, _)| *id);
        found.map_or(0, |place| self.members[place].1)
    }
}
