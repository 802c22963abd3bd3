//! Whether a service is ready, and what it is waiting for.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tokio::sync::watch;

/// Named conditions, all of which must hold. Clones share them.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: watch::Sender<Conditions>,
}

/// The conditions at one moment: `None` where one holds, else the reason it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Conditions {
    all: BTreeMap<String, Option<String>>,
    /// Those without which calls are served all the same.
    #[serde(skip)]
    warnings: BTreeSet<String>,
}

/// The name of the condition that the store is the one that is known, or was accepted.
pub const STORE: &str = "store";

impl Conditions {
    /// Whether all hold.
    pub fn ready(&self) -> bool {
        self.all.values().all(Option::is_none)
    }

    /// Whether calls are served: all hold that are no mere warnings.
    pub fn serves(&self) -> bool {
        self.missing().all(|(name, _)| self.warnings.contains(name))
    }

    /// Returns whether that is a change.
    fn put(&mut self, name: &str, reason: Option<String>) -> bool {
        let changes = self.all.get(name) != Some(&reason);
        if changes {
            self.all.insert(name.to_owned(), reason);
        }
        changes
    }

    /// Every condition with the reason it does not hold, if it does not.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.all.iter().map(|(name, reason)| (name.as_str(), reason.as_deref()))
    }

    /// Those that do not hold, with their reasons.
    pub fn missing(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|(name, reason)| Some((name, reason?)))
    }

    /// The reason that the store is not the one that is known; none if it is.
    pub fn foreign_store(&self) -> Option<&str> {
        self.missing().find(|(name, _)| *name == STORE).map(|(_, reason)| reason)
    }

    /// All reasons in one line; empty when ready.
    pub fn summary(&self) -> String {
        let reasons: Vec<_> = self.missing().map(|(name, reason)| format!("{name}: {reason}")).collect();
        reasons.join("; ")
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// No conditions: ready.
    pub fn new() -> Self {
        Self { state: watch::Sender::new(Conditions::default()) }
    }

    /// The condition holds.
    pub fn ok(&self, name: &str) {
        self.set(name, None);
    }

    /// The condition does not hold, for this reason.
    pub fn not(&self, name: &str, reason: impl Into<String>) {
        self.set(name, Some(reason.into()));
    }

    /// The condition does not hold, for this reason: operators should look, but callers are better off with this service than
    /// without it.
    pub fn warn(&self, name: &str, reason: impl Into<String>) {
        let reason = Some(reason.into());
        self.state.send_if_modified(|conditions| {
            let is_new = conditions.warnings.insert(name.to_owned());
            conditions.put(name, reason) || is_new
        });
    }

    /// The condition is no longer asked for.
    pub fn remove(&self, name: &str) {
        self.state.send_if_modified(|conditions| conditions.all.remove(name).is_some());
    }

    /// The conditions now.
    pub fn current(&self) -> Conditions {
        self.state.borrow().clone()
    }

    /// Whether all hold now.
    pub fn is_ready(&self) -> bool {
        self.state.borrow().ready()
    }

    /// The conditions and every change of them.
    pub fn subscribe(&self) -> watch::Receiver<Conditions> {
        self.state.subscribe()
    }

    /// Waits until all hold.
    pub async fn wait_ready(&self) {
        let mut changes = self.subscribe();
        // The sender is `self`, which outlives the wait.
        let _ = changes.wait_for(Conditions::ready).await;
    }

    fn set(&self, name: &str, reason: Option<String>) {
        self.state.send_if_modified(|conditions| {
            let was_warning = conditions.warnings.remove(name);
            conditions.put(name, reason) || was_warning
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_every_condition_holds() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        readiness.not("store", "not reached");
        readiness.not("peers", "no scheduler");
        assert_eq!(readiness.current().summary(), "peers: no scheduler; store: not reached");
        readiness.ok("store");
        readiness.remove("peers");
        readiness.wait_ready().await;
        assert_eq!(readiness.current().summary(), "");
    }

    #[test]
    fn a_warning_shows_and_calls_are_served() {
        let readiness = Readiness::new();
        readiness.warn("shard owners", "3 of 256 have none");
        let conditions = readiness.current();
        assert!(!conditions.ready() && conditions.serves());
        assert_eq!(conditions.summary(), "shard owners: 3 of 256 have none");
        readiness.not("store", "not reached");
        assert!(!readiness.current().serves());
        readiness.ok("store");
        readiness.not("shard owners", "now it matters");
        assert!(!readiness.current().serves());
    }

    #[tokio::test]
    async fn tells_changes_only() {
        let readiness = Readiness::new();
        readiness.not("store", "a");
        let mut changes = readiness.subscribe();
        changes.mark_unchanged();
        readiness.not("store", "a");
        assert!(!changes.has_changed().unwrap());
        readiness.not("store", "b");
        assert!(changes.has_changed().unwrap());
    }
}
