//! Has a host do its part of an operation, and does what is left of it then.

use std::time::{Duration, SystemTime};

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
use crate::history;
use crate::placed::Placed;
use crate::plan::{Leave, Sent, Verb};
use crate::quota;
use crate::shards::Fence;

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) async fn operate(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let site = entry.record.acts_at();
        let (Some(epoch), Some(operation)) = (self.epoch_of(&site.host), entry.record.operation()) else {
            return Stepped::Stop(Next::Again);
        };
        let Some(_slot) = self.slots.take(&site.host) else { return Stepped::Stop(Next::After(HOST_BUSY)) };
        let error = match self.agents.operate(id, entry, operation, &site, epoch).await {
            Ok(()) => {
                let (host, generation, attempt) = (site.host, operation.generation, site.attempt);
                let at = Instant::now();
                self.note_sent(id, Sent { verb: Verb::Operate, host, epoch, generation, attempt, at });
                return Stepped::On(entry.clone());
            }
            Err(error) => error,
        };
        tracing::info!(%id, host = site.host, kind = operation.kind().as_str_name(), %error,
            "the host did not take the operation");
        if let Some(stepped) = self.in_doubt(id, entry, fence, &site, &error).await {
            return stepped;
        }
        if let Some(stepped) = self.continued(id, entry, fence, &error).await {
            return stepped;
        }
        let cause = error.error().unwrap_or_else(|| Error::new(Reason::Internal, error.to_string()));
        let deadline = self.deadlines(id, &*entry.record).operation;
        match (&error, cause.reason) {
            // The registry or the record is about to say something newer, or the host to finish an older one.
            (
                CallError::Refused(_),
                Reason::StaleEpoch | Reason::WrongHost | Reason::StaleGeneration | Reason::InvalidState,
            ) if !is_past(deadline, Duration::ZERO) => Stepped::Stop(Next::Retry),
            (CallError::Refused(_), _) => self.operation_failed(id, entry, fence, &cause).await,
            _ if is_past(deadline, UNREACHABLE_AFTER) => {
                self.operation_failed(id, entry, fence, &cause).await
            }
            _ => Stepped::Stop(Next::Retry),
        }
    }

    /// The host did not do its part of the operation, and will not.
    pub(super) async fn operation_failed(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        cause: &Error,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let site = record.acts_at();
        let fault = history::fault(cause, &site.host, site.attempt, now);
        record.host_did_not(&fault, now + self.config.operation_timeout.get(), now);
        self.store(id, entry, record, fence).await
    }

    pub(super) fn not_done(&self, host: &str, why: Leave) -> Error {
        let limit = self.config.operation_timeout;
        match why {
            Leave::Late => {
                let message = format!("{host} did not do it within {limit}");
                Error::new(Reason::OperationTimeout, message).with("timeout", limit)
            }
            Leave::NotRegistered => {
                Error::new(Reason::NoSuchHost, format!("{host} is gone: it is not registered"))
            }
            Leave::Found => {
                let message = format!("{host} was found to have a copy of it, which may run there");
                Error::new(Reason::InvalidState, message)
            }
        }
        .with("host", host)
    }

    /// Does what is left of an operation once the host has done its part.
    pub(super) async fn conclude(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let Some(operation) = entry.record.operation() else { return Stepped::Stop(Next::Again) };
        let mut with = match self.agents.conclude(id, entry, operation).await {
            Ok(with) => with,
            Err(error) => {
                tracing::info!(%id, kind = operation.kind().as_str_name(), %error, "cannot be concluded yet");
                let continued = self.continued(id, entry, fence, &error).await;
                return continued.unwrap_or(Stepped::Stop(Next::Retry));
            }
        };
        let mut record = P::clone(&entry.record);
        record.conclude(SystemTime::now());
        let less = quota::difference(&entry.record.usage(), &record.usage());
        // Most operations take nothing off, and need no turn.
        let _lane = match less == pb::QuotaUsage::default() {
            true => None,
            false => Some(self.lanes.enter(record.project_id()).await),
        };
        match self.taken_off(&record, &less).await {
            Ok(off) => with = with.and(off),
            Err(error) => return self.store_failed(id, &error),
        }
        self.store_with(id, entry, record, fence, with).await
    }
}
