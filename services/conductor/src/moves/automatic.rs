//! Evacuation without being asked, if the configuration wants it: instances of hosts that have been gone for a while.
//!
//! That a host is not registered does not prove that it is off: this is for cells where something else makes sure of that. So it is
//! off by default, waits, goes slowly, and stops altogether while so many hosts are gone that the network is the likelier cause.
//!
//! ```text
//!   registered ──► gone ── delay ──► due ── within the rate, and not too many gone ──► evacuated, one instance after another
//!       ▲           │                 ▲                                                  │
//!       └── back ───┘                 └── found no place: after a pause that doubles ◄───┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::{HostName, InstanceId, ServiceKind};
use kilonova_proto::conductor::v1::{HostRecord, InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1::instance::{State, Task};
use tokio::time::Instant;

use super::evacuate::Evacuate;
use crate::accept::{Acceptor, Request};
use crate::config::Evacuation;
use crate::hosts::HostId;
use crate::once::change_once;
use crate::placed::Placed;
use crate::reach::{Reach, Standing};
use crate::records::Records;
use crate::requests::{Acceptance, Named};
use crate::shards::Shards;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long an instance that was tried is left alone the first time; twice as long each time after.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What it works with.
pub struct Automatic {
    /// How it is set.
    pub config: Evacuation,
    /// This conductor's name.
    pub conductor: HostName,
    /// The hosts that ever registered, and those that are registered.
    pub reach: Reach,
    /// What is evacuated.
    pub instances: Records<InstanceRecord>,
    /// The volumes they have.
    pub volumes: Records<VolumeRecord>,
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
    /// The instances that were tried: when each may be tried again, and after how long the time after that.
    tried: BTreeMap<InstanceId, (Instant, Duration)>,
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

    /// The first that may be tried now, which begins its next pause; none while the rate does not allow one.
    fn take(&mut self, config: &Evacuation, left: &BTreeSet<InstanceId>, now: Instant) -> Option<InstanceId> {
        self.tried.retain(|id, (due, _)| left.contains(id) || *due > now);
        if self.next.is_some_and(|next| next > now) {
            return None;
        }
        let may_go = |id: &&InstanceId| self.tried.get(id).is_none_or(|(due, _)| *due <= now);
        let id = *left.iter().find(may_go)?;
        let pause = self.tried.get(&id).map_or(FIRST_PAUSE, |(_, pause)| *pause);
        self.tried.insert(id, (now + pause, (pause * 2).min(LONGEST_PAUSE)));
        self.next = Some(now + Duration::from_secs(60) / config.per_minute.max(1));
        Some(id)
    }
}

impl Automatic {
    /// Looks until it is stopped.
    pub async fn run(self) {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(LOOK).await;
            // Each is judged by how things stand at its own turn.
            while let Some(id) = self.next(&mut watch) {
                self.evacuate(id).await;
            }
        }
    }

    /// The instance that is to go now, if any.
    fn next(&self, watch: &mut Watch) -> Option<InstanceId> {
        let is_compute = |id: &HostId, _: &HostRecord| id.0 == ServiceKind::Compute;
        let known = self.reach.hosts.ids(is_compute);
        let names = known.iter().map(|(_, host)| host.to_string());
        let gone: BTreeSet<String> =
            names.filter(|host| self.reach.standing(host) != Standing::Registered).collect();
        metrics::gauge!("conductor_hosts_gone").set(gone.len() as f64);
        let now = Instant::now();
        let due = watch.due(&self.config, known.len(), &gone, now);
        let left = if due.is_empty() { BTreeSet::new() } else { self.left_on(&due) };
        watch.take(&self.config, &left, now)
    }

    /// This conductor's instances on those hosts that nothing is being done with.
    fn left_on(&self, hosts: &[String]) -> BTreeSet<InstanceId> {
        let left = self.instances.cache.ids(|id, record| {
            let instance = record.resource();
            let there = matches!(instance.state(), State::Active | State::Stopped);
            there
                && instance.task() == Task::Unspecified
                && record.operations.is_empty()
                && hosts.contains(&instance.host)
                && self.shards.owns(id)
        });
        left.into_iter().collect()
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
        let (reach, volumes) = (&self.reach, &self.volumes);
        let evacuate = Evacuate { target_host: "", vouched_hosts: &[], reach, volumes, acceptance };
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

    fn ids(count: usize) -> BTreeSet<InstanceId> {
        (0..count).map(|_| InstanceId::generate()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn instances_go_at_the_rate() {
        let (start, mut watch, left) = (Instant::now(), Watch::default(), ids(3));
        let first = watch.take(&config(), &left, start).unwrap();
        assert_eq!(watch.take(&config(), &left, start + Duration::from_millis(1900)), None);
        let second = watch.take(&config(), &left, start + Duration::from_secs(2)).unwrap();
        assert_ne!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_finds_no_place_is_tried_less_and_less_often_and_does_not_hold_up_others() {
        let (start, mut watch, mut left) = (Instant::now(), Watch::default(), ids(1));
        let mut times = Vec::new();
        for second in 0..900 {
            if watch.take(&config(), &left, start + Duration::from_secs(second)).is_some() {
                times.push(second);
            }
        }
        assert_eq!(times, [0, 60, 180, 420]);
        let new = InstanceId::generate();
        left.insert(new);
        assert_eq!(watch.take(&config(), &left, start + Duration::from_secs(899)), Some(new));
        watch.take(&config(), &BTreeSet::new(), start + Duration::from_secs(10_000));
        assert!(watch.tried.is_empty(), "what left is forgotten");
    }
}
