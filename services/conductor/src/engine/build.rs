//! Has a host build a record, and leaves the host when that comes to nothing.

use std::time::SystemTime;

use kilonova_model::{Error, Reason};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::CallError;
use kilonova_runtime::reconcile::Next;
use tokio::time::Instant;

use super::Engine;
use super::reach::{HOST_BUSY, UNREACHABLE_AFTER, is_past};
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::config::Config;
use crate::history;
use crate::placed::{Phase, Placed, Site};
use crate::plan::{Leave, Sent, Verb};
use crate::reports;
use crate::shards::Fence;

/// What a host may hold of a record after an attempt there came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing.
    Nothing,
    /// Nothing of that attempt, something of earlier ones that is being removed.
    Leaving,
    /// Nothing of that attempt, something of earlier ones that stays.
    Earlier,
    /// Something, or not.
    Unknown,
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) async fn build(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let Some(site) = entry.record.building_at() else { return Stepped::Stop(Next::Again) };
        let Some(epoch) = self.epoch_of(&site.host) else { return Stepped::Stop(Next::Again) };
        let Some(_slot) = self.slots.take(&site.host) else { return Stepped::Stop(Next::After(HOST_BUSY)) };
        let error = match self.agents.build(id, entry, &site, epoch).await {
            Ok(()) => {
                self.unreachable.lock().remove(&(id, site.attempt));
                let (host, generation, attempt) = (site.host, entry.record.status().generation, site.attempt);
                let at = Instant::now();
                self.note_sent(id, Sent { verb: Verb::Build, host, epoch, generation, attempt, at });
                return Stepped::On(entry.clone());
            }
            Err(error) => error,
        };
        tracing::info!(%id, host = site.host, attempt = site.attempt, %error, "the host did not take the build");
        if let Some(stepped) = self.continued(id, entry, fence, &error).await {
            return stepped;
        }
        let cause = error.error().unwrap_or_else(|| Error::new(Reason::Internal, error.to_string()));
        match (&error, cause.reason) {
            // The registry or the record is about to say something newer.
            (CallError::Refused(_), Reason::StaleEpoch | Reason::WrongHost | Reason::StaleGeneration) => {
                Stepped::Stop(Next::Retry)
            }
            // The host says that it holds nothing.
            (CallError::Refused(_), Reason::ClaimRefused | Reason::HostDisabled) => {
                self.attempt_failed(id, entry, fence, &cause, Held::Nothing).await
            }
            // It did nothing for this attempt, because of what it has of earlier ones.
            (CallError::Refused(_), Reason::StillRemoving) => {
                self.attempt_failed(id, entry, fence, &cause, Held::Leaving).await
            }
            (CallError::Refused(_), Reason::OlderGenerationPresent)
                if is_made(&*entry.record, &site, &cause) =>
            {
                tracing::warn!(%id, host = site.host, "its host made it, and has worked on it since the store's copy was taken");
                let now = SystemTime::now();
                let mut record = P::clone(&entry.record);
                reports::built(&mut record, now + self.config.operation_timeout.get(), now);
                self.store(id, entry, record, fence).await
            }
            (CallError::Refused(_), Reason::OlderGenerationPresent) => {
                self.attempt_failed(id, entry, fence, &cause, Held::Earlier).await
            }
            (CallError::Refused(_), _) => self.attempt_failed(id, entry, fence, &cause, Held::Unknown).await,
            (CallError::NotExecuted(_), reason)
                if !entry.record.has_only_place()
                    && (matches!(reason, Reason::Draining | Reason::NoSuchHost)
                        || self.unreachable_for(id, site.attempt) >= UNREACHABLE_AFTER) =>
            {
                self.attempt_failed(id, entry, fence, &cause, Held::Unknown).await
            }
            _ if is_past(self.deadlines(id, &*entry.record).task, UNREACHABLE_AFTER) => {
                self.attempt_failed(id, entry, fence, &cause, Held::Unknown).await
            }
            _ => Stepped::Stop(Next::Retry),
        }
    }

    pub(super) async fn attempt_failed(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        cause: &Error,
        held: Held,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let site = record.building_at().unwrap_or_default();
        match held {
            Held::Nothing => {
                record.count_refusal();
                record.drop_receipt(&site.host, site.attempt);
            }
            Held::Leaving | Held::Earlier => {
                record.count_refusal();
                record.drop_refused(&site.host, site.attempt, held == Held::Earlier);
            }
            Held::Unknown => {}
        }
        leave_host(&mut record, history::fault(cause, &site.host, site.attempt, now), now);
        self.store(id, entry, record, fence).await
    }

    pub(super) fn left(&self, host: &str, why: Leave) -> Error {
        match why {
            Leave::Late => {
                let limit = self.config.build_timeout;
                Error::new(Reason::BuildTimeout, format!("{host} did not finish within {limit}"))
                    .with("timeout", limit)
            }
            Leave::NotRegistered | Leave::Found => {
                Error::new(Reason::NoSuchHost, format!("{host} has left the registry"))
            }
        }
        .with("host", host)
    }

    pub(super) fn too_many(&self, record: &P) -> Error {
        let tried = record.tried().join(", ");
        let Config { max_attempts, max_refusals, .. } = *self.config;
        let refusals = record.refusals();
        let failed = record.tried().len().saturating_sub(refusals);
        let last = record.failed_attempts().last();
        let why = last.map_or_else(String::new, |last| format!("; last, on {}: {}", last.host, last.message));
        let message = format!(
            "it failed on {failed} hosts of at most {max_attempts}, and {refusals} of at most {max_refusals} refused it: {tried}{why}"
        );
        Error::new(Reason::MaxAttemptsExceeded, message)
            .with("max_attempts", max_attempts)
            .with("max_refusals", max_refusals)
            .with("tried", tried)
    }

    pub(super) async fn fail(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        fault: pb::Fault,
    ) -> Stepped<P> {
        self.fail_with(id, entry, P::clone(&entry.record), fence, fault).await
    }

    pub(super) async fn fail_with(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        mut record: P,
        fence: &Fence,
        fault: pb::Fault,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        if record.status().phase == Phase::Ready {
            // There is no place for it elsewhere; where it is, it is none the worse.
            record.host_did_not(&fault, now + self.config.operation_timeout.get(), now);
            return self.store(id, entry, record, fence).await;
        }
        tracing::info!(%id, reason = fault.reason, message = fault.message, "{} failed", P::NOUN);
        metrics::counter!("conductor_failed_total", "resource" => P::NOUN, "reason" => fault.reason.clone())
            .increment(1);
        record.set_failed(fault, now);
        // What has an operation ends with that.
        if record.operation().is_none() {
            history::end(record.actions_mut(), pb::Outcome::Failed, now);
        }
        self.store(id, entry, record, fence).await
    }
}

/// True if what a host has, and refuses to make again, is what this attempt made there: of a record that was never seen to be there, as
/// in a store that was put back. An attempt is asked for at one generation only, unless the store lost how far that had come.
fn is_made<P: Placed>(record: &P, site: &Site, refusal: &Error) -> bool {
    let is_first = record.status().phase == Phase::Building && !record.was_there();
    is_first && refusal.metadata.get("attempt") == Some(&site.attempt.to_string())
}

/// The attempt at the present host came to nothing.
pub(crate) fn leave_host<P: Placed>(record: &mut P, fault: pb::Fault, now: SystemTime) {
    let building = record.building();
    history::close(record.actions_mut(), building, Some(&fault), now);
    record.set_attempt_failed(fault, now);
}
