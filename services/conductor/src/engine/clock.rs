//! Since when this conductor sees what is being done with each record.
//!
//! Deadlines are counted from here, on the monotonic clock of the one who drives: the wall clock of whoever accepted the work
//! may differ. A conductor that takes a shard over counts from the moment it first sees the step.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::placed::{Phase, Placed, Site, Wanted};

/// What is timed of a record besides its operation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Task {
    generation: u64,
    wanted: Wanted,
    phase: Phase,
    attempt: u32,
    at: Option<Site>,
}

#[derive(Debug)]
struct Seen {
    task: Task,
    since: Instant,
    /// The first operation's generation.
    operation: Option<u64>,
    operation_since: Instant,
}

/// Since when what is under way is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// The present task: a placement, a build, a delete.
    pub task: Instant,
    /// The first operation, or its present step.
    pub operation: Instant,
}

/// The clock of one engine: one entry for each record that it drives.
#[derive(Debug)]
pub struct Clock<I>(Mutex<HashMap<I, Seen>>);

impl<I> Default for Clock<I> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<I: Copy + Eq + Hash> Clock<I> {
    /// Looks at a record at `now`; what was not seen before begins.
    pub fn see<P: Placed<Id = I>>(&self, id: I, record: &P, now: Instant) -> Since {
        let status = record.status();
        let task = Task {
            generation: status.generation,
            wanted: status.wanted,
            phase: status.phase,
            attempt: status.attempt,
            at: record.building_at(),
        };
        let operation = record.operation().map(|operation| operation.generation);
        let mut all = self.0.lock();
        let seen = all.entry(id).or_insert_with(|| Seen {
            task: task.clone(),
            since: now,
            operation,
            operation_since: now,
        });
        if seen.task != task {
            (seen.task, seen.since) = (task, now);
        }
        if seen.operation != operation {
            (seen.operation, seen.operation_since) = (operation, now);
        }
        Since { task: seen.since, operation: seen.operation_since }
    }

    /// Forgets the records that do not pass.
    pub fn retain(&self, pass: impl Fn(&I) -> bool) {
        self.0.lock().retain(|id, _| pass(id));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use kilonova_model::InstanceId;
    use kilonova_proto::conductor::v1::{Alternate, InstanceRecord, Operation};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_step_begins_when_it_is_first_seen_whatever_its_record_says_of_the_time() {
        let (clock, id, start) = (Clock::default(), InstanceId::generate(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let (past, place) = (SystemTime::UNIX_EPOCH, Alternate { host: "h1".into(), ..Default::default() });
        let mut record = InstanceRecord::default();
        assert_eq!(clock.see(id, &record, start).task, start);
        assert_eq!(clock.see(id, &record, after(5)).task, start);
        record.set_place(&place, past, past);
        assert_eq!(
            clock.see(id, &record, after(7)).task,
            after(7),
            "its deadline is long over by another's clock"
        );
        record.operations.push(Operation {
            generation: 4,
            deadline_time: Some(Default::default()),
            ..Default::default()
        });
        assert_eq!(clock.see(id, &record, after(9)), Since { task: after(7), operation: after(9) });
        record.operations[0].generation = 5;
        assert_eq!(clock.see(id, &record, after(11)).operation, after(11), "the next step of it");
    }
}
