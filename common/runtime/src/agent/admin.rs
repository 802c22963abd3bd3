//! The administrator's word about a host: whether it takes new work, and where it belongs.

use std::sync::Arc;

use kilonova_model::{Error, HostName, Reason, ZoneName};
use kilonova_proto::types::v1::{Capabilities, HostPlacement};
use tokio::sync::watch;

/// What the administrator said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdminState {
    /// Whether the host takes new work.
    pub enabled: bool,
    /// Why not.
    pub disabled_reason: String,
    /// The revision at which that was said; 0 when it has none.
    pub revision: u64,
    /// Where it belongs.
    pub placement: HostPlacement,
}

impl AdminState {
    /// Whether it takes new work, unless a newer word is held. A word without revision is of an earlier version, and holds.
    fn say(&mut self, enabled: bool, disabled_reason: String, revision: u64) {
        if revision == 0 || revision >= self.revision {
            (self.enabled, self.disabled_reason) = (enabled, disabled_reason);
            self.revision = self.revision.max(revision);
        }
    }

    /// Where it belongs: each half unless a newer one is held.
    fn place(&mut self, word: HostPlacement) {
        let held = &mut self.placement;
        if word.revision >= held.revision {
            held.revision = word.revision;
            held.availability_zone = word.availability_zone;
            held.traits = word.traits;
        }
        if word.aggregates_revision >= held.aggregates_revision {
            held.aggregates_revision = word.aggregates_revision;
            held.aggregates = word.aggregates;
        }
    }

    /// The word, and while the host is not in line with the records, that it takes no new work.
    #[must_use]
    pub fn withheld_unless(self, reconciled: bool) -> Self {
        if reconciled || !self.enabled {
            return self;
        }
        let disabled_reason = "being compared with the records".to_owned();
        Self { enabled: false, disabled_reason, ..self }
    }

    /// Enters the word into what a host publishes, of whom `zone` is its own and `traits` are its driver's.
    pub fn enter(self, capabilities: &mut Capabilities, zone: &ZoneName, traits: &[String]) {
        let Self { enabled, disabled_reason, placement, .. } = self;
        let added = placement.traits.into_iter().filter(|name| !traits.contains(name));
        capabilities.enabled = enabled;
        capabilities.disabled_reason = disabled_reason;
        capabilities.traits = traits.iter().cloned().chain(added).collect();
        capabilities.aggregates = placement.aggregates;
        capabilities.availability_zone = match placement.availability_zone {
            assigned if assigned.is_empty() => zone.to_string(),
            assigned => assigned,
        };
    }
}

/// The word that holds, and who gave it last. Until a conductor gave one the host takes no new work: it may have
/// been disabled while it was away. Clones share it.
#[derive(Debug, Clone)]
pub struct Admin {
    state: Arc<watch::Sender<(AdminState, u64)>>,
}

/// The words given so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version(u64);

impl Default for Admin {
    fn default() -> Self {
        let unheard = AdminState {
            disabled_reason: "not yet registered with a conductor".into(),
            ..AdminState::default()
        };
        Self { state: Arc::new(watch::Sender::new((unheard, 0))) }
    }
}

impl Admin {
    /// The word that holds.
    pub fn current(&self) -> AdminState {
        self.state.borrow().0.clone()
    }

    /// Where one stands who asks a conductor for the word.
    pub fn version(&self) -> Version {
        Version(self.state.borrow().1)
    }

    /// A command: holds unless a newer word is held.
    pub fn set_enabled(&self, enabled: bool, disabled_reason: String, revision: u64) {
        self.command(|current| current.say(enabled, disabled_reason, revision));
    }

    /// A command: each half holds unless a newer one is held.
    pub fn set_placement(&self, word: HostPlacement) {
        self.command(|current| current.place(word));
    }

    fn command(&self, change: impl FnOnce(&mut AdminState)) {
        self.state.send_modify(|(current, version)| {
            change(current);
            *version += 1;
        });
    }

    /// The answer to a question asked at `asked`: holds as it is, whatever its revisions, for the store that it comes from may be
    /// another. If a command came meanwhile, only what is newer of it does.
    pub fn answered(&self, word: AdminState, asked: Version) {
        self.state.send_if_modified(|(current, version)| {
            let mut new = current.clone();
            if *version == asked.0 {
                new = word;
            } else if word.revision > 0 {
                new.say(word.enabled, word.disabled_reason, word.revision);
                new.place(word.placement);
            }
            let news = *current != new;
            if news {
                (*current, *version) = (new, *version + 1);
            }
            news
        });
    }

    /// Follows the word.
    pub fn subscribe(&self) -> watch::Receiver<(AdminState, u64)> {
        self.state.subscribe()
    }

    /// Refuses new work if the host takes none.
    pub fn admit(&self, host: &HostName) -> Result<(), Error> {
        let state = self.state.borrow();
        if state.0.enabled {
            return Ok(());
        }
        let why = &state.0.disabled_reason;
        Err(Error::new(Reason::HostDisabled, format!("{host} takes no new work: {why}"))
            .with("host", host)
            .with("disabled_reason", why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::HostAggregate;

    fn word(enabled: bool) -> AdminState {
        AdminState { enabled, ..AdminState::default() }
    }

    #[test]
    fn a_command_is_newer_than_an_answer_asked_for_before_it() {
        let host = HostName::parse("node1").unwrap();
        let admin = Admin::default();
        assert_eq!(admin.admit(&host).unwrap_err().reason, Reason::HostDisabled);
        let asked = admin.version();
        admin.set_enabled(false, String::new(), 0);
        admin.answered(word(true), asked);
        assert!(!admin.current().enabled);
        admin.answered(word(true), admin.version());
        assert!(admin.admit(&host).is_ok());
    }

    #[test]
    fn an_older_word_is_passed_over_in_whichever_order_they_come() {
        let host = HostName::parse("node1").unwrap();
        let admin = Admin::default();
        let enabled = |revision| AdminState { enabled: true, revision, ..AdminState::default() };
        let asked = admin.version();
        admin.answered(enabled(5), asked);
        admin.set_enabled(false, "maintenance".into(), 9);
        admin.set_enabled(true, String::new(), 7);
        assert_eq!(admin.admit(&host).unwrap_err().metadata["disabled_reason"], "maintenance");
        admin.answered(enabled(8), asked);
        assert!(admin.admit(&host).is_err(), "an answer that crossed the command and is older");
        admin.answered(enabled(10), asked);
        assert!(admin.admit(&host).is_ok(), "one that crossed it and is newer");
        admin.set_enabled(false, String::new(), 10);
        assert!(admin.admit(&host).is_err(), "the same revision says the same");
    }

    #[test]
    fn an_older_half_of_a_placement_is_passed_over() {
        let said = |zone: &str, revision, aggregate: &str, aggregates_revision| HostPlacement {
            availability_zone: zone.into(),
            revision,
            aggregates: vec![HostAggregate { id: aggregate.into(), ..HostAggregate::default() }],
            aggregates_revision,
            ..HostPlacement::default()
        };
        let admin = Admin::default();
        admin.set_placement(said("a", 5, "ssd", 7));
        admin.set_placement(said("b", 6, "hdd", 6));
        assert_eq!(admin.current().placement, said("b", 6, "ssd", 7));
        admin.answered(AdminState { placement: said("c", 1, "hdd", 1), ..word(true) }, admin.version());
        assert_eq!(
            admin.current().placement,
            said("c", 1, "hdd", 1),
            "an answer is not older, unless the store went back"
        );
    }
}
