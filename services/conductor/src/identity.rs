//! Which store the cell has: an id that agents remember beside their data, and by which they notice that the store is another one,
//! or is not as far as it was.
//!
//! ```text
//!   no record ──► made, not accepted          agents that remember none adopt it; others wait
//!   an agent was told of more than there is ──► another id, not accepted: all agents wait
//!   `kilonova store accept` ──► accepted: all agents adopt it
//! ```
//!
//! Every change compares the record that was read, so that conductors that notice the same at once make one new id.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;
use kilonova_model::{Error, Reason, Revision, StoreId};
use kilonova_proto::conductor::v1::StoreRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_store::{Compare, Txn, TxnOutcome};
use parking_lot::RwLock;
use prost::Message;

use crate::db::{Db, conflict, decode, store_error};

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;

/// How often a conductor reads the identity anew.
const REFRESH: Duration = Duration::from_secs(60);

/// How long it waits before it tries again to renew it.
const RETRY: Duration = Duration::from_secs(1);

/// The identity of the cell's store. Clones share it.
#[derive(Clone)]
pub struct StoreIdentity {
    db: Db,
    /// The id as it was last read or written; empty before.
    known: Arc<RwLock<String>>,
}

/// The record as it was read.
struct Seen {
    store: pb::Store,
    revision: Revision,
}

impl StoreIdentity {
    /// Of this store.
    #[must_use]
    pub fn new(db: Db) -> Self {
        Self { db, known: Arc::default() }
    }

    /// The id, as this conductor saw it last; from the store only if it never did.
    pub async fn known(&self) -> Result<String, Error> {
        let known = self.known.read().clone();
        if known.is_empty() { self.current().await.map(|store| store.id) } else { Ok(known) }
    }

    /// Which store it is, and how far it has come; one that has no identity gets one.
    pub async fn current(&self) -> Result<pb::Store, Error> {
        for _ in 0..TRIES {
            let seen = self.read().await?;
            if !seen.store.id.is_empty() {
                return Ok(seen.store);
            }
            if let Some(store) = self.write(&seen, made("")).await? {
                tracing::info!(id = store.id, "the store had no identity: it has one now");
            }
        }
        Err(conflict("the store's identity"))
    }

    /// Which store it is, once that is compared with what an agent remembers: one that is not as far as it was gets another id.
    pub async fn compared(&self, remembered_id: &str, remembered: Revision) -> Result<pb::Store, Error> {
        let store = self.current().await?;
        if store.id != remembered_id || remembered <= Revision(store.revision) {
            return Ok(store);
        }
        tracing::error!(
            id = store.id, revision = store.revision, %remembered,
            "the store was set back: agents remove nothing until `kilonova store accept`"
        );
        self.renew_identity(remembered_id).await
    }

