//! Records in the store: typed reads, and errors as callers see them.

use kilonova_model::{Error, Reason, Revision};
use kilonova_store::keys::Keys;
use kilonova_store::{KeyValue, SharedStore, StoreError, Txn, TxnOutcome};
use prost::Message;
use tokio::sync::watch;

/// The store, seen as records.
#[derive(Clone)]
pub struct Db {
    /// The store itself.
    pub store: SharedStore,
    /// The keys of this cell.
    pub keys: Keys,
}

/// A record as it was read; revision 0 when it is not there.
#[derive(Debug, Clone, Default)]
pub struct Read<R> {
    /// The record, or its default when it is not there.
    pub record: R,
    /// The revision of its last change.
    pub revision: Revision,
}

impl Db {
    /// How often the store was found to have gone back to an earlier state, or to be another one. What was remembered of records,
    /// leases and revisions before a change of it is of another history.
    #[must_use]
    pub fn went_back(&self) -> watch::Receiver<u64> {
        self.store.went_back()
    }

    /// Reads one record.
    pub async fn read<R: Message + Default>(&self, key: &str) -> Result<Option<Read<R>>, Error> {
        let (found, _) = self.store.get(key).await.map_err(store_error)?;
        found.map(|item| decode(&item)).transpose()
    }

    /// Reads one record; one that is not there is the default one at revision 0.
    pub async fn read_or_default<R: Message + Default>(&self, key: &str) -> Result<Read<R>, Error> {
        let read = self.read(key).await?;
        Ok(read.unwrap_or_else(|| Read { record: R::default(), revision: Revision(0) }))
    }

    /// Commits, or says which compares failed.
    pub async fn commit(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.store.txn(txn).await.map_err(store_error)
    }
}

/// Reads a record out of its value.
pub fn decode<R: Message + Default>(item: &KeyValue) -> Result<Read<R>, Error> {
    let record = R::decode(item.value.clone()).map_err(|error| {
        Error::new(Reason::Internal, format!("the record at {} cannot be read: {error}", item.key))
            .with("key", &item.key)
    })?;
    Ok(Read { record, revision: item.mod_revision })
}

/// A store's error as callers see it.
#[must_use]
pub fn store_error(error: StoreError) -> Error {
    let reason = match &error {
        StoreError::TooLarge { .. } => Reason::ValidationFailed,
        StoreError::Unavailable { .. } => Reason::StoreUnavailable,
        error if error.maybe_executed() => Reason::StoreOutcomeUnknown,
        _ => Reason::Internal,
    };
    Error::new(reason, error.to_string())
}

/// The answer when a record kept changing under every try.
#[must_use]
pub fn conflict(what: &str) -> Error {
    Error::new(Reason::Conflict, format!("{what} kept changing; nothing was done"))
}
