//! Passes a conductor's watch on, and goes on with another conductor when that one goes away.
//!
//! ```text
//!   open ──► pass messages on, note where the reader stands ──► the conductor goes away
//!    ▲                                                            │
//!    └── with the last token; without one while the snapshot ◄────┘ until `resume_within` is over
//!        is under way, for its tokens count from its end
//! ```
//!
//! A snapshot that began twice would leave the reader with what the first showed and the second does not: it
//! counts everything seen since the stream began. The relay therefore remembers what it has shown until the snapshot
//! is complete, and takes back what is gone before it passes the end on. What the conductor decided (an expired
//! token, a slow reader) is passed on as it is. A reader that leaves drops the relay, and with it the stream behind.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use kilonova_model::{Error, Reason};
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use kilonova_rpc::patience::within;
use kilonova_rpc::status::to_status;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::conductor::Conductor;

/// Heartbeats that may be missed before a conductor counts as gone.
const MISSED_HEARTBEATS: u32 = 3;

/// One kind of watch: how to open it at a conductor, and how to read its messages.
pub trait Watch: Clone + Send + Sync + 'static {
    /// A message of the stream.
    type Message: Send + 'static;

    /// Opens the stream; an empty token asks for a snapshot.
    fn open(
        &self,
        conductor: &Conductor,
        resume_token: &str,
    ) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// The token the reader came with.
    fn resume_token(&self) -> &str;

    /// How often the conductor says that it is alive.
    fn heartbeat(&self) -> Duration;

    /// What a message is.
    fn read(message: &Self::Message) -> Mark<'_>;

    /// A message that says that one is gone.
    fn gone(id: String) -> Self::Message;
}

/// What the relay has to know of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark<'a> {
    /// What it brings.
    pub kind: Kind<'a>,
    /// Where the reader stands after it.
    pub token: &'a str,
}

/// What a message brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// The resource of this id, as part of the snapshot.
    Snapshot(&'a str),
    /// The end of the snapshot.
    SnapshotEnd,
    /// Anything else.
    Other,
}

/// Where the reader stands.
#[derive(Debug)]
struct Position {
    token: String,
    /// Whether the token can be resumed from: not before the snapshot is complete.
    whole: bool,
    /// What snapshots showed that broke off.
    shown_before: BTreeSet<String>,
    /// What the snapshot under way has shown.
    shown: BTreeSet<String>,
}

impl Position {
    fn new(token: &str) -> Self {
        let whole = !token.is_empty();
        Self { token: token.to_owned(), whole, shown_before: BTreeSet::new(), shown: BTreeSet::new() }
    }

    /// Notes one message. At the end of a snapshot: what was shown since the stream began and is gone.
    fn note(&mut self, mark: Mark<'_>) -> Vec<String> {
        let mut gone = Vec::new();
        match mark.kind {
            Kind::Snapshot(id) => {
                self.shown.insert(id.to_owned());
            }
            Kind::SnapshotEnd => {
                let shown = std::mem::take(&mut self.shown);
                let before = std::mem::take(&mut self.shown_before);
                gone = before.difference(&shown).cloned().collect();
                self.whole = true;
            }
            Kind::Other => {}
        }
        if !mark.token.is_empty() {
            mark.token.clone_into(&mut self.token);
        }
        gone
    }

    /// What to open the next stream with.
    fn resume(&mut self) -> &str {
        if !self.whole {
            self.shown_before.append(&mut self.shown);
            self.token.clear();
        }
        &self.token
    }
}

/// Whether another conductor can go on after this.
fn went_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

struct Relay<W: Watch> {
    watch: W,
    conductor: Conductor,
    stream: Option<Streaming<W::Message>>,
    position: Position,
    /// Read, and not passed on yet.
    pending: VecDeque<W::Message>,
    ended: bool,
}

/// Opens a watch and passes it on. Fails only when it could not be opened at all.
pub async fn relay<W: Watch>(
    conductor: Conductor,
    watch: W,
) -> Result<BoxStream<'static, Result<W::Message, Status>>, Status> {
    let until = Instant::now() + conductor.call_timeout;
    let stream = loop {
        match watch.open(&conductor, watch.resume_token()).await {
            // A conductor that is frozen; it is suspected now, so the next attempt finds another.
            Err(status) if status.code() == Code::DeadlineExceeded && Instant::now() < until => {}
            opened => break opened?,
        }
    };
    let relay = Relay {
        position: Position::new(watch.resume_token()),
        watch,
        conductor,
        stream: Some(stream),
        pending: VecDeque::new(),
        ended: false,
    };
    Ok(stream::unfold(relay, |mut relay| async move { Some((relay.next().await?, relay)) }).boxed())
}

