//! The steps of a pass: each makes the one call a decision asks for and writes what came of it.

use std::time::{Duration, SystemTime};

use kilonova_model::time::system_time;
use kilonova_model::{Epoch, Error, HostName, Reason, ServiceKind};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::CallError;
use kilonova_runtime::reconcile::Next;
use kilonova_store::{Compare, Txn, TxnOutcome};
use tokio::time::Instant;

use super::Engine;
use crate::accept;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::history::{self, Actor};
use crate::placed::{Phase, Placed};
use crate::plan::{Decision, Leave, Sent, Verb, View, plan};
use crate::quota;
use crate::records::Written;
use crate::shards::Fence;

/// How long until a host that did not take a removal is asked again.
const TERMINATE_AGAIN: Duration = Duration::from_secs(1);
/// How long a host that cannot be reached is tried before the build goes elsewhere.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(5);

/// How long until a record is looked at again whose host has as many commands under way as may be.
const HOST_BUSY: Duration = Duration::from_millis(20);

/// How one step went.
pub(super) enum Stepped<P> {
    /// Go on with the record as it is now.
    On(Entry<P>),
    /// Stop here.
    Stop(Next),
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// The incarnation of a registered host. One that is held has not left: that most vanished at once says
    /// more of the registry than of them.
    fn epoch_of(&self, host: &str) -> Option<Epoch> {
        let host = HostName::parse(host).ok()?;
        self.members.current().callable(&host).map(|member| member.epoch)
    }

    fn decide(&self, id: P::Id, record: &P, now: SystemTime) -> Decision {
        let sent = self.sent.lock().get(&id).cloned().unwrap_or_default();
        plan(&View {
            status: &record.status(),
            receipts: record.receipts(),
            keeps: &record.keeps(),
            placing: record.is_placing(),
            building_at: record.building_at().as_ref(),
            acts_at: &record.acts_at(),
            clears: record.clears().as_deref(),
            tried: record.tried().len(),
            settling: self.settling(),
            only_place: P::ONLY_PLACE,
            alternates: record.alternates(),
            operation: record.operation(),
            deadline: record.deadline(),
            expiry: record.expiry(),
            sent: &sent,
            epoch_of: &|host| self.epoch_of(host),
            now,
            max_attempts: self.config.max_attempts,
            resend: self.config.resend_interval.get(),
        })
    }

    pub(super) async fn step(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let now = SystemTime::now();
        if let Some(stepped) = self.correct_group(id, entry, fence).await {
            return stepped;
        }
        match self.decide(id, &entry.record, now) {
            Decision::Done => Stepped::Stop(Next::Done),
            Decision::Wait(time) => Stepped::Stop(Next::After(time)),
            Decision::Select => self.select(id, entry, fence, Vec::new()).await,
            Decision::TakeAlternate => self.take_alternate(id, entry, fence).await,
            Decision::Build => self.build(id, entry, fence).await,
            Decision::LeaveHost(why) => {
                let site = entry.record.building_at().unwrap_or_default();
                let error = self.left(&site.host, why);
                self.attempt_failed(id, entry, fence, &error, true).await
            }
            Decision::GiveUp => {
                let error = self.too_many(&entry.record);
                self.fail(id, entry, fence, history::fault(&error, "", entry.record.status().attempt, now))
                    .await
            }
            Decision::Operate => self.operate(id, entry, fence).await,
            Decision::GiveUpOperation(why) => {
                let error = if entry.record.is_placing() {
                    let limit = self.config.operation_timeout;
                    let message = format!("no host for it was found within {limit}");
                    Error::new(Reason::OperationTimeout, message).with("timeout", limit)
                } else {
                    let host = entry.record.clears().unwrap_or_else(|| entry.record.acts_at().host);
                    self.not_done(&host, why)
                };
                self.operation_failed(id, entry, fence, &error).await
            }
            Decision::GoOn => {
                let mut record = P::clone(&entry.record);
                record.cleared(now + self.config.operation_timeout.get());
                self.store(id, entry, record, fence).await
            }
            Decision::Conclude => self.conclude(id, entry, fence).await,
            Decision::Terminate(receipt) => {
                let Some(epoch) = self.epoch_of(&receipt.host) else {
                    return Stepped::Stop(Next::After(self.config.resend_interval.get()));
                };
                let Some(_slot) = self.slots.take(&receipt.host) else {
                    return Stepped::Stop(Next::After(HOST_BUSY));
                };
                let mut at = now;
                if let Err(error) = self.agents.terminate(id, &entry.record, &receipt, epoch).await {
                    tracing::info!(%id, host = receipt.host, %error, "cannot terminate yet");
                    // Noted all the same, as sent so long ago that it is soon sent again: one host that does not take
                    // it must not keep the others from being asked.
                    let resend = self.config.resend_interval.get();
                    at = now.checked_sub(resend.saturating_sub(TERMINATE_AGAIN)).unwrap_or(now);
                }
                let generation = entry.record.status().generation;
                let (host, attempt) = (receipt.host, receipt.attempt);
                self.note_sent(id, Sent { verb: Verb::Terminate, host, epoch, generation, attempt, at });
                Stepped::On(entry.clone())
            }
            Decision::Finish { forced } => self.finish(id, entry, fence, forced).await,
            Decision::Purge => self.purge(id, entry, fence).await,
        }
    }

