//! Waiting for a sign of life, by a process that may itself have stood still.
//!
//! A process that was stopped, or whose machine was, finds all its timers over when it goes on, while what came meanwhile lies
//! unread in its sockets. So a timer that fires late says nothing of the peer: what came is read first, and silence judged after.

use std::future::Future;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

/// How late a timer may fire until it says that this process stood still.
const LATE: Duration = Duration::from_millis(250);

/// Waits for `patience`; if this process stood still when that was over, for `grace` more.
pub async fn within<T>(
    patience: Duration,
    grace: Duration,
    mut awaited: impl Future<Output = T> + Unpin,
) -> Result<T, Elapsed> {
    let deadline = Instant::now() + patience;
    match timeout_at(deadline, &mut awaited).await {
        Err(_) if deadline.elapsed() > LATE => timeout(grace, &mut awaited).await,
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tokio::time::{advance, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(6);
    const GRACE: Duration = Duration::from_secs(2);

    /// Has what is waited for come `after` this process went on from standing still for `still`.
    async fn waited(still: Duration, after: Option<Duration>) -> bool {
        let (comes, awaited) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { within(PATIENCE, GRACE, awaited).await.is_ok() });
        tokio::task::yield_now().await;
        advance(still).await;
        if let Some(after) = after {
            sleep(after).await;
            // Whoever waited may have gone.
            let _ = comes.send(());
        } else {
            sleep(PATIENCE * 2).await;
        }
        tasks.join_next().await.expect("one was spawned").expect("it does not panic")
    }

    #[tokio::test(start_paused = true)]
    async fn who_stood_still_waits_a_little_longer_and_who_did_not_does_not() {
        let (pause, moment) = (Duration::from_secs(36), Duration::from_millis(100));
        assert!(waited(pause, Some(moment)).await, "it lay unread");
        assert!(!waited(pause, None).await, "the peer is silent");
        assert!(!waited(pause, Some(GRACE + moment)).await);
        assert!(waited(Duration::ZERO, Some(PATIENCE - moment)).await);
        assert!(!waited(Duration::ZERO, Some(PATIENCE + moment)).await, "the timer was not late");
    }
}
