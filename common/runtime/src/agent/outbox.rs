//! Reports on their way: the newest per resource, oldest first.

use std::collections::{BTreeMap, HashMap};

use super::reporter::Report;

/// What is not yet accepted. Pure; bounded by the number of resources.
#[derive(Debug)]
pub(super) struct Outbox<R: Report> {
    waiting: BTreeMap<u64, R>,
    places: HashMap<R::Key, u64>,
    next: u64,
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
        self.next += 1;
        if let Some(earlier) = self.places.insert(report.key(), self.next) {
            self.waiting.remove(&earlier);
        }
        self.waiting.insert(self.next, report);
    }

    /// The oldest, at most `limit`; they stay until they are taken out.
    pub fn batch(&self, limit: usize) -> Batch<R> {
        let (places, reports) =
            self.waiting.iter().take(limit).map(|(place, report)| (*place, report.clone())).unzip();
        Batch { places, reports }
    }

    /// Takes out what a batch held, except what was replaced since.
    pub fn remove(&mut self, batch: &Batch<R>) {
        for place in &batch.places {
            if let Some(report) = self.waiting.remove(place) {
                self.places.remove(&report.key());
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

    #[test]
    fn the_newest_of_each_goes_out_oldest_first() {
        let mut outbox = Outbox::default();
        for report in [(1, "a"), (2, "a"), (1, "b"), (3, "a")] {
            outbox.put(report);
        }
        assert_eq!(outbox.batch(2).reports, [(2, "a"), (1, "b")]);
        assert_eq!(outbox.batch(9).reports, [(2, "a"), (1, "b"), (3, "a")]);
    }

    #[test]
    fn what_was_replaced_in_flight_is_sent_again() {
        let mut outbox = Outbox::default();
        outbox.put((1, "a"));
        outbox.put((2, "a"));
        let flying = outbox.batch(9);
        outbox.put((1, "b"));
        outbox.remove(&flying);
        assert_eq!(outbox.batch(9).reports, [(1, "b")]);
        let flying = outbox.batch(9);
        outbox.remove(&flying);
        assert_eq!((outbox.len(), outbox.places.len()), (0, 0));
    }
}
