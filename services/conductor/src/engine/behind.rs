//! Records that are behind what an agent has taken, because the store was put back to an earlier copy.
//!
//! An agent refuses a command that is older than the newest it took, and says which that was. Generations of a record only grow. So
//! if the store still has the record that the refused command was made of, the newer one was made of a record that the store
//! no longer has, and no command of the present record would be taken before its generation has grown as far. The generations
//! are continued after the agent's, in a transaction that compares that the record is unchanged and the shard this conductor's.
//!
//! The removal of an attempt is not sent again while what is there is of a later one, which the store does not know, and which may be the
//! last good copy.

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_rpc::outcome::CallError;
use kilonova_runtime::agent::ledger::LATER_THERE;
use kilonova_runtime::reconcile::Next;

use super::Engine;
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::placed::Placed;
use crate::shards::Fence;

/// A refusal of a command because a newer one was taken.
pub struct Behind {
    /// The record, or what is connected for it, that the command was about.
    pub id: String,
    /// The generation of the newest command that was taken.
    pub taken: u64,
    /// Its attempt, if that of what is there is later than the one to remove; else 0.
    pub later: u32,
}

impl Behind {
    /// The refusal that an agent's error is, if it is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let said = |key: &str| error.metadata.get(key);
        let taken = said("generation")?.parse().ok()?;
        let is_later = said(LATER_THERE).is_some_and(|later| later == "true");
        let later = said("attempt").filter(|_| is_later).and_then(|attempt| attempt.parse().ok());
        let later = later.unwrap_or_default();
        (error.reason == Reason::StaleGeneration).then_some(Self { id: said("id")?.clone(), taken, later })
    }
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// Enters that a host has something of a later attempt than the one it was to remove; `None` if it was refused for something else. The
    /// store does not know how that came to be: it stays, unless the resource is to go.
    pub(super) async fn later_there(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        receipt: &Receipt,
        error: &CallError,
    ) -> Option<Stepped<P>> {
        let CallError::Refused(_) = error else { return None };
        let behind = Behind::of(&error.error()?)?;
        if behind.id != id.to_string() || behind.later <= receipt.attempt {
            return None;
        }
        let mut record = P::clone(&entry.record);
        record.note_later(receipt, behind.later);
        tracing::warn!(%id, host = receipt.host, removed = receipt.attempt, there = behind.later,
            "what its host has is of a later attempt than the store knows of there");
        Some(self.store(id, entry, record, fence).await)
    }

    /// Continues the generations of what a command was refused for; `None` if it was refused for something else.
    pub(super) async fn continued(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        error: &CallError,
    ) -> Option<Stepped<P>> {
        let CallError::Refused(_) = error else { return None };
        let behind = Behind::of(&error.error()?)?;
        if behind.id != id.to_string() {
            return match self.agents.continue_after(&behind, fence).await {
                Ok(false) => None,
                Ok(true) => Some(Stepped::On(entry.clone())),
                Err(error) => Some(self.store_failed(id, &error)),
            };
        }
        let mut record = P::clone(&entry.record);
        if !record.continue_after(behind.taken) {
            return Some(Stepped::Stop(Next::Retry));
        }
        tracing::warn!(%id, taken = behind.taken, "its host has taken commands of a later record than the store has");
        Some(self.store(id, entry, record, fence).await)
    }
}
