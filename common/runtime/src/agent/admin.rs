//! The administrator's word about a host: whether it takes new work.

use std::sync::Arc;

use kilonova_model::{Error, HostName, Reason};
use tokio::sync::watch;

/// What the administrator said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminState {
    /// Whether the host takes new work.
    pub enabled: bool,
    /// Why not.
    pub disabled_reason: String,
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
        let unheard =
            AdminState { enabled: false, disabled_reason: "not yet registered with a conductor".into() };
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

    /// A command: holds whatever was said before.
    pub fn set(&self, word: AdminState) {
        self.state.send_modify(|(current, version)| (*current, *version) = (word, *version + 1));
    }

    /// The answer to a question asked at `asked`: holds unless a command came meanwhile, which is newer.
    pub fn answered(&self, word: AdminState, asked: Version) {
        self.state.send_if_modified(|(current, version)| {
            let news = *version == asked.0 && *current != word;
            if news {
                (*current, *version) = (word, *version + 1);
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

    fn word(enabled: bool) -> AdminState {
        AdminState { enabled, disabled_reason: String::new() }
    }

    #[test]
    fn a_command_is_newer_than_an_answer_asked_for_before_it() {
        let host = HostName::parse("node1").unwrap();
        let admin = Admin::default();
        assert_eq!(admin.admit(&host).unwrap_err().reason, Reason::HostDisabled);
        let asked = admin.version();
        admin.set(word(false));
        admin.answered(word(true), asked);
        assert!(!admin.current().enabled);
        admin.answered(word(true), admin.version());
        assert!(admin.admit(&host).is_ok());
    }
}
