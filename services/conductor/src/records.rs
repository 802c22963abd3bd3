//! The records of one type: read from memory, changed by compare-and-swap.

use std::sync::Arc;

use kilonova_model::{Error, FieldViolation};
use kilonova_runtime::tasks::Tasks;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::barrier::Barrier;
use crate::cache::{Cache, Entry};
use crate::db::{Db, conflict};
use crate::history;
use crate::placed::Placed;
use crate::shards::Fence;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;
/// The most bytes of a new record: it grows with what is done, and has to fit into a transaction with others.
pub const MAX_NEW: usize = 256 * 1024;
/// The most bytes of a record with its history; past them the oldest of that is dropped.
const MAX_RECORD: usize = 512 * 1024;

/// The records of one type. Clones share them.
pub struct Records<P: Placed> {
    /// The store.
    pub db: Db,
    /// The memory.
    pub cache: Cache<P::Id, P>,
    barrier: Arc<Barrier>,
}

impl<P: Placed> Clone for Records<P> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), cache: self.cache.clone(), barrier: self.barrier.clone() }
    }
}

/// How a fenced write ended.
pub enum Written<P> {
    /// It is stored.
    Stored(Entry<P>),
    /// The record, or another key the write compared, had changed; nothing was written.
    Changed,
    /// The shard is no longer this conductor's; nothing was written.
    Fenced,
}

/// A record that can always be written again: its history gives way.
fn bounded<P: Placed>(mut record: P) -> P {
    let size = record.encoded_len();
    if size > MAX_RECORD {
        let history = record.actions().iter().map(Message::encoded_len).sum::<usize>();
        history::shrink(record.actions_mut(), MAX_RECORD.saturating_sub(size - history.min(size)));
    }
    record
}

/// Refuses a new record that would leave no room for what is done with it.
pub fn check_size<P: Placed>(record: &P) -> Result<(), Error> {
    let size = record.encoded_len();
    if size <= MAX_NEW {
        return Ok(());
    }
    let description = format!(
        "takes {size} bytes with its flavor and image, and {MAX_NEW} is the most: shorten its metadata"
    );
    Err(Error::invalid(vec![FieldViolation { field: P::NOUN.to_owned(), description }]))
}

impl<P: Placed> Records<P> {
    /// Follows the store.
    pub fn follow(name: &'static str, db: &Db, tasks: &Tasks) -> Self {
        let id_of = |key: kilonova_store::keys::Key| P::id_of(&key);
        let cache = Cache::follow(name, &db.store, &db.keys, P::prefix(&db.keys), id_of, tasks);
        Self { db: db.clone(), cache, barrier: Arc::default() }
    }

    /// Waits until memory has all that was committed before this was called.
    pub async fn brought_up_to_date(&self) -> Result<(), Error> {
        self.barrier.pass(&self.db, &P::prefix(&self.db.keys), &self.cache).await
    }

    /// One record, from memory or else from the store.
    pub async fn get(&self, id: P::Id) -> Result<Option<Entry<P>>, Error> {
        match self.cache.get(&id) {
            Some(entry) => Ok(Some(entry)),
            None => self.read(id).await,
        }
    }

    /// One record, from the store.
    pub async fn read(&self, id: P::Id) -> Result<Option<Entry<P>>, Error> {
        let read = self.db.read::<P>(&P::key(&self.db.keys, id)).await?;
        Ok(read.map(|read| Entry { record: Arc::new(read.record), revision: read.revision }))
    }

    /// The answer when there is none of that id.
    #[must_use]
    pub fn not_found(id: P::Id) -> Error {
        Error::new(P::NOT_FOUND, format!("no {} {id}", P::NOUN)).with(&format!("{}_id", P::NOUN), id)
    }

    /// Changes a record on behalf of a user or an agent: `change` sees it as it is and answers with what it should be,
    /// or `None` to leave it. Tried again when somebody else was faster.
    ///
    /// Memory may be a moment behind the store. A change made on it is judged by the store when it is written; a
    /// verdict *not* to change, or a refusal, is not, and so is only believed of what was read from the store.
    pub async fn modify(
        &self,
        id: P::Id,
        change: impl FnMut(&Entry<P>) -> Result<Option<P>, Error> + Send,
    ) -> Result<Option<Entry<P>>, Error> {
        self.modify_with(id, &Txn::new(), change).await
    }

    /// Like [`modify`](Self::modify), in one transaction with `with`.
    pub async fn modify_with(
        &self,
        id: P::Id,
        with: &Txn,
        mut change: impl FnMut(&Entry<P>) -> Result<Option<P>, Error> + Send,
    ) -> Result<Option<Entry<P>>, Error> {
        let remembered = self.cache.get(&id);
        let mut from_store = remembered.is_none();
        let mut current = if from_store { self.read(id).await? } else { remembered };
        for _ in 0..TRIES {
            let Some(entry) = current else { return Ok(None) };
            match change(&entry) {
                Ok(Some(record)) => {
                    if let Written::Stored(entry) = self.write(id, &entry, record, None, with.clone()).await?
                    {
                        return Ok(Some(entry));
                    }
                }
                verdict if from_store => return verdict.map(|_| Some(entry)),
                _ => {}
            }
            current = self.read(id).await?;
            from_store = true;
        }
        Err(conflict(&format!("{} {id}", P::NOUN)))
    }

    /// Puts a record if it is still as `read`: a part of a transaction that is about others, too.
    #[must_use]
    pub fn put(&self, id: P::Id, read: &Entry<P>, record: &P) -> Txn {
        let key = P::key(&self.db.keys, id);
        Txn::new().when(Compare::ModRevision(key.clone(), read.revision)).put(key, record.encode_to_vec())
    }

    /// Writes a record if it is still as `read`, the fence holds and so does all that `with` compares.
    pub async fn write(
        &self,
        id: P::Id,
        read: &Entry<P>,
        record: P,
        fence: Option<&Fence>,
        with: Txn,
    ) -> Result<Written<P>, Error> {
        let key = P::key(&self.db.keys, id);
        let record = Arc::new(bounded(record));
        let mut txn = Txn::new();
        if let Some(fence) = fence {
            txn = txn.when(fence.holds());
        }
        txn = txn.when(Compare::ModRevision(key.clone(), read.revision)).put(key, record.encode_to_vec());
        match self.db.commit(txn.and(with)).await? {
            TxnOutcome::Committed { revision } => {
                self.cache.committed(id, record.clone(), revision);
                Ok(Written::Stored(Entry { record, revision }))
            }
            TxnOutcome::Conflict { failed, .. } if fence.is_some() && failed.contains(&0) => {
                Ok(Written::Fenced)
            }
            TxnOutcome::Conflict { .. } => Ok(Written::Changed),
        }
    }
}
