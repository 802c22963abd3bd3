//! One step of a pass: decides, and has it done.

use std::time::SystemTime;

use kilonova_model::{Error, Reason};
use kilonova_runtime::reconcile::Next;

use super::Engine;
use super::build::Held;
use super::store::Stepped;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::history;
use crate::placed::Placed;
use crate::plan::{Decision, View, plan};
use crate::shards::Fence;

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) async fn step(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let now = SystemTime::now();
        if let Some(stepped) = self.correct_group(id, entry, fence).await {
            return stepped;
        }
        let decision = self.decide(id, &entry.record, now);
        if let Some(step) = driving(&decision).filter(|_| entry.record.is_late(now)) {
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
            Decision::Terminate(receipt) => self.terminate(id, entry, receipt, now).await,
            Decision::Finish { forced } => self.finish(id, entry, fence, forced).await,
            Decision::Purge => self.purge(id, entry, fence).await,
        }
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
            refusals: record.refusals(),
            settling: self.settling(),
            only_place: record.has_only_place(),
            alternates: record.alternates(),
            operation: record.operation(),
            deadline: record.deadline(),
            expiry: record.expiry(),
            sent: &sent,
            epoch_of: &|host| self.epoch_of(host),
            now,
            max_attempts: self.config.max_attempts,
            max_refusals: self.config.max_refusals,
            resend: self.config.resend_interval.get(),
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
        Decision::GoOn | Decision::Conclude => "conclude",
        Decision::Terminate(_) => "terminate",
        Decision::Finish { .. } => "finish",
    })
}
