//! Whether a host can be asked, and what it was asked.

use std::time::Duration;

use kilonova_model::{Epoch, HostName};
use tokio::time::Instant;

use super::Engine;
use super::clock::Since;
use crate::agents::Agents;
use crate::placed::{Phase, Placed, Status, Wanted};
use crate::plan::Sent;
use crate::reach::Standing;

/// How long a host that cannot be reached is tried before the build goes elsewhere.
pub(super) const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);
/// How long until a record is looked at again whose host has as many commands under way as may be.
pub(super) const HOST_BUSY: Duration = Duration::from_millis(20);

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) fn epoch_of(&self, host: &str) -> Option<Epoch> {
        self.reach.epoch_of(host)
    }

    /// For how long a host has not been registered: since this conductor drives, if it never was.
    pub(super) fn gone_for(&self, host: &str) -> Duration {
        let Ok(host) = HostName::parse(host) else { return Duration::MAX };
        self.gone.lock().get(&host).map_or_else(|| self.since.lock().elapsed(), Instant::elapsed)
    }

    /// Whether an operator said of a host that is not registered that it is off.
    pub(super) fn is_fenced(&self, host: &str) -> bool {
        self.reach.standing(host) == Standing::Fenced
    }

    /// Whether a host has been gone for long enough, or is fenced.
    pub(super) fn is_gone(&self, host: &str) -> bool {
        let long = self.gone_for(host) >= self.config.gone_after.get() && self.settling().is_zero();
        self.epoch_of(host).is_none() && (long || self.is_fenced(host))
    }

    /// The hosts whose members hold nobody back from leaving them: those that are gone, and the one that the record is evacuated from.
    pub(super) fn holds_nobody<'a>(&'a self, record: &'a P) -> impl Fn(&str) -> bool + Send + Sync + 'a {
        |host| record.is_rescued_from(host) || self.is_gone(host)
    }

    /// When what is under way is late.
    pub(super) fn deadlines(&self, id: P::Id, record: &P) -> Deadlines {
        let since = self.clock.see(id, record, Instant::now());
        let config = &self.config;
        let timeout = match record.status().wanted {
            Wanted::Absent => config.delete_timeout,
            Wanted::Present => config.build_timeout,
        };
        let (task, operation) =
            (since.task + timeout.get(), since.operation + config.operation_timeout.get());
        Deadlines { since, task, operation }
    }

    /// Whether what is being done with it should have ended.
    pub(super) fn is_late(&self, id: P::Id, record: &P) -> bool {
        let Status { wanted, phase, .. } = record.status();
        let Deadlines { task, operation, .. } = self.deadlines(id, record);
        let now = Instant::now();
        match (wanted, phase) {
            (_, Phase::Gone) => false,
            (Wanted::Absent, _) | (_, Phase::Building) => task <= now,
            _ => record.operation().is_some() && operation <= now,
        }
    }

    /// For how long yet a host that is not registered is not taken for one that has left.
    pub(super) fn settling(&self) -> Duration {
        self.config.registration_grace.get().saturating_sub(self.since.lock().elapsed())
    }

    /// For how long the host of this attempt could not be reached, from the first time that was found on.
    pub(super) fn unreachable_for(&self, id: P::Id, attempt: u32) -> Duration {
        self.unreachable.lock().entry((id, attempt)).or_insert_with(Instant::now).elapsed()
    }

    /// Whether the host of an attempt could not be connected to for long enough to be left.
    pub(super) fn is_unreachable(&self, id: P::Id, attempt: u32) -> bool {
        let unreachable = self.unreachable.lock();
        unreachable.get(&(id, attempt)).is_some_and(|since| since.elapsed() >= UNREACHABLE_AFTER)
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

/// When what is under way with a record is late, by this conductor's own clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// Since when it is seen.
    pub since: Since,
    /// The present task.
    pub task: Instant,
    /// The first operation.
    pub operation: Instant,
}

/// Whether a deadline has been over for so long.
pub(super) fn is_past(deadline: Instant, by: Duration) -> bool {
    deadline + by <= Instant::now()
}
