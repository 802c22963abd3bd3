//! Records in memory, kept current by watching the store.
//!
//! Two paths lead in. The *watch* brings every change of every conductor, in the order of revisions; it alone feeds
//! subscribers, so that what they see is ordered and a revision is a place to resume from. A *commit* of this
//! process is entered at once, so that a conductor reads what it wrote; what the watch last said of it is kept beside until
//! the watch has brought it too, so that subscribers are told the whole change.
//!
//! A store that went back to an earlier state is another history: all is read anew, subscribers are ended, and what is
//! no longer there is said.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::StreamExt;
use kilonova_model::Revision;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::{Key, Keys};
use kilonova_store::{KeyValue, SharedStore, WatchEvent, WatchFrom};
use parking_lot::RwLock;
use tokio::sync::{broadcast, watch};

use crate::db::decode;

/// How many changes are kept for subscribers that resume.
const KEPT_CHANGES: usize = 16_384;
/// How many records that are lost are named in the log.
const NAMED: usize = 100;
/// How far a subscriber may fall behind before it is ended.
const SUBSCRIBER_LAG: usize = 4_096;

/// A record and the revision of its last change.
#[derive(Debug)]
pub struct Entry<R> {
    /// The record.
    pub record: Arc<R>,
    /// The revision of its last change.
    pub revision: Revision,
}

impl<R> Clone for Entry<R> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone(), revision: self.revision }
    }
}

impl<R> Entry<R> {
    /// What users compare to see whether it changed.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}", self.revision.0)
    }
}

/// One change, as subscribers see it.
#[derive(Debug)]
pub struct Change<K, R> {
    /// Whose.
    pub id: K,
    /// What it was; none when it is new.
    pub before: Option<Entry<R>>,
    /// What it is; none when it is gone.
    pub after: Option<Entry<R>>,
    /// When, in the store's history.
    pub revision: Revision,
    /// What it is, as users see it, encoded by the first who sends it to one.
    pub encoded: Arc<OnceLock<Bytes>>,
}

impl<K: Clone, R> Clone for Change<K, R> {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
            revision: self.revision,
            encoded: self.encoded.clone(),
        }
    }
}

/// What a subscriber starts from.
#[derive(Debug)]
pub enum Start<K, R> {
    /// Everything, as of a revision.
    Snapshot(Vec<(K, Entry<R>)>, Revision),
    /// The changes since the revision it named.
    Resume(Vec<Change<K, R>>),
}

/// Where a subscriber starts, and what follows.
pub type Subscription<K, R> = (Start<K, R>, broadcast::Receiver<Change<K, R>>);

/// Records with their ids, and whether there are more.
pub type Page<K, R> = (Vec<(K, Entry<R>)>, bool);

/// The revision a subscriber named is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// All records of one type.
pub struct Cache<K, R> {
    shared: Arc<Shared<K, R>>,
}

impl<K, R> Clone for Cache<K, R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K, R> {
    /// What the records are called.
    name: &'static str,
    state: RwLock<State<K, R>>,
    filled: watch::Sender<bool>,
}

impl<K: Ord, R> State<K, R> {
    fn new() -> Self
    where
        K: Clone,
    {
        Self {
            entries: BTreeMap::new(),
            behind: BTreeMap::new(),
            changes: broadcast::Sender::new(SUBSCRIBER_LAG),
            log: VecDeque::new(),
            log_start: Revision(0),
            seen: Revision(0),
        }
    }
}

struct State<K, R> {
    entries: BTreeMap<K, Entry<R>>,
    /// What the watch last said of records whose entry is ahead of it.
    behind: BTreeMap<K, Option<Entry<R>>>,
    /// To the subscribers. Replaced when the store went back, which ends them.
    changes: broadcast::Sender<Change<K, R>>,
    log: VecDeque<Change<K, R>>,
    /// Changes after this revision are all in the log.
    log_start: Revision,
    /// The watch has brought everything up to here.
    seen: Revision,
}

