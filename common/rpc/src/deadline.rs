//! Deadlines: as they arrive with a request, and as they pass on to the calls made while it is handled.
//!
//! The server puts the deadline of a request around its handler; a [`Channel`](crate::peers::Channel) called from
//! there allows no more than what is left of it, less a margin for the way back.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Option<Deadline>;
}

/// The most kept of a deadline for the way back, so that a caller hears the answer and not its own clock.
const MARGIN: Duration = Duration::from_millis(50);

/// The moment after which nobody waits for the answer. In the extensions of every request that came with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The deadline of a request that has one.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get().copied()
    }

    /// The deadline of the request that this task handles, if it handles one that has a deadline.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|deadline| *deadline).ok().flatten()
    }

    /// How much time is left.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Runs a handler under its request's deadline.
pub(crate) fn scope<F: Future>(deadline: Option<Deadline>, handler: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(deadline, handler)
}

/// The time for one call: what its caller asks, but no more than what is left of the request being handled and
/// than a call of the method may take. None if nobody limits it.
pub(crate) fn allowed(
    asked: Option<Duration>,
    left: Option<Duration>,
    most: Option<Duration>,
) -> Option<Duration> {
    let left = left.map(|left| left - MARGIN.min(left / 10));
    [asked, left, most].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn the_least_of_all_limits_counts_less_the_way_back() {
        assert_eq!(allowed(None, None, None), None);
        assert_eq!(allowed(ms(500), None, ms(10_000)), ms(500));
        assert_eq!(allowed(ms(60_000), None, ms(10_000)), ms(10_000));
        assert_eq!(allowed(None, ms(5_000), ms(10_000)), ms(4_950));
        assert_eq!(allowed(ms(1_000), ms(5_000), ms(10_000)), ms(1_000));
        assert_eq!(allowed(ms(1_000), ms(100), None), ms(90));
        assert_eq!(allowed(ms(1_000), ms(0), None), ms(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_sees_its_own_deadline_and_others_see_none() {
        let deadline = Deadline(Instant::now() + Duration::from_secs(3));
        assert_eq!(Deadline::current(), None);
        let inside = scope(Some(deadline), async { Deadline::current() }).await;
        assert_eq!(inside, Some(deadline));
        assert_eq!(scope(None, async { Deadline::current() }).await, None);
    }
}
