//! The end of a record: what hosts may hold of it is removed, then it is gone, then its record is too.

use std::time::{Duration, SystemTime};

use kilonova_model::{Epoch, Error, Reason};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::CallError;
use kilonova_runtime::reconcile::Next;
use kilonova_store::{Compare, Txn, TxnOutcome};
use tokio::time::Instant;

use super::Engine;
use super::reach::{HOST_BUSY, is_past};
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::history;
use crate::placed::Placed;
use crate::plan::{Sent, Verb};
use crate::shards::Fence;

/// How long until a host that did not take a removal is asked again.
const TERMINATE_AGAIN: Duration = Duration::from_secs(1);

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// Has a host remove what it may hold.
    pub(super) async fn terminate(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        receipt: Receipt,
    ) -> Stepped<P> {
        let Some(epoch) = self.epoch_of(&receipt.host) else {
            return Stepped::Stop(Next::After(self.config.resend_interval.get()));
        };
        let Some(_slot) = self.slots.take(&receipt.host) else {
            return Stepped::Stop(Next::After(HOST_BUSY));
        };
        if let Some(stepped) = self.kept_for(id, entry, fence, &receipt, epoch).await {
            return stepped;
        }
        let mut told = P::clone(&entry.record);
        if told.note_told(&receipt.host) {
            return self.store(id, entry, told, fence).await;
        }
        let mut at = Instant::now();
        let taken = self.agents.terminate(id, entry, &receipt, epoch).await;
        if taken.is_ok() {
            self.unreachable.lock().remove(&(id, receipt.attempt));
        }
        if let Err(error) = taken {
            tracing::info!(%id, host = receipt.host, %error, "cannot terminate yet");
            if let Some(stepped) = self.later_there(id, entry, fence, &receipt, &error).await {
                return stepped;
            }
            if let Some(stepped) = self.continued(id, entry, fence, &error).await {
                return stepped;
            }
            if matches!(error, CallError::NotExecuted(_)) {
                self.unreachable_for(id, receipt.attempt);
            }
            // Noted all the same, as sent so long ago that it is soon sent again: one host that does not take
            // it must not keep the others from being asked.
            let resend = self.config.resend_interval.get();
            at = at.checked_sub(resend.saturating_sub(TERMINATE_AGAIN)).unwrap_or(at);
        }
        let generation = entry.record.status().generation;
        let (host, attempt) = (receipt.host, receipt.attempt);
        self.note_sent(id, Sent { verb: Verb::Terminate, host, epoch, generation, attempt, at });
        Stepped::On(entry.clone())
    }

    /// Keeps a host's copy while the host which is to have the instance does not say that it does; `None` if it may go. A
    /// registered host may have lost its disks, and a store that was put back may name the wrong one.
    async fn kept_for(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Option<Stepped<P>> {
        let keeper = entry.record.keeper(receipt)?;
        let has = match self.epoch_of(&keeper) {
            Some(epoch) => self.agents.has(id, entry, &keeper, epoch).await,
            None => Ok(None),
        };
        match has {
            Ok(Some(true)) => return None,
            Ok(Some(false)) => {
                tracing::warn!(%id, host = receipt.host, keeper, "kept: the host that is to have it does not have it");
                if entry.record.clears().contains(&receipt.host) {
                    let message =
                        format!("{keeper} does not have it, and {} may have the last copy", receipt.host);
                    let error = Error::new(Reason::InstanceNotFound, message).with("host", keeper);
                    return Some(self.operation_failed(id, entry, fence, &error).await);
                }
            }
            Ok(None) => {}
            Err(error) => tracing::info!(%id, keeper, %error, "cannot ask the host that is to have it"),
        }
        // Asked again as if the removal had been sent and not answered.
        let (host, attempt, generation) =
            (receipt.host.clone(), receipt.attempt, entry.record.status().generation);
        self.note_sent(
            id,
            Sent { verb: Verb::Terminate, host, epoch, generation, attempt, at: Instant::now() },
        );
        Some(Stepped::On(entry.clone()))
    }

    /// Nothing of it is left: it stops counting in the project's usage, and its record starts to expire.
    pub(super) async fn finish(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        forced: bool,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let usage = record.usage();
        record.set_counted(false);
        record.set_gone(now + self.config.retention.get(), now);
        let detail = if forced { "its host has left; what it holds is removed when it is back" } else { "" };
        let step = history::done("delete", self.me(), now, Duration::ZERO, 0, detail);
        history::add(record.actions_mut(), step);
        history::end(record.actions_mut(), pb::Outcome::Succeeded, now);
        let mut released = self.agents.let_go(id, entry, true).await;
        let runs_nowhere = || entry.record.receipts().iter().all(|receipt| self.is_fenced(&receipt.host));
        if let Err(error) = &released
            && (!forced || runs_nowhere())
            && is_past(self.deadlines(id, &*entry.record).task, Duration::ZERO)
        {
            // No guest is left, or runs, that could use what its backend still exports to the host.
            tracing::warn!(%id, %error, "gone without its volumes' backend having been asked");
            released = self.agents.let_go(id, entry, false).await;
        }
        let mut with = match released {
            Ok(released) => released,
            Err(error) => {
                tracing::info!(%id, %error, "what it holds elsewhere cannot be released yet");
                let continued = self.continued(id, entry, fence, &error).await;
                return continued.unwrap_or(Stepped::Stop(Next::Retry));
            }
        };
        let _lane = self.lanes.enter(record.project_id()).await;
        match self.taken_off(&record, &usage).await {
            Ok(off) => with = with.and(off),
            Err(error) => return self.store_failed(id, &error),
        }
        self.sent.lock().remove(&id);
        self.store_gone(id, entry, record, fence, with).await
    }

    pub(super) async fn purge(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let key = P::key(&self.records.db.keys, id);
        let txn = Txn::new()
            .when(fence.holds())
            .when(Compare::ModRevision(key.clone(), entry.revision))
            .delete(key)
            .and(self.reach.off(entry.record.receipts().iter().map(|receipt| receipt.host.as_str())));
        match self.records.db.commit(txn).await {
            Ok(TxnOutcome::Committed { .. }) => Stepped::Stop(Next::Done),
            Ok(TxnOutcome::Conflict { .. }) => Stepped::Stop(Next::Retry),
            Err(error) => self.store_failed(id, &error),
        }
    }
}
