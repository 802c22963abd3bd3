//! How much a server takes at once, in all and from one peer. What is over is refused at once, never queued:
//! `RESOURCE_EXHAUSTED` with the time after which to try again.
//!
//! ```text
//!   calls  0 ──────────────────────── 80 % ───── 90 % ───── 100 %
//!          users, reports and control  │ reports, │ control   │ nothing
//! ```
//!
//! So a flood of user calls leaves room for the reports of agents, and both leave room for health checks. Streams
//! are counted apart, in the same way: they stay for long and cost little.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kilonova_model::{Error, Reason};
use metrics::{Gauge, gauge};
use parking_lot::Mutex;

/// Who gets the last places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// What users and other services ask for.
    Call,
    /// What agents say of themselves, and the streams that carry it.
    Report,
    /// Health checks, pings, diagnostics, reflection.
    Control,
}

impl Class {
    /// The class of a service's methods.
    pub fn of(service: &str) -> Self {
        match service {
            "kilonova.base.v1.BaseService" => Self::Control,
            "kilonova.conductor.v1.ReportService" | "kilonova.capability.v1.CapabilityService" => {
                Self::Report
            }
            grpc if grpc.starts_with("grpc.") => Self::Control,
            _ => Self::Call,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Report => "report",
            Self::Control => "control",
        }
    }

    /// How many of `most` this class may fill up, whoever took them.
    fn ceiling(self, most: usize) -> usize {
        match self {
            Self::Call => most * 8 / 10,
            Self::Report => most * 9 / 10,
            Self::Control => most,
        }
        .max(1)
    }
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call,
    Stream,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Call => "calls",
            Self::Stream => "streams",
        }
    }
}

/// How many at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Unary calls in progress.
    pub calls: usize,
    /// Unary calls in progress of one peer.
    pub calls_per_peer: usize,
    /// Open streams.
    pub streams: usize,
    /// Open streams of one peer.
    pub streams_per_peer: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { calls: 4096, calls_per_peer: 1024, streams: 65_536, streams_per_peer: 16_384 }
    }
}

impl AdmissionLimits {
    fn of(&self, kind: Kind) -> (usize, usize) {
        match kind {
            Kind::Call => (self.calls, self.calls_per_peer),
            Kind::Stream => (self.streams, self.streams_per_peer),
        }
    }
}

/// What is in progress, by kind.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicUsize,
    streams: AtomicUsize,
}

impl Counts {
    fn of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Call => &self.calls,
            Kind::Stream => &self.streams,
        }
    }
}

/// Adds one unless there are `most`.
fn take(count: &AtomicUsize, most: usize) -> bool {
    if count.fetch_add(1, Ordering::Relaxed) < most {
        return true;
    }
    count.fetch_sub(1, Ordering::Relaxed);
    false
}

/// What one peer has in progress: a machine, or on this machine a connection, as everything here shares an address.
#[derive(Debug, Default)]
pub(super) struct Peer(Counts);

/// The admission of one server.
#[derive(Debug)]
pub(super) struct Admission {
    limits: AdmissionLimits,
    all: Counts,
    peers: Mutex<HashMap<IpAddr, Weak<Peer>>>,
    in_flight: [Gauge; 3],
}

impl Admission {
    pub fn new(limits: AdmissionLimits, service: &'static str) -> Self {
        let gauge =
            |class: Class| gauge!("grpc_server_in_flight", "service" => service, "class" => class.as_str());
        let in_flight = [Class::Call, Class::Report, Class::Control].map(gauge);
        Self { limits, all: Counts::default(), peers: Mutex::default(), in_flight }
    }

    /// The counts for a new connection from this address.
    pub fn peer(&self, address: IpAddr) -> Arc<Peer> {
        if address.is_loopback() {
            return Arc::default();
        }
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(&address).and_then(Weak::upgrade) {
            return peer;
        }
        peers.retain(|_, peer| peer.strong_count() > 0);
        let peer = Arc::default();
        peers.insert(address, Arc::downgrade(&peer));
        peer
    }

