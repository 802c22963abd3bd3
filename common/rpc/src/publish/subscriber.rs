//! One subscriber: a place in the log, and a timer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use kilonova_model::{Error, Reason, time};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;

use super::log::{Batch, Log, Place, TooFarBehind};
use super::publication::Rules;
use super::shape::Part;
use crate::status::to_status;

/// What a subscriber asks for, as its request says it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The last token it got; empty for a snapshot.
    pub token: &'a str,
    /// The heartbeat interval it wishes.
    pub heartbeat: Option<&'a prost_types::Duration>,
}

pub(super) struct Subscriber<K> {
    log: watch::Receiver<Log<K>>,
    rules: Arc<Rules>,
    place: Place<K>,
    heartbeat: Duration,
    /// Fires at the earliest when a heartbeat is due. It is set anew when it fires, not at every message.
    alarm: Pin<Box<Sleep>>,
    /// When it last got a message.
    told: Instant,
}

/// How a stream that waits goes on.
enum Woken {
    Changed,
    Silent,
    PublisherGone,
}

impl<K: Clone + Ord + Send + Sync + 'static> Subscriber<K> {
    pub fn new(log: watch::Receiver<Log<K>>, rules: Arc<Rules>, ask: &Ask<'_>) -> Result<Self, Error> {
        let place = log.borrow().place(ask.token)?;
        let (shortest, longest) = (*rules.options.heartbeats.start(), *rules.options.heartbeats.end());
        let heartbeat =
            ask.heartbeat.map_or(rules.options.heartbeat, time::to_duration).clamp(shortest, longest);
        rules.metrics.active.increment(1);
        let (alarm, told) = (Box::pin(sleep(heartbeat)), Instant::now());
        Ok(Self { log, rules, place, heartbeat, alarm, told })
    }

    /// Its messages, framed, until it is ended.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        futures::stream::unfold(Some(self), |subscriber| async {
            let mut subscriber = subscriber?;
            match subscriber.next().await {
                Ok(frames) => Some((Ok(frames), Some(subscriber))),
                Err(error) => Some((Err(to_status(&error)), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Bytes, Error> {
        if self.has_stalled() {
            return Err(self.kicked());
        }
        loop {
            if let Some(batch) = self.take()? {
                self.rules.metrics.coalesced.increment(batch.coalesced);
                self.told = Instant::now();
                return Ok(batch.frames);
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::Silent => return Ok(self.beat()),
                Woken::PublisherGone => {
                    return Err(Error::new(Reason::Draining, "the publisher is stopping"));
                }
            }
        }
    }

    /// Whether it read nothing for long and misses much: a stream is asked for its next message as soon as there is
    /// room for it.
    fn has_stalled(&self) -> bool {
        self.told.elapsed() > self.rules.options.stalled_after
            && self.log.borrow().is_behind(&self.place, self.rules.options.max_behind)
    }

    fn take(&mut self) -> Result<Option<Batch>, Error> {
        let taken =
            self.log.borrow_and_update().take(&self.rules.shape, &mut self.place, self.rules.options.piece);
        taken.map_err(|TooFarBehind| self.kicked())
    }

    async fn wait(&mut self) -> Woken {
        loop {
            tokio::select! {
                biased;
                changed = self.log.changed() => {
                    return if changed.is_ok() { Woken::Changed } else { Woken::PublisherGone };
                }
                () = self.alarm.as_mut() => {
                    let due = self.told + self.heartbeat;
                    if due <= Instant::now() {
                        return Woken::Silent;
                    }
                    self.alarm.as_mut().reset(due);
                }
            }
        }
    }

    fn beat(&mut self) -> Bytes {
        self.told = Instant::now();
        self.alarm.as_mut().reset(self.told + self.heartbeat);
        let token = self.log.borrow().token_at(&self.place).text();
        let mut frame = BytesMut::with_capacity(40);
        self.rules.shape.append(&mut frame, Part::Heartbeat, token.as_str());
        frame.freeze()
    }

    fn kicked(&self) -> Error {
        self.rules.metrics.kicked.increment(1);
        let message = "changes came faster than they were read; subscribe again with the last token";
        Error::new(Reason::SlowConsumer, message)
    }
}

impl<K> Drop for Subscriber<K> {
    fn drop(&mut self) {
        self.rules.metrics.active.decrement(1);
    }
}