    async fn build(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let Some(site) = entry.record.building_at() else { return Stepped::Stop(Next::Again) };
        let Some(epoch) = self.epoch_of(&site.host) else { return Stepped::Stop(Next::Again) };
        let Some(_slot) = self.slots.take(&site.host) else { return Stepped::Stop(Next::After(HOST_BUSY)) };
        let error = match self.agents.build(id, &entry.record, &site, epoch).await {
            Ok(()) => {
                self.unreachable.lock().remove(&id);
                let (host, generation, attempt) = (site.host, entry.record.status().generation, site.attempt);
                let at = SystemTime::now();
                self.note_sent(id, Sent { verb: Verb::Build, host, epoch, generation, attempt, at });
                return Stepped::On(entry.clone());
            }
            Err(error) => error,
        };
        tracing::info!(%id, host = site.host, attempt = site.attempt, %error, "the host did not take the build");
        let cause = error.error().unwrap_or_else(|| Error::new(Reason::Internal, error.to_string()));
        match (&error, cause.reason) {
            // The registry or the record is about to say something newer.
            (CallError::Refused(_), Reason::StaleEpoch | Reason::WrongHost | Reason::StaleGeneration) => {
                Stepped::Stop(Next::Retry)
            }
            // The host says that it holds nothing.
            (CallError::Refused(_), Reason::ClaimRefused | Reason::HostDisabled) => {
                self.attempt_failed(id, entry, fence, &cause, false).await
            }
            (CallError::Refused(_), _) => self.attempt_failed(id, entry, fence, &cause, true).await,
            (CallError::NotExecuted(_), reason)
                if !P::ONLY_PLACE
                    && (matches!(reason, Reason::Draining | Reason::NoSuchHost)
                        || self.unreachable_for(id, site.attempt) >= UNREACHABLE_AFTER) =>
            {
                self.attempt_failed(id, entry, fence, &cause, true).await
            }
            _ if is_past(entry.record.deadline(), UNREACHABLE_AFTER) => {
                self.attempt_failed(id, entry, fence, &cause, true).await
            }
            _ => Stepped::Stop(Next::Retry),
        }
    }