    /// A place for one call, held until the permit is dropped.
    pub fn admit(self: &Arc<Self>, class: Class, kind: Kind, peer: &Arc<Peer>) -> Result<Permit, Error> {
        let (most, most_per_peer) = self.limits.of(kind);
        // Control is never held up by what else a peer does.
        let per_peer = if class == Class::Control { usize::MAX } else { most_per_peer };
        if !take(peer.0.of(kind), per_peer) {
            return Err(refused(class, kind, "peer", most_per_peer));
        }
        if !take(self.all.of(kind), class.ceiling(most)) {
            peer.0.of(kind).fetch_sub(1, Ordering::Relaxed);
            return Err(refused(class, kind, "server", class.ceiling(most)));
        }
        self.in_flight[class as usize].increment(1.0);
        Ok(Permit { admission: self.clone(), peer: peer.clone(), class, kind })
    }
}

fn refused(class: Class, kind: Kind, whose: &'static str, most: usize) -> Error {
    let labels = [("class", class.as_str()), ("kind", kind.as_str()), ("limit", whose)];
    metrics::counter!("grpc_server_refused_total", &labels).increment(1);
    let kind = kind.as_str();
    let message = match whose {
        "peer" => format!("this peer has {most} {kind} in progress, as many as one may have"),
        _ => format!("{most} {kind} are in progress, as many as may be"),
    };
    // Callers that were refused together must not come back together.
    let pause = Duration::from_millis(rand::random_range(50..250));
    Error::new(Reason::Overloaded, message).with("limit", most).with("limit_of", whose).retry_after(pause)
}

/// One place.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    peer: Arc<Peer>,
    class: Class,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.all.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        self.peer.0.of(self.kind).fetch_sub(1, Ordering::Relaxed);
        self.admission.in_flight[self.class as usize].decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        let limits = AdmissionLimits { calls: 10, calls_per_peer: 6, streams: 10, streams_per_peer: 10 };
        Arc::new(Admission::new(limits, "api"))
    }

    fn fill(admission: &Arc<Admission>, class: Class, peer: &Arc<Peer>) -> Vec<Permit> {
        std::iter::from_fn(|| admission.admit(class, Kind::Call, peer).ok()).take(100).collect()
    }

    #[test]
    fn each_class_leaves_room_for_those_above_it() {
        let admission = admission();
        let users: Vec<_> = (0..2).map(|_| fill(&admission, Class::Call, &Arc::default())).collect();
        assert_eq!(users.iter().map(Vec::len).collect::<Vec<_>>(), [6, 2], "one peer's share, then 80 %");
        let reports = fill(&admission, Class::Report, &Arc::default());
        assert_eq!(reports.len(), 1);
        let control = fill(&admission, Class::Control, &Arc::default());
        assert_eq!(control.len(), 1);
        let refusal = admission.admit(Class::Control, Kind::Call, &Arc::default()).unwrap_err();
        assert_eq!(refusal.reason, Reason::Overloaded);
        assert!(refusal.retry_after.is_some());
        assert!(admission.admit(Class::Call, Kind::Stream, &Arc::default()).is_ok(), "streams are apart");
        drop(users);
        assert_eq!(fill(&admission, Class::Call, &Arc::default()).len(), 6, "places come back");
    }

    #[test]
    fn a_peer_at_its_limit_is_still_heard_about_its_health() {
        let admission = admission();
        let noisy = Arc::default();
        let _calls = fill(&admission, Class::Call, &noisy);
        let refusal = admission.admit(Class::Call, Kind::Call, &noisy).unwrap_err();
        assert_eq!(refusal.metadata["limit_of"], "peer");
        assert!(admission.admit(Class::Control, Kind::Call, &noisy).is_ok());
        assert!(admission.admit(Class::Call, Kind::Call, &Arc::default()).is_ok());
    }

    #[test]
    fn a_machine_is_one_peer_and_a_local_connection_another() {
        let admission = admission();
        let far: IpAddr = "10.0.0.7".parse().unwrap();
        let (one, two) = (admission.peer(far), admission.peer(far));
        assert!(Arc::ptr_eq(&one, &two));
        drop((one, two));
        let _other = admission.peer("10.0.0.8".parse().unwrap());
        assert_eq!(admission.peers.lock().len(), 1, "those without connections are forgotten");
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        assert!(!Arc::ptr_eq(&admission.peer(near), &admission.peer(near)));
    }
}
