//! Keeps a watch open: when the connection or the api goes away, it resumes where it was.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use kilonova_rpc::patience::within;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::client::Client;
use super::failure::Failure;
use super::progress::notice;

/// How often the api is asked to say that the stream is alive.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence of this many heartbeats is a dead stream.
const MISSED: u32 = 3;
/// A connection that was lost and has not answered for this long stays lost.
const LOST: Duration = Duration::from_secs(10);

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only in this project; empty for any.
    pub project_id: String,
    /// Only these; empty for all.
    pub ids: Vec<String>,
    /// Only on this host; empty for any.
    pub host: String,
    /// Only in these states; empty for any but DELETED.
    pub states: Vec<i32>,
}

/// What a message of a watch brings.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<R> {
    /// One resource, as part of the snapshot.
    Snapshot(R),
    /// The snapshot is complete.
    SnapshotEnd,
    /// One resource as it is now.
    Update(R),
    /// The id of one that is no longer there.
    Gone(String),
    /// The stream is alive; also for what this version does not know.
    Heartbeat,
}

/// A resource that can be watched.
pub trait Followed: Sized {
    /// A message of its watch.
    type Message;
    /// Opens the watch.
    async fn open(
        client: &Client,
        filter: &Filter,
        token: String,
    ) -> Result<Streaming<Self::Message>, Status>;
    /// The token to resume after this message.
    fn token(message: &Self::Message) -> &str;
    /// Whether the message ends the snapshot.
    fn ends_snapshot(message: &Self::Message) -> bool;
    /// What the message brings.
    fn event(message: Self::Message) -> Event<Self>;
}

/// A watch that resumes by itself.
pub struct Follower<R: Followed> {
    client: Client,
    filter: Filter,
    token: String,
    /// Whether the token can be resumed from: not before the snapshot is complete.
    whole: bool,
    snapshots: u64,
    stream: Option<Streaming<R::Message>>,
    backoff: Backoff,
    /// Whether the user was told that the watch broke off.
    told: bool,
    /// Since when nothing has answered.
    lost: Option<Instant>,
}

/// What to do about the end of a stream.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Resume,
    StartOver,
    GiveUp,
}

impl<R: Followed> Follower<R> {
    /// Not open yet.
    #[must_use]
    pub fn new(client: Client, filter: Filter) -> Self {
        let backoff = Backoff::new(BackoffPolicy::reconnect());
        Self {
            client,
            filter,
            token: String::new(),
            whole: false,
            snapshots: 0,
            stream: None,
            backoff,
            told: false,
            lost: None,
        }
    }

    /// How many snapshots have begun: one that broke off begins again.
    #[must_use]
    pub fn snapshots(&self) -> u64 {
        self.snapshots
    }

    /// The next message. An error is one that trying again would not mend, or that lasts.
    pub async fn next(&mut self) -> Result<R::Message, Failure> {
        loop {
            let status = match self.receive().await {
                Ok(message) => {
                    self.backoff.reset();
                    (self.told, self.lost) = (false, None);
                    self.whole |= R::ends_snapshot(&message);
                    let token = R::token(&message);
                    if !token.is_empty() {
                        token.clone_into(&mut self.token);
                    }
                    return Ok(message);
                }
                Err(status) => status,
            };
            self.stream = None;
            match after(&status) {
                Next::Resume => self.tell(),
                Next::StartOver => self.whole = false,
                Next::GiveUp => return Err(self.client.explained(status, None).await),
            }
            if status.source().is_some() {
                self.lost.get_or_insert_with(Instant::now);
            } else {
                self.lost = None;
            }
            match self.left() {
                Some(Duration::ZERO) => return Err(self.client.explained(status, None).await),
                left => {
                    tokio::time::sleep(left.unwrap_or(LOST).min(self.backoff.next_delay())).await;
                }
            }
        }
    }

    /// How long a lost connection may still come back.
    fn left(&self) -> Option<Duration> {
        self.lost.map(|since| LOST.saturating_sub(since.elapsed()))
    }

    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true) {
            notice("connection lost, trying again");
        }
    }

    async fn receive(&mut self) -> Result<R::Message, Status> {
        let silence = self.left().unwrap_or(HEARTBEAT * MISSED);
        let receive = async {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                closed => {
                    if !self.whole {
                        self.token.clear();
                    }
                    let stream = R::open(&self.client, &self.filter, self.token.clone()).await?;
                    self.snapshots += u64::from(!self.whole);
                    closed.insert(stream)
                }
            };
            stream.message().await
        };
        match within(silence, HEARTBEAT, Box::pin(receive)).await {
            Ok(Ok(Some(message))) => Ok(message),
            Ok(Ok(None)) => Err(lost("the stream ended")),
            Ok(Err(status)) => Err(status),
            Err(_) => Err(lost("the stream fell silent")),
        }
    }
}

/// A status made here, as the transport makes them.
fn lost(cause: &str) -> Status {
    let mut status = Status::unavailable(cause);
    status.set_source(Arc::new(std::io::Error::other(cause.to_owned())));
    status
}

fn after(status: &Status) -> Next {
    match status.code() {
        Code::OutOfRange => Next::StartOver,
        Code::Unavailable | Code::ResourceExhausted | Code::Unknown => Next::Resume,
        // Made by the transport here, not by the api: the connection broke.
        _ if status.source().is_some() => Next::Resume,
        _ => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::{Error, Reason};
    use kilonova_rpc::status::to_status;

    #[test]
    fn what_ends_a_stream_decides_what_comes_next() {
        let table = [
            (Reason::Draining, Next::Resume),
            (Reason::SlowConsumer, Next::Resume),
            (Reason::NoEndpoint, Next::Resume),
            (Reason::ResumeTokenExpired, Next::StartOver),
            (Reason::ValidationFailed, Next::GiveUp),
            (Reason::MethodNotImplemented, Next::GiveUp),
        ];
        for (reason, next) in table {
            assert_eq!(after(&to_status(&Error::new(reason, "x"))), next, "{reason}");
        }
    }

    #[test]
    fn a_broken_connection_is_resumed_whatever_its_code() {
        let mut status = Status::internal("h2 protocol error");
        assert_eq!(after(&status), Next::GiveUp);
        status.set_source(std::sync::Arc::new(std::io::Error::other("reset")));
        assert_eq!(after(&status), Next::Resume);
    }
}
