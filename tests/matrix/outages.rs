//! When members were away: because they died, or because a row does without one.

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_tests::checker::Outage;
use parking_lot::Mutex;

/// When who was away, for the checker. Clones share it.
#[derive(Clone, Default)]
pub struct Outages(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    outages: Vec<Outage>,
    /// The hosts that nobody starts again.
    for_good: Vec<String>,
    /// Since when nothing may be removed.
    kept_since: Option<SystemTime>,
    /// Whether the store was replaced.
    is_set_back: bool,
}

impl Outages {
    /// A member cannot be asked from now on.
    pub fn begin(&self, host: &str) {
        let from = SystemTime::now();
        let outage = Outage { host: host.to_owned(), from, started: None, until: None };
        self.0.lock().outages.push(outage);
    }

    /// It is never started again.
    pub fn for_good(&self, host: &str) {
        self.0.lock().for_good.push(host.to_owned());
    }

    /// It is started again.
    pub fn start(&self, host: &str) {
        let now = SystemTime::now();
        let mut all = self.0.lock();
        for outage in all.outages.iter_mut().filter(|one| one.host == *host && one.started.is_none()) {
            outage.started = Some(now);
        }
    }

    /// All that were started are ready.
    pub fn end(&self) {
        let now = SystemTime::now();
        for outage in self.0.lock().outages.iter_mut().filter(|one| one.started.is_some()) {
            outage.until.get_or_insert(now);
        }
    }

    /// From now on nothing may be removed: the store is not what it was, or a host not who it was.
    pub fn keep_all(&self) {
        self.0.lock().kept_since.get_or_insert(SystemTime::now());
    }

    /// The store is replaced.
    pub fn set_back(&self) {
        self.keep_all();
        self.0.lock().is_set_back = true;
    }

    /// Whether the store was replaced.
    pub fn is_set_back(&self) -> bool {
        self.0.lock().is_set_back
    }

    /// All there were.
    pub fn all(&self) -> Vec<Outage> {
        self.0.lock().outages.clone()
    }

    /// Since when nothing may be removed.
    pub fn kept_since(&self) -> Option<SystemTime> {
        self.0.lock().kept_since
    }

    /// Whether somebody is away who is to come back.
    pub fn go_on(&self) -> bool {
        let all = self.0.lock();
        all.outages.iter().any(|outage| outage.until.is_none() && !all.for_good.contains(&outage.host))
    }
}
