//! One step of a pass: decides, and has it done.

use std::time::{Duration, SystemTime};

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_runtime::reconcile::Next;
use tokio::time::Instant;

use super::Engine;
use super::build::Held;
use super::reach::Deadlines;
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::history;
use crate::placed::{Placed, until};
use crate::plan::{Decision, Leave, View, plan};
use crate::shards::Fence;

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) async fn step(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let now = SystemTime::now();
        if let Some(stepped) = self.correct_group(id, entry, fence).await {
            return stepped;
        }
        let decision = self.decide(id, &entry.record, now);
        if let Some(step) = driving(&decision).filter(|_| self.is_late(id, &*entry.record)) {
            metrics::counter!("conductor_late_steps_total", "resource" => P::NOUN, "step" => step)
                .increment(1);
        }
        match decision {
            Decision::Done => Stepped::Stop(Next::Done),
            Decision::Wait(time) => Stepped::Stop(Next::After(time)),
            Decision::Select => self.select(id, entry, fence, Vec::new()).await,
            Decision::TakeAlternate => self.take_alternate(id, entry, fence).await,
            Decision::Build => self.build(id, entry, fence).await,
            Decision::LeaveHost(why) => {
                let site = entry.record.building_at().unwrap_or_default();
                let error = self.left(&site.host, why);
                self.attempt_failed(id, entry, fence, &error, Held::Unknown).await
            }
            Decision::GiveUp => {
                // With one place only, why it was not made there is why it failed.
                let only = entry.record.failed_attempts().last().filter(|_| entry.record.has_only_place());
                let attempt = entry.record.status().attempt;
                let too_many = || history::fault(&self.too_many(&entry.record), "", attempt, now);
                let fault = only.cloned().unwrap_or_else(too_many);
                self.fail(id, entry, fence, fault).await
            }
            Decision::Operate => self.operate(id, entry, fence).await,
            Decision::GiveUpOperation(why) => {
                let error = if entry.record.is_placing() && why == Leave::NotRegistered {
                    self.not_done(&entry.record.status().host, why)
                } else if entry.record.is_placing() && why == Leave::Late {
                    let limit = self.config.operation_timeout;
                    let message = format!("no host for it was found within {limit}");
                    Error::new(Reason::OperationTimeout, message).with("timeout", limit)
                } else {
                    self.not_done(&self.who_did_not(&entry.record, why), why)
                };
                self.operation_failed(id, entry, fence, &error).await
            }
            Decision::GoOn => {
                let mut record = P::clone(&entry.record);
                // Those that still have something are off.
                let mut off = record.clears();
                off.retain(|host| record.receipts().iter().any(|receipt| receipt.host == *host));
                off.iter().for_each(|host| record.give_up_at(host));
                record.cleared(now + self.config.operation_timeout.get());
                let with = self.reach.off(off.iter().map(String::as_str));
                self.store_with(id, entry, record, fence, with).await
            }
            Decision::SkipHost => {
                let mut record = P::clone(&entry.record);
                let host = record.acts_at().host;
                record.give_up_at(&host);
                record.host_did(now + self.config.operation_timeout.get(), now);
                let with = self.reach.off([host.as_str()]);
                self.store_with(id, entry, record, fence, with).await
            }
            Decision::Conclude => self.conclude(id, entry, fence).await,
            Decision::Terminate(receipt) => self.terminate(id, entry, fence, receipt).await,
            Decision::Finish { forced } => self.finish(id, entry, fence, forced).await,
            Decision::Purge => self.purge(id, entry, fence).await,
        }
    }

    /// The host for which an operation is given up.
    fn who_did_not(&self, record: &P, why: Leave) -> String {
        if why == Leave::Found {
            let is_found =
                |receipt: &&Receipt| receipt.found && !receipt.vouched && !self.is_fenced(&receipt.host);
            return record
                .receipts()
                .iter()
                .find(is_found)
                .map_or_else(String::new, |found| found.host.clone());
        }
        let clears = record.clears();
        let needed = record.clears_for().filter(|_| why == Leave::NotRegistered && !clears.is_empty());
        let is_at_fault = |host: &String| why == Leave::Late || self.epoch_of(host).is_none();
        needed.into_iter().chain(clears).find(is_at_fault).unwrap_or_else(|| record.acts_at().host)
    }

    fn decide(&self, id: P::Id, record: &P, now: SystemTime) -> Decision {
        let sent = self.sent.lock().get(&id).cloned().unwrap_or_default();
        let Deadlines { since, task, operation } = self.deadlines(id, record);
        plan(&View {
            status: &record.status(),
            receipts: record.receipts(),
            keeps: &record.keeps(),
            placing: record.is_placing(),
            building_at: record.building_at().as_ref(),
            acts_at: &record.acts_at(),
            clears: &record.clears(),
            clears_for: record.clears_for().as_deref(),
            moves: record.moves(),
            lets_go: record.lets_go(),
            starts: record.starts(),
            tried: record.tried().len(),
            refusals: record.refusals(),
            settling: self.settling(),
            only_place: record.has_only_place(),
            alternates: record.alternates(),
            operation: record.operation(),
            since: since.task,
            deadline: task,
            operation_deadline: operation,
            kept: record.expiry().map_or(Duration::ZERO, |expiry| until(expiry, now)),
            sent: &sent,
            epoch_of: &|host| self.epoch_of(host),
            gone_for: &|host| self.gone_for(host),
            is_fenced: &|host| self.is_fenced(host),
            is_unreachable: &|attempt| self.is_unreachable(id, attempt),
            now: Instant::now(),
            max_attempts: self.config.max_attempts,
            max_refusals: self.config.max_refusals,
            resend: self.config.resend_interval.get(),
            leave_timeout: self.config.leave_timeout.get(),
            gone_after: self.config.gone_after.get(),
        })
    }
}

/// What a decision has done, if it drives a record on.
fn driving(decision: &Decision) -> Option<&'static str> {
    Some(match decision {
        Decision::Done | Decision::Wait(_) | Decision::Purge => return None,
        Decision::Select | Decision::TakeAlternate => "place",
        Decision::Build => "build",
        Decision::Operate => "operate",
        Decision::LeaveHost(_) | Decision::GiveUp | Decision::GiveUpOperation(_) => "give_up",
        Decision::GoOn | Decision::SkipHost | Decision::Conclude => "conclude",
        Decision::Terminate(_) => "terminate",
        Decision::Finish { .. } => "finish",
    })
}