    async fn operate(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let site = entry.record.acts_at();
        let (Some(epoch), Some(operation)) = (self.epoch_of(&site.host), entry.record.operation()) else {
            return Stepped::Stop(Next::Again);
        };
        let Some(_slot) = self.slots.take(&site.host) else { return Stepped::Stop(Next::After(HOST_BUSY)) };
        let error = match self.agents.operate(id, &entry.record, operation, &site, epoch).await {
            Ok(()) => {
                let (host, generation, attempt) = (site.host, operation.generation, site.attempt);
                let at = SystemTime::now();
                self.note_sent(id, Sent { verb: Verb::Operate, host, epoch, generation, attempt, at });
                return Stepped::On(entry.clone());
            }
            Err(error) => error,
        };
        tracing::info!(%id, host = site.host, kind = operation.kind().as_str_name(), %error,
            "the host did not take the operation");
        let cause = error.error().unwrap_or_else(|| Error::new(Reason::Internal, error.to_string()));
        let deadline = operation.deadline_time.as_ref().and_then(system_time);
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
    async fn operation_failed(
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

    /// Does what is left of an operation once the host has done its part.
    async fn conclude(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let Some(operation) = entry.record.operation() else { return Stepped::Stop(Next::Again) };
        let mut with = match self.agents.conclude(id, &entry.record, operation).await {
            Ok(with) => with,
            Err(error) => {
                tracing::info!(%id, kind = operation.kind().as_str_name(), %error, "cannot be concluded yet");
                return Stepped::Stop(Next::Retry);
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

    /// What takes this off what the record's project uses.
    async fn taken_off(&self, record: &P, less: &pb::QuotaUsage) -> Result<Txn, Error> {
        match accept::project(record.project_id()) {
            Ok(project) if *less != pb::QuotaUsage::default() => {
                accept::take_off(&self.records.db, &project, less).await
            }
            _ => Ok(Txn::new()),
        }
    }

    /// For how long yet a host that is not registered is not taken for one that has left.
    fn settling(&self) -> Duration {
        self.config.registration_grace.get().saturating_sub(self.since.elapsed())
    }

    /// For how long the host of this attempt could not be reached, from the first time that was found on.
    fn unreachable_for(&self, id: P::Id, attempt: u32) -> Duration {
        let mut unreachable = self.unreachable.lock();
        let since = unreachable.entry(id).or_insert((attempt, Instant::now()));
        if since.0 != attempt {
            *since = (attempt, Instant::now());
        }
        since.1.elapsed()
    }

    async fn attempt_failed(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        cause: &Error,
        may_hold_something: bool,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let site = record.building_at().unwrap_or_default();
        if !may_hold_something {
            record.drop_receipt(&site.host, site.attempt);
        }
        leave_host(&mut record, history::fault(cause, &site.host, site.attempt, now), now);
        self.store(id, entry, record, fence).await
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
        history::end(record.actions_mut(), pb::Outcome::Failed, now);
        self.store(id, entry, record, fence).await
    }

    /// Nothing of it is left: it stops counting in the project's usage, and its record starts to expire.
    async fn finish(&self, id: P::Id, entry: &Entry<P>, fence: &Fence, forced: bool) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let usage = record.usage();
        record.set_counted(false);
        record.set_gone(now + self.config.retention.get(), now);
        let detail = if forced { "its host has left; what it holds is removed when it is back" } else { "" };
        let step = history::done("delete", self.me(), now, Duration::ZERO, 0, detail);
        history::add(record.actions_mut(), step);
        history::end(record.actions_mut(), pb::Outcome::Succeeded, now);
        let mut released = self.agents.let_go(id, &entry.record, true).await;
        if let Err(error) = &released
            && !forced
            && is_past(entry.record.deadline(), Duration::ZERO)
        {
            // No guest is left that could use what its backend still exports to the host.
            tracing::warn!(%id, %error, "gone without its volumes' backend having been asked");
            released = self.agents.let_go(id, &entry.record, false).await;
        }
        let mut with = match released {
            Ok(released) => released,
            Err(error) => {
                tracing::info!(%id, %error, "what it holds elsewhere cannot be released yet");
                return Stepped::Stop(Next::Retry);
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

    async fn purge(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let key = P::key(&self.records.db.keys, id);
        let txn = Txn::new()
            .when(Compare::CreateRevision(fence.key.clone(), fence.revision))
            .when(Compare::ModRevision(key.clone(), entry.revision))
            .delete(key);
        match self.records.db.commit(txn).await {
            Ok(TxnOutcome::Committed { .. }) => Stepped::Stop(Next::Done),
            Ok(TxnOutcome::Conflict { .. }) => Stepped::Stop(Next::Retry),
            Err(error) => self.store_failed(id, &error),
        }
    }

    pub(super) async fn store(&self, id: P::Id, entry: &Entry<P>, record: P, fence: &Fence) -> Stepped<P> {
        self.store_with(id, entry, record, fence, Txn::new()).await
    }

    pub(super) async fn store_with(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        record: P,
        fence: &Fence,
        with: Txn,
    ) -> Stepped<P> {
        let written = self.records.write(id, entry, record, Some(fence), with).await;
        self.settled(id, written).await
    }

    /// Where a write leaves the pass.
    pub(super) async fn settled(&self, id: P::Id, written: Result<Written<P>, Error>) -> Stepped<P> {
        match written {
            Ok(Written::Stored(entry)) => Stepped::On(entry),
            // What changed it is in memory already, or the watch brings it and with it a new pass.
            Ok(Written::Changed) => match self.records.read(id).await {
                Ok(Some(entry)) => Stepped::On(entry),
                Ok(None) => Stepped::Stop(Next::Done),
                Err(error) => self.store_failed(id, &error),
            },
            Ok(Written::Fenced) => {
                // The next pass stops if the shard is another's now, and goes on under the new right if it is not.
                tracing::info!(%id, "the right to the shard was lost");
                Stepped::Stop(Next::Retry)
            }
            Err(error) => self.store_failed(id, &error),
        }
    }

    pub(super) fn store_failed(&self, id: P::Id, error: &Error) -> Stepped<P> {
        tracing::warn!(%id, %error, "cannot write a step");
        Stepped::Stop(Next::Retry)
    }

    /// Remembers what a host was sent.
    fn note_sent(&self, id: P::Id, new: Sent) {
        let mut sent = self.sent.lock();
        let list = sent.entry(id).or_default();
        list.retain(|old| {
            (old.verb, &old.host, old.attempt) != (new.verb, &new.host, new.attempt)
                && old.generation == new.generation
        });
        list.push(new);
    }

    pub(super) fn me(&self) -> Actor<'_> {
        Actor { service: ServiceKind::Conductor, host: self.conductor.as_str() }
    }

    fn left(&self, host: &str, why: Leave) -> Error {
        match why {
            Leave::Late => {
                let limit = self.config.build_timeout;
                Error::new(Reason::BuildTimeout, format!("{host} did not finish within {limit}"))
                    .with("timeout", limit)
            }
            Leave::NotRegistered => Error::new(Reason::NoSuchHost, format!("{host} has left the registry")),
        }
        .with("host", host)
    }

    fn not_done(&self, host: &str, why: Leave) -> Error {
        let limit = self.config.operation_timeout;
        match why {
            Leave::Late => {
                let message = format!("{host} did not do it within {limit}");
                Error::new(Reason::OperationTimeout, message).with("timeout", limit)
            }
            Leave::NotRegistered => {
                Error::new(Reason::NoSuchHost, format!("{host} was not registered for {limit}"))
            }
        }
        .with("host", host)
    }

    fn too_many(&self, record: &P) -> Error {
        let tried = record.tried().join(", ");
        let message = format!(
            "tried {} of at most {} hosts, and each failed: {tried}",
            record.tried().len(),
            self.config.max_attempts
        );
        Error::new(Reason::MaxAttemptsExceeded, message)
            .with("max_attempts", self.config.max_attempts)
            .with("tried", tried)
    }
}

/// Whether a deadline has been over for so long.
fn is_past(deadline: Option<SystemTime>, by: Duration) -> bool {
    deadline.is_some_and(|deadline| deadline + by <= SystemTime::now())
}

/// The attempt at the present host came to nothing.
pub fn leave_host<P: Placed>(record: &mut P, fault: pb::Fault, now: SystemTime) {
    let building = record.building();
    history::close(record.actions_mut(), building, Some(&fault), now);
    record.set_attempt_failed(fault, now);
}
