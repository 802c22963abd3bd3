//! Records that are behind what an agent has taken, because the store was put back to an earlier copy.
//!
//! An agent refuses a command that is older than the newest it took, and says which that was. Generations of a record only grow. So
//! if the store still has the record that the refused command was made of, the newer one was made of a record that the store
//! no longer has, and no command of the present record would be taken before its generation has grown as far. The generations
//! are continued after the agent's, in a transaction that compares that the record is unchanged and the shard this conductor's.
//!
//! The removal of an attempt is not sent again while what is there is of a later one, or was worked on since, of which the store does not
//! know: it may be the last good copy. Nor is a rebuild, which destroys what is there and may have been done, nor a step of a move, after
//! which another host may have run it: nothing is known of where the good copy is.

use std::time::SystemTime;

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_rpc::outcome::CallError;
use kilonova_runtime::agent::ledger::LATER_THERE;
use kilonova_runtime::reconcile::Next;

use super::Engine;
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::history;
use crate::placed::{Placed, Site};
use crate::shards::Fence;

/// A refusal of a command because a newer one was taken.
pub struct Behind {
    /// The record, or what is connected for it, that the command was about.
    pub id: String,
    /// The generation of the newest command that was taken.
    pub taken: u64,
    /// The attempt of what is there, or being made; 0 if nothing is.
    pub there: u32,
}

impl Behind {
    /// The refusal that a failed call is, if it is one.
    fn said_by(error: &CallError) -> Option<Self> {
        if matches!(error, CallError::Refused(_)) { Self::of(&error.error()?) } else { None }
    }

    /// The refusal that an agent's error is, if it is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<Self> {
        let said = |key: &str| error.metadata.get(key);
        let taken = said("generation")?.parse().ok()?;
        let is_any = said(LATER_THERE).is_some_and(|later| later == "true");
        let there = said("attempt").filter(|_| is_any).and_then(|attempt| attempt.parse().ok());
        let there = there.unwrap_or_default();
        (error.reason == Reason::StaleGeneration).then_some(Self { id: said("id")?.clone(), taken, there })
    }
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// Enters that a host has something of a later command than the removal that it was sent; `None` if it was refused for something else.
    /// The store does not know how that came to be: it stays, unless the resource is to go, or a user asked to have it removed.
    pub(super) async fn later_there(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        receipt: &Receipt,
        error: &CallError,
    ) -> Option<Stepped<P>> {
        let behind = Behind::said_by(error)?;
        let is_to_go = !entry.record.is_wanted() || entry.record.clears().contains(&receipt.host);
        let is_later = behind.there > receipt.attempt || behind.there == receipt.attempt && !is_to_go;
        if behind.id != id.to_string() || behind.there == 0 || !is_later {
            return None;
        }
        let mut record = P::clone(&entry.record);
        record.note_later(receipt, behind.there);
        tracing::warn!(%id, host = receipt.host, removed = receipt.attempt, there = behind.there,
            "what its host has is of later commands than the store knows of there: it is kept");
        Some(self.store(id, entry, record, fence).await)
    }

    /// Ends an operation of which nobody can say whether its host has done it: the host has taken later commands than the store knows of,
    /// and doing it again may destroy what came of them. `None` if it was refused for something else, or can be done again.
    pub(super) async fn in_doubt(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        site: &Site,
        error: &CallError,
    ) -> Option<Stepped<P>> {
        let behind = Behind::said_by(error).filter(|behind| behind.id == id.to_string())?;
        let mut record = P::clone(&entry.record);
        let is_once = record.is_done_once() && record.continue_after(behind.taken);
        let is_of_another = behind.there > site.attempt;
        if !is_once && !is_of_another {
            return None;
        }
        if is_of_another {
            let receipt = Receipt { host: site.host.clone(), attempt: site.attempt, ..Default::default() };
            record.note_later(&receipt, behind.there);
        }
        tracing::warn!(%id, host = site.host, taken = behind.taken, there = behind.there,
            "given up: its host has taken commands of a later record than the store has");
        let message = format!(
            "{} has taken later commands than the store knows of, and may have done it already: look at what is there before it is asked again",
            site.host
        );
        let cause = Error::new(Reason::StaleGeneration, message).with("host", &site.host);
        let now = SystemTime::now();
        record.set_in_doubt(&history::fault(&cause, &site.host, site.attempt, now), now);
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
        let behind = Behind::said_by(error)?;
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
