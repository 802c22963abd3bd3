//! Watches of records, as users see them: a snapshot, then every change, with a token to resume from.
//!
//! A token is a revision of one store, so any conductor can resume what another began. One transaction may change several
//! records, so a token names the revision *before* the last change sent: a reader that resumes sees that one again, and
//! misses none. Changes of one record that wait together are sent as one. A reader so slow that the memory's own
//! channel overflows is ended.
//!
//! What a change brings is encoded once, by the first watch that sends it; each adds its token.

pub mod token;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kilonova_model::{Error, Reason, Revision};
use kilonova_rpc::publish::{Event, Frames, Part, Shape};
use kilonova_rpc::status::to_status;
use kilonova_runtime::tasks::Tasks;
use prost::Message;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cache::{Change, Entry, Start};
use crate::placed::Placed;
use crate::records::Records;
use token::Tokens;

/// Messages that wait for the transport.
const BUFFER: usize = 16;
/// Most changes looked at together.
const BATCH: usize = 1024;
/// What a heartbeat interval may be.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// What it is when the request does not say.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(20);

/// What a watch is asked.
pub struct Ask<P: Placed> {
    /// The last token, or empty.
    pub token: String,
    /// The store that the watch's tokens are of.
    pub tokens: Tokens,
    /// The wished heartbeat interval.
    pub heartbeat: Option<prost_types::Duration>,
    /// Which records.
    pub pass: Arc<dyn Fn(&P) -> bool + Send + Sync>,
}