    /// Gives the store another id whenever this conductor finds that it went back, so that agents which had not heard of more wait too.
    /// Runs until it is cancelled.
    pub async fn follow(self) {
        let mut went_back = self.db.went_back();
        let mut known = String::new();
        loop {
            match self.current().await {
                Ok(store) => known = store.id,
                Err(error) => tracing::warn!(%error, "cannot read the store's identity: tried again"),
            }
            match tokio::time::timeout(REFRESH, went_back.changed()).await {
                Err(_) => continue,
                Ok(Err(_)) => return,
                Ok(Ok(())) => {}
            }
            while let Err(error) = self.renew_identity(&known).await {
                tracing::warn!(%error, "cannot give a store that went back another identity: tried again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Gives the store another id if it has this one still: it is not what it was. Agents wait for an administrator then.
    pub async fn renew_identity(&self, id: &str) -> Result<pb::Store, Error> {
        for _ in 0..TRIES {
            let seen = self.read().await?;
            if seen.store.id != id {
                return self.current().await;
            }
            if let Some(store) = self.write(&seen, made(id)).await? {
                tracing::error!(id = store.id, previous = id, "the store has a new identity");
                return Ok(store);
            }
        }
        Err(conflict("the store's identity"))
    }

    /// An administrator says that this is the store to go by.
    pub async fn accept(&self, id: &str, who: &str) -> Result<pb::Store, Error> {
        for _ in 0..TRIES {
            let store = self.current().await?;
            if store.id != id {
                let message = format!("the store is {}, not {id}", store.id);
                return Err(Error::new(Reason::InvalidState, message).with("id", store.id));
            }
            if store.accepted {
                return Ok(store);
            }
            let seen = self.read().await?;
            let accepted = pb::Store {
                accepted: true,
                accept_time: Some(timestamp(SystemTime::now())),
                accepted_by: who.to_owned(),
                ..seen.store.clone()
            };
            if seen.store.id == id
                && let Some(store) = self.write(&seen, accepted).await?
            {
                tracing::warn!(id, who, "the store was accepted: agents go by it");
                return Ok(store);
            }
        }
        Err(conflict("the store's identity"))
    }

    fn know(&self, store: &pb::Store) {
        let mut known = self.known.write();
        if *known != store.id {
            known.clone_from(&store.id);
        }
    }

    async fn read(&self) -> Result<Seen, Error> {
        let key = self.db.keys.store_identity();
        let (found, now) = self.db.store.get(&key).await.map_err(store_error)?;
        let read = found.map(|item| decode::<StoreRecord>(&item)).transpose()?.unwrap_or_default();
        let store = pb::Store { revision: now.0, ..read.record.store.unwrap_or_default() };
        self.know(&store);
        Ok(Seen { store, revision: read.revision })
    }

    /// Writes it if it is still as it was read; none if it is not.
    async fn write(&self, seen: &Seen, store: pb::Store) -> Result<Option<pb::Store>, Error> {
        let key = self.db.keys.store_identity();
        let record = StoreRecord { store: Some(pb::Store { revision: 0, ..store.clone() }) };
        let txn = Txn::new()
            .when(Compare::ModRevision(key.clone(), seen.revision))
            .put(key, record.encode_to_vec());
        Ok(match self.db.commit(txn).await? {
            TxnOutcome::Committed { revision } => {
                self.know(&store);
                Some(pb::Store { revision: revision.0, ..store })
            }
            TxnOutcome::Conflict { .. } => None,
        })
    }
}

fn made(previous_id: &str) -> pb::Store {
    pb::Store {
        id: StoreId::generate().to_string(),
        create_time: Some(timestamp(SystemTime::now())),
        previous_id: previous_id.to_owned(),
        ..pb::Store::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use kilonova_model::CellName;
    use kilonova_store::embedded::EmbeddedStore;
    use kilonova_store::keys::Keys;

    fn identity() -> StoreIdentity {
        let keys = Keys::new(&CellName::parse("test").unwrap());
        StoreIdentity::new(Db { store: Arc::new(EmbeddedStore::open_temporary().unwrap()), keys })
    }

    #[tokio::test]
    async fn a_store_gets_one_identity_and_keeps_it() {
        let one = identity();
        let (first, second) = tokio::join!(one.current(), one.current());
        let store = first.unwrap();
        assert_eq!(second.unwrap().id, store.id);
        assert!(!store.accepted && store.previous_id.is_empty() && store.revision > 0);
        let same = one.compared(&store.id, Revision(store.revision)).await.unwrap();
        assert_eq!(same.id, store.id, "it is as far as it was");
        let other = one.compared("another", Revision(u64::MAX)).await.unwrap();
        assert_eq!(other.id, store.id, "what was told of another store says nothing of this one");
    }

    #[tokio::test]
    async fn one_that_was_set_back_gets_another_identity_once_that_has_to_be_accepted() {
        let one = identity();
        let before = one.current().await.unwrap();
        one.accept(&before.id, "admin").await.unwrap();
        let ahead = Revision(before.revision + 100);
        let (first, second) = tokio::join!(one.compared(&before.id, ahead), one.compared(&before.id, ahead));
        let store = first.unwrap();
        assert_eq!((&second.unwrap().id, &store.previous_id), (&store.id, &before.id));
        assert!(store.id != before.id && !store.accepted);

        let refused = one.accept(&before.id, "admin").await.unwrap_err();
        assert_eq!(refused.reason, Reason::InvalidState);
        let accepted = one.accept(&store.id, "admin").await.unwrap();
        assert_eq!((accepted.accepted, accepted.accepted_by.as_str()), (true, "admin"));
        let again = one.accept(&store.id, "somebody else").await.unwrap();
        assert_eq!(again.accepted_by, "admin", "once");
    }
}