impl<K, R> Cache<K, R>
where
    K: Clone + Ord + Debug + Send + Sync + 'static,
    R: prost::Message + Default + PartialEq + 'static,
{
    /// Follows the keys under `prefix` in a task of `tasks`; `id_of` says which of them belong here.
    pub fn follow(
        name: &'static str,
        store: &SharedStore,
        keys: &Keys,
        prefix: String,
        id_of: fn(Key) -> Option<K>,
        tasks: &Tasks,
    ) -> Self {
        let cache = Self::new(name);
        let follower = cache.clone();
        let keys = keys.clone();
        let mut events = store.watch(&prefix, WatchFrom::Snapshot);
        tasks.spawn(name, async move {
            while let Some(event) = events.next().await {
                follower.take(event, &|key| keys.parse(key).and_then(id_of));
            }
        });
        cache
    }

    fn new(name: &'static str) -> Self {
        let (state, filled) = (RwLock::new(State::new()), watch::Sender::new(false));
        Self { shared: Arc::new(Shared { name, state, filled }) }
    }

    /// Waits until the store has been read once.
    pub async fn filled(&self) {
        let mut filled = self.shared.filled.subscribe();
        // The sender lives as long as `self`.
        let _ = filled.wait_for(|filled| *filled).await;
    }

    /// One record.
    #[must_use]
    pub fn get(&self, id: &K) -> Option<Entry<R>> {
        self.shared.state.read().entries.get(id).cloned()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.state.read().entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `limit` records after `after` that pass, in the order of their ids, and whether there are more.
    pub fn page(&self, after: Option<&K>, limit: usize, pass: impl Fn(&K, &R) -> bool) -> Page<K, R> {
        use std::ops::Bound::{Excluded, Unbounded};
        let state = self.shared.state.read();
        let range = state.entries.range((after.map_or(Unbounded, Excluded), Unbounded));
        let mut passing = range.filter(|(id, entry)| pass(id, &entry.record));
        let page = passing.by_ref().take(limit).map(|(id, entry)| (id.clone(), entry.clone())).collect();
        (page, passing.next().is_some())
    }

    /// The ids of all records that pass.
    pub fn ids(&self, pass: impl Fn(&K, &R) -> bool) -> Vec<K> {
        let state = self.shared.state.read();
        state.entries.iter().filter(|(id, entry)| pass(id, &entry.record)).map(|(id, _)| id.clone()).collect()
    }

    /// Enters what this process committed.
    pub fn committed(&self, id: K, record: Arc<R>, revision: Revision) {
        let mut state = self.shared.state.write();
        let known = state.entries.get(&id).map_or(state.seen, |entry| entry.revision.max(state.seen));
        if revision > known {
            let before = state.entries.insert(id.clone(), Entry { record, revision });
            state.behind.entry(id).or_insert(before);
        }
    }

    /// Every change from now on, after what the subscriber missed.
    pub fn subscribe(&self, from: Option<Revision>) -> Result<Subscription<K, R>, Expired> {
        // The lock is held while subscribing, so that nothing falls between the snapshot and the first change.
        let state = self.shared.state.write();
        let receiver = state.changes.subscribe();
        let start = match from {
            None => {
                let all = state.entries.iter().map(|(id, entry)| (id.clone(), entry.clone())).collect();
                Start::Snapshot(all, state.seen)
            }
            Some(revision) if revision < state.log_start => return Err(Expired),
            Some(revision) => {
                Start::Resume(state.log.iter().filter(|c| c.revision > revision).cloned().collect())
            }
        };
        Ok((start, receiver))
    }

    /// Waits until the watch has brought everything up to a revision.
    pub async fn until_seen(&self, revision: Revision) {
        // Marked as changed with every event.
        let mut events = self.shared.filled.subscribe();
        while !self.has_seen(revision) {
            // The sender lives as long as `self`.
            let _ = events.changed().await;
        }
    }

    /// Up to where the watch has brought everything.
    #[must_use]
    pub fn seen(&self) -> Revision {
        self.shared.state.read().seen
    }

    /// Whether the watch has brought everything up to a revision.
    #[must_use]
    pub fn has_seen(&self, revision: Revision) -> bool {
        self.seen() >= revision
    }

    fn take(&self, event: WatchEvent, id_of: &dyn Fn(&str) -> Option<K>) {
        let mut state = self.shared.state.write();
        let revision = event.revision();
        match event {
            WatchEvent::Snapshot { items, went_back, .. } => {
                let items: Vec<_> = items.iter().filter_map(|item| read(item, id_of)).collect();
                if went_back || revision < state.seen {
                    let before = std::mem::replace(&mut *state, State::new());
                    self.say_what_is_lost(&before, &items, revision);
                    state.relist(items, revision);
                    // A subscriber that names an earlier revision may mean one of the other history.
                    state.log_start = state.log_start.max(before.seen);
                } else {
                    state.relist(items, revision);
                }
            }
            WatchEvent::Put(item) => {
                if let Some((id, entry)) = read(&item, id_of) {
                    state.apply(id, Some(entry), revision);
                }
            }
            WatchEvent::Delete { key, .. } => {
                if let Some(id) = id_of(&key) {
                    state.apply(id, None, revision);
                }
            }
        }
        state.seen = state.seen.max(revision);
        drop(state);
        self.shared.filled.send_replace(true);
    }
}

impl<K: Ord + Debug, R> Cache<K, R> {
    fn say_what_is_lost(&self, before: &State<K, R>, items: &[(K, Entry<R>)], revision: Revision) {
        let now: BTreeMap<&K, Revision> = items.iter().map(|(id, entry)| (id, entry.revision)).collect();
        let lost: Vec<&K> = before.entries.keys().filter(|id| !now.contains_key(id)).collect();
        let is_older =
            |(id, entry): &(&K, &Entry<R>)| now.get(id).is_some_and(|revision| *revision < entry.revision);
        let set_back = before.entries.iter().filter(is_older).count();
        let records = self.shared.name;
        tracing::error!(
            records, seen = %before.seen, now = %revision, lost = lost.len(), set_back,
            named = ?lost.iter().take(NAMED).collect::<Vec<_>>(),
            "the store went back; records that were known are gone, or as they were before"
        );
        let counter =
            |fate| metrics::counter!("conductor_records_lost_total", "records" => records, "fate" => fate);
        counter("gone").increment(lost.len() as u64);
        counter("set_back").increment(set_back as u64);
    }
}

impl<K: Clone + Ord, R> State<K, R> {
    /// Takes all there is at a revision. What happened before it can no longer be told step by step.
    fn relist(&mut self, items: Vec<(K, Entry<R>)>, revision: Revision) {
        let mut gone: BTreeSet<K> = self.entries.keys().cloned().collect();
        for (id, entry) in items {
            gone.remove(&id);
            if self.seen == Revision(0) {
                self.entries.insert(id, entry);
            } else if self.entries.get(&id).is_none_or(|known| known.revision < entry.revision)
                || self.behind.contains_key(&id)
            {
                self.apply(id, Some(entry), revision);
            }
        }
        for id in gone {
            if self.entries.get(&id).is_some_and(|entry| entry.revision <= revision) {
                self.apply(id, None, revision);
            }
        }
        self.log.clear();
        self.log_start = revision;
    }

    /// Takes one change that the watch brings.
    fn apply(&mut self, id: K, after: Option<Entry<R>>, revision: Revision) {
        let ahead = self.entries.get(&id).is_some_and(|known| known.revision > revision);
        let told = self.behind.remove(&id);
        let before = if ahead {
            // A later commit of this process stays; subscribers still get this one, in its order.
            self.behind.insert(id.clone(), after.clone());
            told.unwrap_or_default()
        } else {
            let known = match &after {
                Some(entry) => self.entries.insert(id.clone(), entry.clone()),
                None => self.entries.remove(&id),
            };
            told.unwrap_or(known)
        };
        let change = Change { id, before, after, revision, encoded: Arc::default() };
        self.log.push_back(change.clone());
        if self.log.len() > KEPT_CHANGES
            && let Some(dropped) = self.log.pop_front()
        {
            self.log_start = self.log_start.max(dropped.revision);
        }
        // No receiver is no error.
        let _ = self.changes.send(change);
    }
}

fn read<K, R: prost::Message + Default>(
    item: &KeyValue,
    id_of: &dyn Fn(&str) -> Option<K>,
) -> Option<(K, Entry<R>)> {
    let id = id_of(&item.key)?;
    match decode::<R>(item) {
        Ok(read) => Some((id, Entry { record: Arc::new(read.record), revision: read.revision })),
        Err(error) => {
            tracing::error!(key = item.key, %error, "a record cannot be read and is passed over");
            None
        }
    }
}

#[cfg(test)]
mod tests;
