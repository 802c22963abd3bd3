//! Which store the cell has: an id that agents remember beside their data, and by which they notice that the store is another one,
//! or is not as far as it was.
//!
//! ```text
//!   no record ──► made, not accepted          agents that remember none adopt it; others wait
//!   no record, and this conductor knew of one ──► another id, not accepted: all agents wait
//!   an agent was told of what is not there ──► another id, not accepted: all agents wait
//!   the data have another lineage ──► another id, not accepted: all agents wait
//!   an agent remembers one of the same origin that is not known ──► another id, not accepted: all agents wait
//!   an agent remembers one of another origin ──► that agent waits
//!   `kilonova store accept` ──► accepted: agents that remember what it is in the place of adopt it
//!   the hosts that are there have compared what they have with it ──► compared: conductors drive
//! ```
//!
//! An acceptance is in the data, and so in every copy of them. So it holds for certain ids only: those the store had before, and
//! those that agents remembered by then. Of a copy of an accepted store, agents remember what came after, which is not among them.
//!
//! What agents are told is a revision and a mark. An earlier copy has a smaller revision, until it has grown past that; by then it still
//! lacks every mark that was made after it was taken. Conductors make one at their start and every few seconds, and send the newest with
//! each command. A mark is kept for a day (`identity/mark.rs`): of a host that was away for longer only the revision is compared.
//!
//! While a store that was set back is not accepted, and compared, conductors own no shards, so that nothing is driven, moved, purged or forgotten
//! by what it says, and nothing is made a second time that a host will be found to have. What is asked of them meanwhile is accepted, and waits.
//!
//! Every change compares the record that was read, so that conductors that notice the same at once make one new id.

mod follow;
mod mark;

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_model::{Error, Reason, Revision, StoreId};
use kilonova_proto::conductor::v1::StoreRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tokio::sync::watch;

use self::mark::Mark;
use crate::db::{Db, conflict, decode, store_error};

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;

/// The identity of the cell's store. Clones share it.
#[derive(Clone)]
pub struct StoreIdentity {
    db: Db,
    /// As it was last read or written; empty before.
    known: Arc<watch::Sender<pb::Store>>,
}

/// The largest number of ids that a store is known to be in the place of; agents that remember an older one wait.
const REPLACED: usize = 64;
/// The largest number of ids of which agents wait at once.
const WAITING: usize = 16;

/// What an agent remembers of the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Remembered<'a> {
    /// The id.
    pub id: &'a str,
    /// The id of the first store in whose place it came; empty if it knows none.
    pub origin: &'a str,
    /// How far it had come.
    pub revision: Revision,
    /// The newest mark; empty if it knows none.
    pub mark: &'a str,
}

/// The record as it was read.
#[derive(Clone)]
struct Seen {
    store: pb::Store,
    lineage: u64,
    revision: Revision,
}