impl<W: Watch> Relay<W> {
    async fn next(&mut self) -> Option<Result<W::Message, Status>> {
        if self.ended {
            return None;
        }
        if let Some(message) = self.pending.pop_front() {
            return Some(Ok(message));
        }
        let result = self.receive().await;
        self.ended = result.is_err();
        Some(result)
    }

    async fn receive(&mut self) -> Result<W::Message, Status> {
        let mut looking: Option<(Instant, Backoff)> = None;
        loop {
            let status = match self.one_message().await {
                Ok(message) => return Ok(self.pass(message)),
                Err(status) => status,
            };
            self.stream = None;
            let (since, backoff) =
                looking.get_or_insert_with(|| (Instant::now(), Backoff::new(BackoffPolicy::retry())));
            if !went_away(&status) || since.elapsed() >= self.conductor.resume_within {
                return Err(status);
            }
            tracing::debug!(%status, "a watch lost its conductor; looking for another");
            metrics::counter!("kilonova_api_watch_resumes_total").increment(1);
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn one_message(&mut self) -> Result<W::Message, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => {
                let token = self.position.resume();
                closed.insert(self.watch.open(&self.conductor, token).await?)
            }
        };
        let heartbeat = self.watch.heartbeat();
        let silence = heartbeat * MISSED_HEARTBEATS;
        match within(silence, heartbeat, pin!(stream.message())).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(lost("the conductor ended the stream".to_owned())),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(lost(format!("nothing was heard of the conductor for {silence:?}"))),
        }
    }

    /// The message to pass on now; before the end of a snapshot, what has to be taken back goes first.
    fn pass(&mut self, message: W::Message) -> W::Message {
        let gone = self.position.note(W::read(&message));
        self.pending.extend(gone.into_iter().map(W::gone));
        self.pending.push_back(message);
        self.pending.pop_front().expect("one was pushed")
    }
}

fn lost(message: String) -> Status {
    to_status(&Error::new(Reason::NoEndpoint, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark<'a>(kind: Kind<'a>, token: &'a str) -> Mark<'a> {
        Mark { kind, token }
    }

    #[test]
    fn a_snapshot_that_broke_off_begins_again_and_takes_back_what_is_gone() {
        let mut position = Position::new("");
        position.note(mark(Kind::Snapshot("a"), "1"));
        position.note(mark(Kind::Snapshot("b"), "1"));
        assert_eq!(position.resume(), "");
        position.note(mark(Kind::Snapshot("b"), "2"));
        assert_eq!(position.resume(), "", "it broke off again");
        position.note(mark(Kind::Snapshot("c"), "3"));
        position.note(mark(Kind::Snapshot("b"), "3"));
        assert_eq!(position.note(mark(Kind::SnapshotEnd, "3")), ["a"]);
        assert_eq!(position.resume(), "3");
    }

    #[test]
    fn past_the_snapshot_the_last_token_counts() {
        let mut position = Position::new("");
        assert!(position.note(mark(Kind::Snapshot("a"), "1")).is_empty());
        assert!(position.note(mark(Kind::SnapshotEnd, "5")).is_empty());
        position.note(mark(Kind::Other, "6"));
        position.note(mark(Kind::Other, ""));
        assert_eq!(position.resume(), "6");
    }

    #[test]
    fn a_reader_that_came_with_a_token_resumes_with_it() {
        assert_eq!(Position::new("7").resume(), "7");
    }

    #[test]
    fn what_a_conductor_decided_is_not_tried_elsewhere() {
        let says = |reason| went_away(&to_status(&Error::new(reason, "x")));
        for reason in [
            Reason::Draining,
            Reason::NoEndpoint,
            Reason::ConnectionLost,
            Reason::NotReady,
            Reason::DeadlineExceeded,
        ] {
            assert!(says(reason), "{reason}");
        }
        for reason in [Reason::ResumeTokenExpired, Reason::SlowConsumer, Reason::ValidationFailed] {
            assert!(!says(reason), "{reason}");
        }
    }
}
