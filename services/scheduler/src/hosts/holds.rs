//! What was promised, to whom, until when.

use std::collections::{HashMap, VecDeque};

use kilonova_model::RequestId;
use tokio::time::Instant;

use crate::placement::HostId;

/// One promise on one candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold<A> {
    /// Whose candidate.
    pub host: HostId,
    /// The pool; empty for a host.
    pub pool: String,
    /// How much.
    pub amount: A,
}

/// All promises. Only counts them: who calls takes them on and off the rows.
#[derive(Debug)]
pub struct Holds<A> {
    by_request: HashMap<RequestId, Promise<A>>,
    /// By when the promises were made, and so by when they end. One that was replaced or paid is passed over.
    queue: VecDeque<(Instant, RequestId)>,
    /// The requests that hold something on a host, the oldest first.
    by_host: HashMap<HostId, Vec<RequestId>>,
}

#[derive(Debug)]
struct Promise<A> {
    expires: Instant,
    holds: Vec<Hold<A>>,
}

impl<A> Default for Holds<A> {
    fn default() -> Self {
        Self { by_request: HashMap::new(), queue: VecDeque::new(), by_host: HashMap::new() }
    }
}

impl<A: Clone> Holds<A> {
    /// Records a promise. `expires` must not be before that of an earlier one.
    pub fn add(&mut self, request: RequestId, expires: Instant, holds: Vec<Hold<A>>) {
        self.queue.push_back((expires, request.clone()));
        self.put_back(request, expires, holds);
    }

    /// Records again what [`Holds::take`] took.
    pub fn put_back(&mut self, request: RequestId, expires: Instant, holds: Vec<Hold<A>>) {
        for hold in &holds {
            let requests = self.by_host.entry(hold.host).or_default();
            if !requests.contains(&request) {
                requests.push(request.clone());
            }
        }
        self.by_request.insert(request, Promise { expires, holds });
    }

    /// Takes a promise out.
    pub fn take(&mut self, request: &RequestId) -> Option<(Instant, Vec<Hold<A>>)> {
        let promise = self.by_request.remove(request)?;
        for hold in &promise.holds {
            self.unlink(hold.host, request);
        }
        Some((promise.expires, promise.holds))
    }

    /// Takes out what has expired.
    pub fn take_expired(&mut self, now: Instant) -> Vec<Hold<A>> {
        let mut expired = Vec::new();
        while self.queue.front().is_some_and(|(expires, _)| *expires <= now) {
            let Some((expires, request)) = self.queue.pop_front() else { break };
            if self.by_request.get(&request).is_some_and(|promise| promise.expires == expires) {
                expired.extend(self.take(&request).into_iter().flat_map(|(_, holds)| holds));
            }
        }
        expired
    }

    /// What is held on a host, the oldest first.
    pub fn on(&self, host: HostId) -> impl Iterator<Item = &Hold<A>> {
        let requests = self.by_host.get(&host).into_iter().flatten();
        let holds =
            requests.filter_map(|request| self.by_request.get(request)).flat_map(|promise| &promise.holds);
        holds.filter(move |hold| hold.host == host)
    }

    /// Takes out of a host's holds, the oldest first, those `is_paid` says yes to.
    pub fn settle(&mut self, host: HostId, mut is_paid: impl FnMut(&Hold<A>) -> bool) {
        for request in self.by_host.get(&host).cloned().unwrap_or_default() {
            let Some(promise) = self.by_request.get_mut(&request) else { continue };
            promise.holds.retain(|hold| hold.host != host || !is_paid(hold));
            let is_empty = promise.holds.is_empty();
            if promise.holds.iter().all(|hold| hold.host != host) {
                self.unlink(host, &request);
            }
            if is_empty {
                self.by_request.remove(&request);
            }
        }
    }

    /// All that is held.
    pub fn all(&self) -> impl Iterator<Item = &Hold<A>> {
        self.by_request.values().flat_map(|promise| &promise.holds)
    }

    /// How many requests are promised something.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_request.len()
    }

    /// Whether nothing is promised.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_request.is_empty()
    }

    fn unlink(&mut self, host: HostId, request: &RequestId) {
        if let Some(requests) = self.by_host.get_mut(&host) {
            requests.retain(|one| one != request);
            if requests.is_empty() {
                self.by_host.remove(&host);
            }
        }
    }
}