impl StoreIdentity {
    /// Of this store.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, known: Arc::new(watch::Sender::default()) }
    }

    /// The id, as this conductor saw it last; from the store only if it never did.
    pub async fn known(&self) -> Result<String, Error> {
        let known = self.id();
        if known.is_empty() { self.current().await.map(|store| store.id) } else { Ok(known) }
    }

    /// The id, as this conductor saw it last; empty if it never did.
    #[must_use]
    pub fn id(&self) -> String {
        self.known.borrow().id.clone()
    }

    /// The newest mark, as this conductor saw it last; empty if it never did.
    #[must_use]
    pub fn mark(&self) -> String {
        self.known.borrow().mark.clone()
    }

    /// Whether records are not to be driven, because the store is not what it was, and not accepted and compared.
    #[must_use]
    pub fn waits(&self) -> bool {
        waits(&self.known.borrow())
    }

    /// Waits until it is known whether records are to be driven, and they are, or are not.
    pub async fn until(&self, driven: bool) {
        let is_so = |store: &pb::Store| !store.id.is_empty() && waits(store) != driven;
        // The sender lives as long as `self`.
        let _ = self.known.subscribe().wait_for(is_so).await;
    }

    /// Waits until there is a store that is accepted and not compared.
    pub async fn until_to_compare(&self) -> pb::Store {
        let is_so = |store: &pb::Store| !store.previous_id.is_empty() && store.accepted && !store.compared;
        let mut known = self.known.subscribe();
        // The sender lives as long as `self`.
        known.wait_for(is_so).await.map_or_else(|_| pb::Store::default(), |store| store.clone())
    }

    /// The hosts have compared what they have with this store.
    pub async fn set_compared(&self, id: &str) -> Result<pb::Store, Error> {
        let compared = |now: &pb::Store| {
            let is_to_be = now.id == id && now.accepted && !now.compared;
            is_to_be.then(|| pb::Store { compared: true, ..now.clone() })
        };
        self.change(compared).await.map(|(store, _)| store)
    }

    /// Which store it is, and how far it has come; one that has no identity gets one.
    pub async fn current(&self) -> Result<pb::Store, Error> {
        self.seen().await.map(|seen| seen.store)
    }

    /// The record, once it has an identity that is of these data.
    async fn seen(&self) -> Result<Seen, Error> {
        for _ in 0..TRIES {
            let seen = self.read().await?;
            let lineage = self.lineage().await?;
            if !seen.store.id.is_empty() && seen.lineage == lineage {
                return Ok(seen);
            }
            let store = match seen.store.id.as_str() {
                // What this conductor knew of is lost, if it knew of any.
                "" => made(&self.known.borrow()),
                // Of an earlier version, which did not write it down.
                _ if seen.lineage == 0 => seen.store.clone(),
                _ => made(&seen.store),
            };
            if let Some(store) = self.write(Txn::new(), &Seen { lineage, ..seen.clone() }, store).await? {
                match store.previous_id.as_str() {
                    _ if store.id == seen.store.id => {}
                    "" => tracing::info!(id = store.id, "the store had no identity: it has one now"),
                    previous => tracing::error!(
                        id = store.id,
                        previous,
                        "the store's data are not those that it had: agents remove nothing until `kilonova store accept`"
                    ),
                }
            }
        }
        Err(conflict("the store's identity"))
    }

    /// Changes the record, again if somebody else was faster. Gives the store as it is then, and says whether this changed it: not if
    /// `change` has none for what it is given.
    async fn change(
        &self,
        change: impl Fn(&pb::Store) -> Option<pb::Store>,
    ) -> Result<(pb::Store, bool), Error> {
        for _ in 0..TRIES {
            let seen = self.seen().await?;
            let Some(changed) = change(&seen.store) else { return Ok((seen.store, false)) };
            if let Some(store) = self.write(Txn::new(), &seen, changed).await? {
                return Ok((store, true));
            }
        }
        Err(conflict("the store's identity"))
    }

    /// Which store it is, once that is compared with what an agent remembers: one that is not as far as it was gets another id.
    pub async fn compared(&self, remembered: Remembered<'_>) -> Result<pb::Store, Error> {
        let store = self.current().await?;
        let id = remembered.id;
        if id.is_empty() || store.replaced_ids.iter().any(|replaced| replaced == id) {
            return Ok(store);
        }
        if id != store.id {
            return self.awaited(store, remembered).await;
        }
        let is_as_far = remembered.revision <= Revision(store.revision);
        if is_as_far && self.has(&store, remembered.mark).await? {
            return Ok(store);
        }
        tracing::error!(
            id = store.id, revision = store.revision, remembered = %remembered.revision, mark = remembered.mark,
            "the store was set back: agents remove nothing until `kilonova store accept`"
        );
        self.renew_identity(remembered.id).await
    }

    /// The store, once it is written down that an agent remembers another one, and waits. If that one came after this, this was set back.
    async fn awaited(&self, store: pb::Store, remembered: Remembered<'_>) -> Result<pb::Store, Error> {
        let id = remembered.id.to_owned();
        if store.origin_id == remembered.origin {
            tracing::error!(
                id = store.id,
                remembered = id,
                "the store was set back to before it had the id that an agent remembers: agents remove nothing until `kilonova store accept`"
            );
            return self.renew(&store.id, Some(&id)).await;
        }
        if store.waiting_ids.contains(&id) || store.waiting_ids.len() >= WAITING {
            return Ok(store);
        }
        tracing::error!(
            id = store.id,
            remembered = id,
            "an agent remembers another store: it removes nothing until it finds that one, or until `kilonova store accept`"
        );
        let noted = |now: &pb::Store| {
            let is_to_be = now.id == store.id && !now.waiting_ids.contains(&id);
            is_to_be.then(|| {
                let mut noted = now.clone();
                remember(&mut noted.waiting_ids, &id, WAITING);
                noted
            })
        };
        self.change(noted).await.map(|(store, _)| store)
    }

    /// Whether the store has a mark, as far as that can be said.
    async fn has(&self, store: &pb::Store, mark: &str) -> Result<bool, Error> {
        let Ok(known) = mark.parse::<Mark>() else { return Ok(true) };
        match known.is_kept(store.mark.parse().ok()) {
            _ if mark == store.mark => Ok(true),
            None => Ok(false),
            Some(false) => Ok(true),
            Some(true) => {
                let (found, _) =
                    self.db.store.get(&self.db.keys.mark(known.number)).await.map_err(store_error)?;
                Ok(found.is_some_and(|found| found.value == mark))
            }
        }
    }

    /// Gives the store another id if it has this one still: it is not what it was. Agents wait for an administrator then.
    pub async fn renew_identity(&self, id: &str) -> Result<pb::Store, Error> {
        self.renew(id, None).await
    }

    /// The same, in the place also of the store that an agent remembers.
    async fn renew(&self, id: &str, remembered: Option<&str>) -> Result<pb::Store, Error> {
        let renewed = |now: &pb::Store| {
            (now.id == id).then(|| {
                let mut renewed = made(now);
                if let Some(id) = remembered {
                    remember(&mut renewed.replaced_ids, id, REPLACED);
                }
                renewed
            })
        };
        let (store, is_changed) = self.change(renewed).await?;
        if is_changed {
            tracing::error!(id = store.id, previous = id, "the store has a new identity");
        }
        Ok(store)
    }

    /// An administrator says that this is the store to go by.
    pub async fn accept(&self, id: &str, who: &str) -> Result<pb::Store, Error> {
        let accepted = |now: &pb::Store| {
            let is_to_be = now.id == id && !(now.accepted && now.waiting_ids.is_empty());
            is_to_be.then(|| {
                let mut accepted = pb::Store {
                    accepted: true,
                    compared: false,
                    accept_time: Some(timestamp(SystemTime::now())),
                    accepted_by: who.to_owned(),
                    ..now.clone()
                };
                for waiting in std::mem::take(&mut accepted.waiting_ids) {
                    remember(&mut accepted.replaced_ids, &waiting, REPLACED);
                }
                accepted
            })
        };
        let (store, is_changed) = self.change(accepted).await?;
        if store.id != id {
            let message = format!("the store is {}, not {id}", store.id);
            return Err(Error::new(Reason::InvalidState, message).with("id", store.id));
        }
        if is_changed {
            tracing::warn!(id, who, "the store was accepted: agents go by it");
        }
        Ok(store)
    }

    fn know(&self, store: &pb::Store) {
        self.known.send_if_modified(|known| {
            let is_new = (&known.id, &known.mark, known.accepted, known.compared)
                != (&store.id, &store.mark, store.accepted, store.compared);
            if is_new {
                known.clone_from(store);
            }
            is_new
        });
    }

    async fn lineage(&self) -> Result<u64, Error> {
        self.db.store.lineage().await.map_err(store_error)
    }

    async fn read(&self) -> Result<Seen, Error> {
        let key = self.db.keys.store_identity();
        let (found, now) = self.db.store.get(&key).await.map_err(store_error)?;
        let read = found.map(|item| decode::<StoreRecord>(&item)).transpose()?.unwrap_or_default();
        let mut store = pb::Store { revision: now.0, ..read.record.store.unwrap_or_default() };
        if store.origin_id.is_empty() {
            // Of an earlier version, which did not write it down.
            store.origin_id.clone_from(&store.id);
            store.replaced_ids.extend((!store.previous_id.is_empty()).then(|| store.previous_id.clone()));
        }
        if !store.id.is_empty() {
            self.know(&store);
        }
        Ok(Seen { store, lineage: read.record.lineage, revision: read.revision })
    }

    /// Writes it, and what else the transaction has, if it is still as it was read; none if it is not.
    async fn write(&self, txn: Txn, seen: &Seen, store: pb::Store) -> Result<Option<pb::Store>, Error> {
        let key = self.db.keys.store_identity();
        let written = Some(pb::Store { revision: 0, ..store.clone() });
        let record = StoreRecord { store: written, lineage: seen.lineage };
        let txn = txn.when(Compare::ModRevision(key.clone(), seen.revision)).put(key, record.encode_to_vec());
        Ok(match self.db.commit(txn).await? {
            TxnOutcome::Committed { revision } => {
                self.know(&store);
                Some(pb::Store { revision: revision.0, ..store })
            }
            TxnOutcome::Conflict { .. } => None,
        })
    }
}

/// Whether nothing is done with its records before an administrator has accepted it, and hosts have compared: it is not what it was.
fn waits(store: &pb::Store) -> bool {
    let is_driven = store.previous_id.is_empty() || (store.accepted && store.compared);
    !is_driven
}

/// A new identity in the place of another. Its marks go on from those of the other.
fn made(previous: &pb::Store) -> pb::Store {
    let id = StoreId::generate().to_string();
    let mut made = pb::Store {
        create_time: Some(timestamp(SystemTime::now())),
        previous_id: previous.id.clone(),
        mark: previous.mark.clone(),
        origin_id: previous.origin_id.clone(),
        replaced_ids: previous.replaced_ids.clone(),
        ..pb::Store::default()
    };
    match previous.id.as_str() {
        "" => made.origin_id.clone_from(&id),
        previous => remember(&mut made.replaced_ids, previous, REPLACED),
    }
    pb::Store { id, ..made }
}

/// Adds an id, in the place of the oldest where there are too many.
fn remember(ids: &mut Vec<String>, id: &str, most: usize) {
    if !ids.iter().any(|known| known == id) {
        ids.push(id.to_owned());
        ids.drain(..ids.len().saturating_sub(most));
    }
}

#[cfg(test)]
mod tests;
