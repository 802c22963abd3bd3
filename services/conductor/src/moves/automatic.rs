//! Evacuation without being asked, if the configuration wants it: instances of hosts that have been gone for a while.
//!
//! That a host is not registered does not prove that it is off: this is for cells where something else makes sure of that. So it is
//! off by default, waits, goes slowly, and stops altogether while so many hosts are gone that the network is the likelier cause.
//!
//! ```text
//!   registered ──► gone ── delay ──► due ── within the rate, and not too many gone ──► evacuated, one instance after another
//!       ▲           │
//!       └── back ───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::{HostName, InstanceId, ServiceKind};
use kilonova_proto::conductor::v1::{HostRecord, InstanceRecord};
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_rpc::registry::Members;
use tokio::time::Instant;

use super::evacuate::Evacuate;
use crate::accept::{Acceptor, Request};
use crate::cache::Cache;
use crate::config::Evacuation;
use crate::hosts::HostId;
use crate::once::change_once;
use crate::placed::Placed;
use crate::records::Records;
use crate::requests::{Acceptance, Named};
use crate::shards::Shards;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);

/// What it works with.
pub struct Automatic {
    /// How it is set.
    pub config: Evacuation,
    /// This conductor's name.
    pub conductor: HostName,
    /// The hosts that ever registered.
    pub hosts: Cache<HostId, HostRecord>,
    /// The hosts that are registered.
    pub members: Members,
    /// What is evacuated.
    pub instances: Records<InstanceRecord>,
    /// Which instances are this conductor's.
    pub shards: Shards,
    /// What accepts an evacuation.
    pub acceptor: Arc<Acceptor>,
}

/// Since when hosts are gone, and what of it is due: pure.
#[derive(Debug, Default)]
struct Watch {
    gone: BTreeMap<String, Instant>,
    /// When the next instance may go.
    next: Option<Instant>,
}

impl Watch {
    /// The hosts whose instances are due; none while too many are gone.
    fn due(
        &mut self,
        config: &Evacuation,
        known: usize,
        gone: &BTreeSet<String>,
        now: Instant,
    ) -> Vec<String> {
        self.gone.retain(|host, _| gone.contains(host));
        for host in gone {
            self.gone.entry(host.clone()).or_insert(now);
        }
        if gone.len() * 100 > known * config.hold_above_percent as usize {
            return Vec::new();
        }
        let due = self.gone.iter().filter(|(_, since)| now.duration_since(**since) >= config.delay.get());
        due.map(|(host, _)| host.clone()).collect()
    }

    /// Whether one more may go now.
    fn may_go(&mut self, config: &Evacuation, now: Instant) -> bool {
        if self.next.is_some_and(|next| next > now) {
            return false;
        }
        self.next = Some(now + Duration::from_secs(60) / config.per_minute.max(1));
        true
    }
}

impl Automatic {
    /// Looks until it is stopped.
    pub async fn run(self) {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(LOOK).await;
            let registered = self.members.current();
            let is_compute = |id: &HostId, _: &HostRecord| id.0 == ServiceKind::Compute;
            let known = self.hosts.ids(is_compute);
            let gone = known.iter().map(|(_, host)| host).filter(|host| registered.callable(host).is_none());
            let gone: BTreeSet<String> = gone.map(ToString::to_string).collect();
            let due = watch.due(&self.config, known.len(), &gone, Instant::now());
            metrics::gauge!("conductor_hosts_gone").set(gone.len() as f64);
            if due.is_empty() {
                continue;
            }
            for id in self.left_on(&due) {
                while !watch.may_go(&self.config, Instant::now()) {
                    tokio::time::sleep(LOOK).await;
                }
                self.evacuate(id).await;
            }
        }
    }

    /// This conductor's instances on those hosts that nothing is being done with.
    fn left_on(&self, hosts: &[String]) -> Vec<InstanceId> {
        self.instances.cache.ids(|id, record| {
            let instance = record.resource();
            let there = matches!(instance.state(), State::Active | State::Stopped);
            there
                && instance.task() == Task::Unspecified
                && record.operations.is_empty()
                && hosts.contains(&instance.host)
                && self.shards.owns(id)
        })
    }

    async fn evacuate(&self, id: InstanceId) {
        let Some(entry) = self.instances.cache.get(&id) else { return };
        let (host, generation) = (entry.record.resource().host.clone(), entry.record.resource().generation);
        // The same decision of another conductor, or after a restart, is the same request.
        let request_id = format!("evacuate-{id}-{generation}");
        let project = entry.record.project_id().to_owned();
        let acceptance = Acceptance {
            conductor: self.conductor.as_str(),
            arrived: SystemTime::now(),
            request_id: &request_id,
        };
        let keys = &self.acceptor.db().keys;
        let evacuate = Evacuate { target_host: "", members: self.members.clone(), keys, acceptance };
        let named = Named { id, project: &project, etag: "" };
        let accepted = match Request::new("EvacuateInstance", &project, &request_id, &()) {
            Ok(request) => change_once(&self.acceptor, &request, &self.instances, named, &evacuate).await,
            Err(error) => Err(error),
        };
        match accepted {
            Ok(_) => {
                metrics::counter!("conductor_evacuations_total").increment(1);
                tracing::warn!(%id, host, "evacuated: its host has been gone for {}", self.config.delay);
            }
            Err(error) => tracing::info!(%id, host, %error, "not evacuated"),
        }
    }
}

#[cfg(test)]
mod tests {
    use kilonova_runtime::config::Period;

    use super::*;

    fn config() -> Evacuation {
        Evacuation { delay: Period::from_secs(60), per_minute: 30, ..Evacuation::default() }
    }

    fn set(hosts: &[&str]) -> BTreeSet<String> {
        hosts.iter().map(|host| (*host).to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_is_due_once_it_has_been_gone_for_the_delay() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(watch.due(&config(), 10, &set(&["h1"]), start).is_empty());
        assert!(watch.due(&config(), 10, &set(&["h1"]), after(59)).is_empty());
        assert_eq!(watch.due(&config(), 10, &set(&["h1"]), after(60)), ["h1"]);
        assert!(watch.due(&config(), 10, &set(&[]), after(61)).is_empty(), "it is back");
        assert!(watch.due(&config(), 10, &set(&["h1"]), after(62)).is_empty(), "and begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_while_too_many_are_gone() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        let many = set(&["h1", "h2", "h3"]);
        watch.due(&config(), 10, &many, start);
        let later = start + Duration::from_secs(90);
        assert!(watch.due(&config(), 10, &many, later).is_empty(), "three of ten");
        assert_eq!(watch.due(&config(), 10, &set(&["h1", "h2"]), later).len(), 2, "two of ten");
    }

    #[tokio::test(start_paused = true)]
    async fn instances_go_at_the_rate() {
        let (start, mut watch) = (Instant::now(), Watch::default());
        assert!(watch.may_go(&config(), start));
        assert!(!watch.may_go(&config(), start + Duration::from_millis(1900)));
        assert!(watch.may_go(&config(), start + Duration::from_secs(2)));
    }
}
