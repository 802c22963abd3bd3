//! The current capabilities of one host, for anyone who watches.
//!
//! There is one current value, never a queue: a reader that was away for ten changes sees the tenth. The generation
//! grows by one with every change, so that a reader can order what it gets without clocks, and a resume token is
//! nothing but the epoch and generation the reader has.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kilonova_model::{Error, Reason};
use kilonova_proto::types::v1::Capabilities;
use tokio::sync::watch;

/// The capabilities one host publishes. Clones share them.
#[derive(Clone, Debug)]
pub struct CapabilityPublisher {
    current: Arc<watch::Sender<Arc<Capabilities>>>,
}

impl CapabilityPublisher {
    /// Starts with these, as generation 1.
    pub fn new(first: Capabilities) -> Self {
        let first = Capabilities { generation: 1, ..first };
        Self { current: Arc::new(watch::Sender::new(Arc::new(first))) }
    }

    /// Changes them. `change` reads the figures while no other change can come between, so that what is published
    /// last is also newest. Readers are told only if anything differs.
    pub fn publish(&self, change: impl FnOnce(&mut Capabilities)) {
        self.current.send_if_modified(|current| {
            let mut next = Capabilities::clone(current);
            change(&mut next);
            next.generation = current.generation;
            if next == **current {
                return false;
            }
            next.generation += 1;
            *current = Arc::new(next);
            true
        });
    }

    /// What is published now.
    pub fn current(&self) -> Arc<Capabilities> {
        self.current.borrow().clone()
    }

    /// What is published, and every change of it.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Capabilities>> {
        self.current.subscribe()
    }
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    epoch: u64,
    generation: u64,
}

impl Position {
    pub fn of(capabilities: &Capabilities) -> Self {
        Self { epoch: capabilities.epoch, generation: capabilities.generation }
    }

    /// The opaque text of it.
    pub fn token(self) -> String {
        URL_SAFE_NO_PAD.encode([self.epoch.to_be_bytes(), self.generation.to_be_bytes()].concat())
    }

    fn parse(token: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (epoch, generation) = bytes.split_at_checked(8)?;
        Some(Self {
            epoch: u64::from_be_bytes(epoch.try_into().ok()?),
            generation: u64::from_be_bytes(generation.try_into().ok()?),
        })
    }

    /// Whether a reader with this token has already what is published here. Refused if that cannot be told: the
    /// token is another incarnation's, or nobody's.
    pub fn is_held_by(self, token: &str) -> Result<bool, Error> {
        match Self::parse(token) {
            Some(held) if held.epoch == self.epoch && held.generation <= self.generation => Ok(held == self),
            _ => {
                let message = "the resume token is not one of this incarnation; subscribe again without one";
                Err(Error::new(Reason::ResumeTokenExpired, message).with("epoch", self.epoch))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_grows_with_changes_only() {
        let publisher = CapabilityPublisher::new(Capabilities::default());
        let mut reader = publisher.subscribe();
        publisher.publish(|_| {});
        assert!(!reader.has_changed().unwrap());
        publisher.publish(|capabilities| capabilities.enabled = true);
        publisher.publish(|capabilities| capabilities.traits.push("X".into()));
        let seen = reader.borrow_and_update().clone();
        assert_eq!((seen.generation, seen.enabled, seen.traits.len()), (3, true, 1));
        assert!(!reader.has_changed().unwrap());
    }

    #[test]
    fn a_token_is_good_for_its_own_incarnation() {
        let at = |epoch, generation| Position { epoch, generation };
        let now = at(5, 9);
        assert_eq!(now.is_held_by(&now.token()), Ok(true));
        assert_eq!(now.is_held_by(&at(5, 8).token()), Ok(false));
        for other in [at(4, 9).token(), at(6, 1).token(), at(5, 10).token(), "x".into(), "ü".into()] {
            assert_eq!(now.is_held_by(&other).unwrap_err().reason, Reason::ResumeTokenExpired, "{other}");
        }
    }
}