/// How long a token from a conductor that is ahead is waited for.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Opens a watch. `message` makes a message of an event and the token after it.
pub async fn open<P: Placed, M: Message>(
    records: &Records<P>,
    ask: Ask<P>,
    tasks: &Tasks,
    streams_end: CancellationToken,
    message: fn(Event<P::Resource>, String) -> M,
) -> Result<Frames, Error> {
    let from = match ask.token.as_str() {
        "" => None,
        token => Some(ask.tokens.read(token)?),
    };
    let expired = |why| Error::new(Reason::ResumeTokenExpired, format!("{why}; watch again without it"));
    if let Some(from) = from {
        let caught_up = async {
            while !records.cache.has_seen(from) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let caught_up = tokio::time::timeout(CATCH_UP, caught_up).await;
        caught_up.map_err(|_| expired("this token is of a time that the store does not know"))?;
    }
    let (start, changes) = records
        .cache
        .subscribe(from)
        .map_err(|_| expired("the changes since this token are no longer kept"))?;

    let heartbeat = ask.heartbeat.as_ref().map_or(DEFAULT_HEARTBEAT, kilonova_model::time::to_duration);
    let heartbeat = heartbeat.clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
    let (sender, receiver) = mpsc::channel(BUFFER);
    let (shape, seen) = (Shape::of(message), from.unwrap_or_default());
    let mut watch = Watch { pass: ask.pass, tokens: ask.tokens, sender, shape, seen };
    tasks.spawn(format!("{} watch", P::NOUN), async move {
        let ended = tokio::select! {
            ended = watch.run(start, changes, heartbeat) => ended,
            () = streams_end.cancelled() => {
                Some(Error::new(Reason::Draining, "this conductor is stopping").retry_after(Duration::from_millis(100)))
            }
        };
        if let Some(error) = ended {
            // A reader that is gone needs no reason.
            let _ = watch.sender.try_send(Err(to_status(&error)));
        }
    });
    Ok(Frames::new(ReceiverStream::new(receiver)))
}

struct Watch<P: Placed> {
    pass: Arc<dyn Fn(&P) -> bool + Send + Sync>,
    tokens: Tokens,
    sender: mpsc::Sender<Result<Bytes, Status>>,
    shape: Shape,
    seen: Revision,
}

/// The reader has gone.
struct Gone;

impl<P: Placed> Watch<P> {
    /// Runs until the reader goes (`None`) or has to be ended.
    async fn run(
        &mut self,
        start: Start<P::Id, P>,
        mut changes: broadcast::Receiver<Change<P::Id, P>>,
        heartbeat: Duration,
    ) -> Option<Error> {
        let begun = match start {
            Start::Snapshot(entries, revision) => self.snapshot(entries, revision).await,
            Start::Resume(missed) => match self.changes(missed).await {
                // At once, so that the reader has headers and knows that it resumed.
                Ok(()) => self.send(Part::SnapshotEnd).await,
                gone => gone,
            },
        };
        if begun.is_err() {
            return None;
        }
        loop {
            let first = tokio::select! {
                first = tokio::time::timeout(heartbeat, changes.recv()) => first,
                () = self.sender.closed() => return None,
            };
            let sent = match first {
                Err(_) => self.send(Part::Heartbeat).await,
                Ok(Ok(first)) => {
                    let mut batch = vec![first];
                    while batch.len() < BATCH {
                        match changes.try_recv() {
                            Ok(change) => batch.push(change),
                            Err(TryRecvError::Lagged(_)) => return Some(too_slow()),
                            Err(_) => break,
                        }
                    }
                    self.changes(batch).await
                }
                Ok(Err(RecvError::Lagged(_))) => return Some(too_slow()),
                Ok(Err(RecvError::Closed)) => return Some(went_back()),
            };
            if sent.is_err() {
                return None;
            }
        }
    }

    async fn snapshot(&mut self, entries: Vec<(P::Id, Entry<P>)>, revision: Revision) -> Result<(), Gone> {
        // Until the snapshot is complete there is nowhere to resume from.
        for (_, entry) in entries.into_iter().filter(|(_, entry)| (self.pass)(&entry.record)) {
            self.send_with(Part::Snapshot(&encode(&entry)), "").await?;
        }
        self.seen = revision;
        self.send(Part::SnapshotEnd).await
    }

    /// Sends the newest of each record. The token moves on with the last message only: a reader that stops in
    /// between sees some again, and misses none.
    async fn changes(&mut self, batch: Vec<Change<P::Id, P>>) -> Result<(), Gone> {
        let Some(last) = batch.last().map(|change| change.revision) else { return Ok(()) };
        let events = coalesce(batch, &*self.pass);
        let count = events.len();
        for (position, event) in events.into_iter().enumerate() {
            if position + 1 == count {
                self.seen = last;
            }
            match event {
                Said::Update(newest) => self.send(Part::Update(newest.encoded())).await?,
                Said::Delete(id) => self.send(Part::Delete(&id)).await?,
            }
        }
        self.seen = last;
        Ok(())
    }

    async fn send(&self, part: Part<'_>) -> Result<(), Gone> {
        self.send_with(part, &self.tokens.after(self.seen)).await
    }

    async fn send_with(&self, part: Part<'_>, token: &str) -> Result<(), Gone> {
        self.sender.send(Ok(self.shape.frame(part, token))).await.map_err(|_| Gone)
    }
}

/// What users see of a record, on the wire.
fn encode<P: Placed>(entry: &Entry<P>) -> Bytes {
    entry.record.shown(entry.etag()).encode_to_vec().into()
}

/// What a watcher is told of a batch of changes.
enum Said<P> {
    /// This is now the record.
    Update(Newest<P>),
    /// The record with this id is gone.
    Delete(String),
}

/// A record that passes, and where its encoded form is kept for all who send it.
struct Newest<P> {
    entry: Entry<P>,
    encoded: Arc<OnceLock<Bytes>>,
}

impl<P: Placed> Newest<P> {
    fn encoded(&self) -> &[u8] {
        self.encoded.get_or_init(|| encode(&self.entry))
    }
}

/// What a watcher with this filter sees of a batch of changes, one event a record, in the order of their first change.
/// A record that passed at any moment of the batch and no longer does is deleted: a watcher that resumes may have seen it.
fn coalesce<P: Placed>(batch: Vec<Change<P::Id, P>>, pass: &dyn Fn(&P) -> bool) -> Vec<Said<P>> {
    let passes = |entry: &Option<Entry<P>>| entry.as_ref().is_some_and(|entry| pass(&entry.record));
    let mut order = Vec::new();
    let mut merged: HashMap<P::Id, (bool, Option<Newest<P>>)> = HashMap::new();
    for Change { id, before, after, encoded, .. } in batch {
        let (passed, newest) = merged.entry(id).or_insert_with(|| {
            order.push(id);
            (passes(&before), None)
        });
        let pass = passes(&after);
        *passed |= pass;
        *newest = after.filter(|_| pass).map(|entry| Newest { entry, encoded });
    }
    let said = |id: P::Id| match merged.remove(&id)? {
        (_, Some(newest)) => Some(Said::Update(newest)),
        (true, None) => Some(Said::Delete(id.to_string())),
        (false, None) => None,
    };
    order.into_iter().filter_map(said).collect()
}

fn too_slow() -> Error {
    Error::new(Reason::SlowConsumer, "changes came faster than they were read; reconnect with the last token")
}

fn went_back() -> Error {
    Error::new(
        Reason::ResumeTokenExpired,
        "the store was set back to an earlier state; watch again without a token",
    )
}

#[cfg(test)]
mod tests {
    use kilonova_model::InstanceId;
    use kilonova_proto::conductor::v1::InstanceRecord;

    use super::*;

    fn entry(project: &str, revision: u64) -> Option<Entry<InstanceRecord>> {
        let mut record = InstanceRecord::default();
        record.instance.get_or_insert_default().project_id = project.into();
        Some(Entry { record: Arc::new(record), revision: Revision(revision) })
    }

    fn change(
        id: InstanceId,
        before: Option<Entry<InstanceRecord>>,
        after: Option<Entry<InstanceRecord>>,
    ) -> Change<InstanceId, InstanceRecord> {
        Change { id, before, after, revision: Revision(9), encoded: Arc::default() }
    }

    fn in_a(record: &InstanceRecord) -> bool {
        record.project_id() == "a"
    }

    #[test]
    fn changes_of_one_record_become_one() {
        let id = InstanceId::generate();
        let batch = vec![change(id, None, entry("a", 1)), change(id, entry("a", 1), entry("a", 2))];
        let said = coalesce(batch, &in_a);
        assert!(matches!(said.as_slice(), [Said::Update(newest)] if newest.entry.etag() == "2"));
    }

    #[test]
    fn leaving_the_filter_is_a_delete_and_never_being_in_it_is_nothing() {
        let (left, other) = (InstanceId::generate(), InstanceId::generate());
        let batch = vec![
            change(left, entry("a", 1), entry("b", 2)),
            change(other, None, entry("b", 3)),
            change(other, entry("b", 3), None),
        ];
        let said = coalesce(batch, &in_a);
        assert!(matches!(said.as_slice(), [Said::Delete(id)] if *id == left.to_string()));
    }

    #[test]
    fn what_came_and_went_in_one_batch_is_deleted() {
        let id = InstanceId::generate();
        let batch = vec![change(id, None, entry("a", 1)), change(id, entry("a", 1), entry("b", 2))];
        let said = coalesce(batch, &in_a);
        assert!(matches!(said.as_slice(), [Said::Delete(gone)] if *gone == id.to_string()));
    }

    #[test]
    fn what_two_watchers_are_sent_is_encoded_once() {
        let batch = vec![change(InstanceId::generate(), None, entry("a", 1))];
        let sent = [batch.clone(), batch].map(|batch| match coalesce(batch, &in_a).remove(0) {
            Said::Update(newest) => newest.encoded().as_ptr(),
            Said::Delete(id) => panic!("{id} is there"),
        });
        assert_eq!(sent[0], sent[1]);
    }
}
