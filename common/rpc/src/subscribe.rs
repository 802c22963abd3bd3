//! A server stream made into a watch that heals itself.
//!
//! ```text
//!            ┌──────────────── backoff ◄───────────────┐
//!            ▼                                         │ on_lost
//!   open(resume token) ──► on_connected ──► on_event … ┴─ silent for 3 heartbeats, ended, failed
//!            ▲                                         │
//!            └── token dropped ◄── RESUME_TOKEN_EXPIRED┘
//! ```
//!
//! With a token the publisher goes on where the last message left off; without one it sends a snapshot, and
//! what the snapshot does not name by its end is gone. An expired token is not a failure: the stream is opened
//! again at once, without it.
//!
//! One who stood still meanwhile reads what came before judging that nothing did ([`patience`](crate::patience)).

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use kilonova_model::Reason;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::backoff::{Backoff, BackoffPolicy};
use crate::patience::within;
use crate::status::reason_of;

/// Heartbeats that may be missed before a stream counts as dead.
const MISSED_HEARTBEATS: u32 = 3;

/// What one message of a watch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// Part of the snapshot, or a change.
    Item(T),
    /// The snapshot is complete.
    SnapshotEnd,
    /// Nothing happened; the stream lives.
    Heartbeat,
}

/// One message, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified<T> {
    /// What it is.
    pub event: Event<T>,
    /// From where to go on after it; empty if the message does not say.
    pub resume_token: String,
}

/// Why a stream ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Lost {
    /// It could not be opened, or broke.
    #[error("{}", .0.message())]
    Failed(Status),
    /// The publisher ended it.
    #[error("the publisher ended the stream")]
    Ended,
    /// Nothing came for three heartbeats.
    #[error("nothing heard for {0:?}")]
    Silent(Duration),
    /// The publisher no longer knows the resume token; a snapshot follows.
    #[error("the resume token expired")]
    TokenExpired,
}

/// One watch: how to open it, how to read it, what to do with what it says.
pub trait Subscription: Send {
    /// The messages of the stream.
    type Message: Send + 'static;
    /// What an item carries.
    type Item: Send;

    /// Opens the stream; an empty token asks for a snapshot.
    fn open(
        &mut self,
        resume_token: &str,
    ) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// Takes a message apart. `None` for one this version does not know: it counts as a sign of life.
    fn classify(&self, message: Self::Message) -> Option<Classified<Self::Item>>;

    /// The stream is open. If `snapshot`, a whole snapshot follows and replaces what is known.
    fn on_connected(&mut self, snapshot: bool);

    /// A message came.
    fn on_event(&mut self, event: Event<Self::Item>);

    /// The stream ended, or could not be opened; it will be opened again.
    fn on_lost(&mut self, lost: &Lost);
}

/// How a watch is kept alive.
#[derive(Debug, Clone, Copy)]
pub struct SubscribeOptions {
    /// The publisher's heartbeat interval.
    pub heartbeat_interval: Duration,
    /// The delays between attempts to open the stream.
    pub backoff: BackoffPolicy,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self { heartbeat_interval: Duration::from_secs(2), backoff: BackoffPolicy::reconnect() }
    }
}

impl SubscribeOptions {
    fn silence(&self) -> Duration {
        self.heartbeat_interval * MISSED_HEARTBEATS
    }
}

/// Runs a watch until cancelled. Cancelling drops the stream, which tells the publisher.
pub async fn subscribe<S: Subscription>(
    subscription: &mut S,
    options: SubscribeOptions,
    cancelled: &CancellationToken,
) {
    let mut token = String::new();
    let mut backoff = Backoff::new(options.backoff);
    loop {
        let (lost, heard) = tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            end = one_stream(subscription, &mut token, &options) => end,
        };
        subscription.on_lost(&lost);
        if heard {
            backoff.reset();
        }
        // The token was dropped, so it cannot expire twice in a row.
        if matches!(lost, Lost::TokenExpired) {
            continue;
        }
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

/// One stream from its opening to its end: why it ended, and whether anything was heard on it.
async fn one_stream<S: Subscription>(
    subscription: &mut S,
    token: &mut String,
    options: &SubscribeOptions,
) -> (Lost, bool) {
    let (silence, grace) = (options.silence(), options.heartbeat_interval);
    let mut heard = false;
    // Boxed: what opening needs is many times what the stream needs, which lives on.
    let opening = Box::pin(subscription.open(token));
    let mut stream = match within(silence, grace, opening).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(status)) => return (failed(status, token), heard),
        Err(_) => return (Lost::Silent(silence), heard),
    };
    subscription.on_connected(token.is_empty());
    // A snapshot that breaks off cannot be resumed: its tokens count from its end.
    let mut whole = !token.is_empty();
    let mut latest = String::new();
    loop {
        let message = match within(silence, grace, pin!(stream.message())).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return (Lost::Ended, heard),
            Ok(Err(status)) => return (failed(status, token), heard),
            Err(_) => return (Lost::Silent(silence), heard),
        };
        heard = true;
        let Some(Classified { event, resume_token }) = subscription.classify(message) else { continue };
        whole |= matches!(event, Event::SnapshotEnd);
        if !resume_token.is_empty() {
            latest = resume_token;
        }
        subscription.on_event(event);
        if whole && !latest.is_empty() {
            std::mem::swap(token, &mut latest);
            latest.clear();
        }
    }
}

/// Reads how a stream failed; forgets the token when the publisher has.
fn failed(status: Status, token: &mut String) -> Lost {
    let expired = status.code() == Code::OutOfRange
        && reason_of(&status) == Some(Reason::ResumeTokenExpired)
        && !token.is_empty();
    if expired {
        token.clear();
        return Lost::TokenExpired;
    }
    Lost::Failed(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::Error;

    use crate::status::to_status;

    #[test]
    fn only_an_expired_token_is_dropped() {
        let expired = to_status(&Error::new(Reason::ResumeTokenExpired, "too old"));
        let mut token = "e1-7".to_owned();
        assert!(matches!(failed(Status::out_of_range("x"), &mut token), Lost::Failed(_)));
        assert!(matches!(failed(Status::unavailable("x"), &mut token), Lost::Failed(_)));
        assert_eq!(token, "e1-7");
        assert!(matches!(failed(expired.clone(), &mut token), Lost::TokenExpired));
        assert_eq!(token, "");
        assert!(
            matches!(failed(expired, &mut token), Lost::Failed(_)),
            "no token: not to be tried again at once"
        );
    }
}
