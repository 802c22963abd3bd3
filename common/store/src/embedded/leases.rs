//! The leases of this process: in memory only, for their holders live in this process too.
//!
//! If the process stood still while a lease ran out, its holder could not renew it either: it gets one period of
//! renewals more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::LeaseId;

/// How late one may be who looked at the leases in time.
const LATE: Duration = Duration::from_millis(250);

/// One lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    ttl: Duration,
    deadline: Instant,
    /// It was extended because somebody was late, and not renewed since.
    is_extended: bool,
}

/// Which leases are alive, and when each ends.
#[derive(Debug, Default)]
pub(super) struct Leases {
    alive: BTreeMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    /// A new lease under an id never used before.
    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        let mut id = LeaseId(rand::random_range(1..i64::MAX));
        while self.alive.contains_key(&id) {
            id = LeaseId(rand::random_range(1..i64::MAX));
        }
        self.set(id, Lease { ttl, deadline: now + ttl, is_extended: false });
        id
    }

    /// Counts the lease's time from now again; false when it is gone. One that is overdue but not ended yet
    /// is still there.
    pub(super) fn renew(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(lease) = self.end(id) else { return false };
        self.set(id, Lease { deadline: now + lease.ttl, is_extended: false, ..lease });
        true
    }

    /// Takes the lease away; none when it is gone already.
    pub(super) fn remove(&mut self, id: LeaseId) -> Option<Lease> {
        self.end(id)
    }

    /// Brings a lease back that was not revoked after all.
    pub(super) fn put_back(&mut self, id: LeaseId, lease: Lease) {
        self.set(id, lease);
    }

    /// Brings a lease back whose keys could not be deleted: it is overdue and ends again.
    pub(super) fn restore_overdue(&mut self, id: LeaseId, retry_at: Instant) {
        self.set(id, Lease { ttl: Duration::ZERO, deadline: retry_at, is_extended: true });
    }

    /// If they are looked at too late to be judged, gives those that ran out a third of their time from now on: as often
    /// are leases renewed. Each once, until it is renewed. Returns how many.
    pub(super) fn forgive(&mut self, now: Instant) -> usize {
        if self.next_deadline().is_none_or(|first| now.saturating_duration_since(first) <= LATE) {
            return 0;
        }
        let ran_out = self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now);
        let forgiven: Vec<_> =
            ran_out.map(|(_, id)| (*id, self.alive[id])).filter(|(_, lease)| !lease.is_extended).collect();
        for (id, lease) in &forgiven {
            self.end(*id);
            self.set(*id, Lease { deadline: now + lease.ttl / 3, is_extended: true, ..*lease });
        }
        forgiven.len()
    }

    pub(super) fn is_alive(&self, id: LeaseId) -> bool {
        self.alive.contains_key(&id)
    }

    /// When the next lease ends.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Takes away every lease that has run out.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Vec<LeaseId> {
        let overdue: Vec<_> =
            self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect();
        for id in &overdue {
            self.end(*id);
        }
        overdue
    }

    fn set(&mut self, id: LeaseId, lease: Lease) {
        self.alive.insert(id, lease);
        self.by_deadline.insert((lease.deadline, id));
    }

    fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.alive.remove(&id)?;
        self.by_deadline.remove(&(lease.deadline, id));
        Some(lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_the_order_of_deadlines_and_renewal_moves_them() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leases = Leases::default();
        let short = leases.grant(Duration::from_secs(2), start);
        let long = leases.grant(Duration::from_secs(5), start);
        assert_eq!(leases.next_deadline(), Some(after(2)));
        assert!(leases.renew(short, after(2)), "overdue, but nobody has ended it");
        assert_eq!(leases.take_overdue(after(3)), vec![]);
        assert_eq!(leases.take_overdue(after(5)), vec![short, long]);
        assert!(!leases.renew(long, after(5)));
        assert!(leases.remove(short).is_none());
        assert_eq!(leases.next_deadline(), None);
    }

    #[test]
    fn who_was_stopped_gets_one_period_to_renew_and_no_second_one() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut leases = Leases::default();
        let (renewed, dead) =
            (leases.grant(Duration::from_secs(6), start), leases.grant(Duration::from_secs(15), start));
        assert_eq!(leases.forgive(after(6) + LATE), 0, "in time");
        assert_eq!(leases.forgive(after(36)), 2);
        assert_eq!(leases.take_overdue(after(36)), vec![]);
        assert!(leases.renew(renewed, after(37)));
        assert_eq!(leases.forgive(after(42)), 0, "nobody renewed it");
        assert_eq!(leases.take_overdue(after(42)), vec![dead]);
        assert_eq!(leases.forgive(after(80)), 1, "stopped again");
    }
}
