//! One watch: pulls from the ring, and reads a snapshot when the ring does not go back far enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use kilonova_model::Revision;
use tokio::sync::watch;

use super::database;
use super::hub::{Hub, Tip};
use super::readers::Readers;
use crate::page::PageRequest;
use crate::{StoreError, Watch, WatchEvent, WatchFrom, WatchHealth};

const RETRY_SNAPSHOT: Duration = Duration::from_millis(200);

struct Follower {
    prefix: String,
    request: PageRequest,
    hub: Arc<Hub>,
    readers: Arc<Readers>,
    tip: watch::Receiver<Tip>,
    /// All up to here has been reported or is pending; none before the snapshot.
    cursor: Option<Revision>,
    /// The cursor came from the consumer and may be no revision of this store.
    unchecked: bool,
    /// It was none.
    foreign: bool,
    pending: VecDeque<WatchEvent>,
    health: watch::Sender<WatchHealth>,
}

/// Follows a prefix until the hub closes.
pub(super) fn follow(prefix: &str, from: WatchFrom, hub: &Arc<Hub>, readers: &Arc<Readers>) -> Watch {
    let cursor = match from {
        WatchFrom::Snapshot => None,
        WatchFrom::After(revision) => Some(revision),
    };
    let (health, healthy) = watch::channel(WatchHealth::now(true));
    let follower = Follower {
        prefix: prefix.to_owned(),
        request: PageRequest::first(prefix, 1),
        hub: Arc::clone(hub),
        readers: Arc::clone(readers),
        tip: hub.subscribe(),
        cursor,
        unchecked: true,
        foreign: false,
        pending: VecDeque::new(),
        health,
    };
    Watch::new(events(follower), healthy)
}

fn events(follower: Follower) -> impl Stream<Item = WatchEvent> + Send {
    futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await;
        if event.is_none() {
            follower.set_connected(false);
        }
        event.map(|event| (event, follower))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            let tip = *self.tip.borrow_and_update();
            if !tip.open {
                return None;
            }
            if self.unchecked {
                self.check_cursor(tip).await;
            }
            match self.cursor.and_then(|cursor| Some((cursor, self.hub.since(cursor)?))) {
                None => match self.snapshot().await {
                    Ok(snapshot) => return Some(snapshot),
                    Err(error) => self.wait_after(&error).await,
                },
                Some((_, batches)) if batches.is_empty() => self.tip.changed().await.ok()?,
                Some((cursor, batches)) => {
                    let changes = batches.iter().flat_map(|batch| &batch.events);
                    let ours =
                        changes.filter(|event| event.revision() > cursor && concerns(&self.prefix, event));
                    self.pending.extend(ours.cloned());
                    self.cursor = batches.last().map(|batch| batch.last);
                }
            }
        }
    }

    /// Drops a cursor that this store never reached: it belongs to another one, or to one that was restored.
    /// A reader may be ahead of the ring, never of the file.
    async fn check_cursor(&mut self, tip: Tip) {
        if let Some(cursor) = self.cursor
            && cursor > tip.revision
            && !matches!(self.readers.run(database::revision).await, Ok(reached) if cursor <= reached)
        {
            (self.cursor, self.foreign) = (None, true);
        }
        self.unchecked = false;
    }

    async fn snapshot(&mut self) -> Result<WatchEvent, StoreError> {
        let request = self.request.clone();
        let (items, revision) = self.readers.run(move |db| database::everything(db, &request)).await?;
        self.cursor = Some(revision);
        self.set_connected(true);
        let went_back = std::mem::take(&mut self.foreign);
        Ok(WatchEvent::Snapshot { items, revision, went_back })
    }

    async fn wait_after(&self, error: &StoreError) {
        tracing::warn!(%error, prefix = self.prefix, "cannot read the snapshot of a watch");
        self.set_connected(false);
        tokio::time::sleep(RETRY_SNAPSHOT).await;
    }

    fn set_connected(&self, connected: bool) {
        self.health.send_if_modified(|health| {
            let changed = health.connected != connected;
            if changed {
                *health = WatchHealth::now(connected);
            }
            changed
        });
    }
}

fn concerns(prefix: &str, event: &WatchEvent) -> bool {
    match event {
        WatchEvent::Put(item) => item.key.starts_with(prefix),
        WatchEvent::Delete { key, .. } => key.starts_with(prefix),
        WatchEvent::Snapshot { .. } => false,
    }
}
