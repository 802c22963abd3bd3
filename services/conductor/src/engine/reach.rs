//! Whether a host can be asked, and what it was asked.

use std::time::{Duration, SystemTime};

use kilonova_model::{Epoch, HostName};
use tokio::time::Instant;

use super::Engine;
use crate::agents::Agents;
use crate::placed::Placed;
use crate::plan::Sent;

/// How long a host that cannot be reached is tried before the build goes elsewhere.
pub(super) const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// How long until a record is looked at again whose host has as many commands under way as may be.
pub(super) const HOST_BUSY: Duration = Duration::from_millis(20);

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// The incarnation of a registered host. One that is held has not left: that most vanished at once says
    /// more of the registry than of them.
    pub(super) fn epoch_of(&self, host: &str) -> Option<Epoch> {
        let host = HostName::parse(host).ok()?;
        self.members.current().callable(&host).map(|member| member.epoch)
    }

    /// For how long yet a host that is not registered is not taken for one that has left.
    pub(super) fn settling(&self) -> Duration {
        self.config.registration_grace.get().saturating_sub(self.since.elapsed())
    }

    /// For how long the host of this attempt could not be reached, from the first time that was found on.
    pub(super) fn unreachable_for(&self, id: P::Id, attempt: u32) -> Duration {
        let mut unreachable = self.unreachable.lock();
        let since = unreachable.entry(id).or_insert((attempt, Instant::now()));
        if since.0 != attempt {
            *since = (attempt, Instant::now());
        }
        since.1.elapsed()
    }

    /// Remembers what a host was sent.
    pub(super) fn note_sent(&self, id: P::Id, new: Sent) {
        let mut sent = self.sent.lock();
        let list = sent.entry(id).or_default();
        list.retain(|old| {
            (old.verb, &old.host, old.attempt) != (new.verb, &new.host, new.attempt)
                && old.generation == new.generation
        });
        list.push(new);
    }
}

/// Whether a deadline has been over for so long.
pub(super) fn is_past(deadline: Option<SystemTime>, by: Duration) -> bool {
    deadline.is_some_and(|deadline| deadline + by <= SystemTime::now())
}
