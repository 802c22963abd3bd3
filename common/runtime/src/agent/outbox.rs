//! Reports on their way: the newest per resource, oldest first.
//!
//! Of a batch that was refused, nobody knows which report is to blame: from then on each of it goes alone, and one
//! refused alone goes to the end of the queue and waits there, growing longer, while others pass.

use std::collections::{BTreeMap, HashMap};

use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use tokio::time::Instant;

use super::reporter::Report;

/// What is not yet accepted. Pure; bounded by the number of resources.
#[derive(Debug)]
pub(super) struct Outbox<R: Report> {
    waiting: BTreeMap<u64, Entry<R>>,
    places: HashMap<R::Key, u64>,
    next: u64,
}

#[derive(Debug)]
struct Entry<R> {
    report: R,
    /// Set once it was part of a batch that was refused.
    suspect: Option<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    backoff: Backoff,
    due: Instant,
}

impl<R> Entry<R> {
    fn due(&self, now: Instant) -> bool {
        self.suspect.as_ref().is_none_or(|suspect| suspect.due <= now)
    }
}

/// Some of it, as it was sent.
#[derive(Debug)]
pub(super) struct Batch<R> {
    places: Vec<u64>,
    pub reports: Vec<R>,
}

impl<R: Report> Default for Outbox<R> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), places: HashMap::new(), next: 0 }
    }
}

impl<R: Report> Outbox<R> {
    /// Adds a report in place of the resource's earlier one.
    pub fn put(&mut self, report: R) {
        if let Some(earlier) = self.places.get(&report.key()) {
            self.waiting.remove(earlier);
        }
        self.push(Entry { report, suspect: None });
    }

    fn push(&mut self, entry: Entry<R>) {
        self.next += 1;
        self.places.insert(entry.report.key(), self.next);
        self.waiting.insert(self.next, entry);
    }

    /// The oldest that are due, at most `limit`, or a suspect alone; they stay until they are taken out.
    pub fn batch(&self, limit: usize, now: Instant) -> Batch<R> {
        let mut due = self.waiting.iter().filter(|(_, entry)| entry.due(now)).peekable();
        let alone = due.peek().is_some_and(|(_, entry)| entry.suspect.is_some());
        let (places, reports) = due
            .filter(|(_, entry)| alone || entry.suspect.is_none())
            .take(if alone { 1 } else { limit })
            .map(|(place, entry)| (*place, entry.report.clone()))
            .unzip();
        Batch { places, reports }
    }

    /// When the next of those that wait is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|entry| Some(entry.suspect.as_ref()?.due)).min()
    }

    /// Takes out what a batch held, except what was replaced since.
    pub fn remove(&mut self, batch: &Batch<R>) {
        for place in &batch.places {
            if let Some(entry) = self.waiting.remove(place) {
                self.places.remove(&entry.report.key());
            }
        }
    }

    /// A batch was refused: each of it goes alone from now on, and the one that did already goes to the end.
    pub fn refuse(&mut self, batch: &Batch<R>, now: Instant) {
        let alone = batch.places.len() == 1;
        for place in &batch.places {
            let Some(mut entry) = self.waiting.remove(place) else { continue };
            let suspect = entry.suspect.get_or_insert_with(|| Suspect {
                backoff: Backoff::new(BackoffPolicy::reconnect()),
                due: now,
            });
            if alone {
                suspect.due = now + suspect.backoff.next_delay();
                self.push(entry);
            } else {
                self.waiting.insert(*place, entry);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Report for (u32, &'static str) {
        type Key = u32;
        fn key(&self) -> u32 {
            self.0
        }
    }

    impl Outbox<(u32, &'static str)> {
        fn sent(&self, limit: usize, now: Instant) -> Vec<(u32, &'static str)> {
            self.batch(limit, now).reports
        }
    }

    #[test]
    fn the_newest_of_each_goes_out_oldest_first() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for report in [(1, "a"), (2, "a"), (1, "b"), (3, "a")] {
            outbox.put(report);
        }
        assert_eq!(outbox.sent(2, now), [(2, "a"), (1, "b")]);
        assert_eq!(outbox.sent(9, now), [(2, "a"), (1, "b"), (3, "a")]);
    }

    #[test]
    fn what_was_replaced_in_flight_is_sent_again() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.put((1, "a"));
        outbox.put((2, "a"));
        let flying = outbox.batch(9, now);
        outbox.put((1, "b"));
        outbox.remove(&flying);
        assert_eq!(outbox.sent(9, now), [(1, "b")]);
        let flying = outbox.batch(9, now);
        outbox.remove(&flying);
        assert_eq!((outbox.len(), outbox.places.len()), (0, 0));
    }

    #[test]
    fn a_refused_batch_goes_one_by_one_and_the_one_refused_alone_last() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        [(1, "bad"), (2, "good")].into_iter().for_each(|report| outbox.put(report));
        let flying = outbox.batch(9, now);
        outbox.refuse(&flying, now);
        outbox.put((3, "new"));
        assert_eq!(outbox.sent(9, now), [(1, "bad")]);
        let flying = outbox.batch(9, now);
        outbox.refuse(&flying, now);
        let good = outbox.batch(9, now);
        assert_eq!(good.reports, [(2, "good")]);
        outbox.remove(&good);
        let new = outbox.batch(9, now);
        outbox.remove(&new);
        assert!(outbox.sent(9, now).is_empty(), "it waits");
        let due = outbox.next_due().unwrap();
        assert_eq!(outbox.sent(9, due), [(1, "bad")]);
        outbox.put((1, "better"));
        assert_eq!((outbox.sent(9, now), outbox.len()), (vec![(1, "better")], 1));
    }
}
