//! Reads from memory that are as new as reads from the store.
//!
//! Memory is a few milliseconds behind the store, and a watch of keys that do not change does not say how far it is. So a key
//! beside the records is written, and the read waits until the watch has brought it: whatever was committed before that is in
//! memory then. One write serves all who wait for it.
//!
//! What is written now is newer than all that the watch has brought. If it is not, the store went back, and memory is of another
//! history yet: then nothing is answered from it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kilonova_model::{Error, Reason};
use kilonova_store::Txn;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::cache::Cache;
use crate::db::Db;

/// The name of the key among the records; no id looks like it.
const NAME: &str = "~barrier";
/// The longest the watch may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One for each kind of record.
#[derive(Debug, Default)]
pub struct Barrier {
    begun: AtomicU64,
    passed: Mutex<u64>,
}

impl Barrier {
    /// Waits until memory has all that was committed before this was called.
    pub async fn pass<K, R>(&self, db: &Db, prefix: &str, cache: &Cache<K, R>) -> Result<(), Error>
    where
        K: Clone + Ord + std::fmt::Debug + Send + Sync + 'static,
        R: prost::Message + Default + PartialEq + 'static,
    {
        let needed = self.begun.load(Ordering::SeqCst) + 1;
        let mut passed = self.passed.lock().await;
        if *passed >= needed {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let before = cache.seen();
        let txn = Txn::new().put(format!("{prefix}{NAME}"), Vec::<u8>::new());
        let revision = db.commit(txn).await?.committed();
        let revision = revision.ok_or_else(|| Error::new(Reason::Internal, "a barrier met a conflict"))?;
        if revision <= before {
            let message = "the store went back to an earlier state, and memory is not read anew yet";
            return Err(Error::new(Reason::StoreUnavailable, message));
        }
        if timeout(PATIENCE, cache.until_seen(revision)).await.is_err() {
            let message = format!("memory is more than {PATIENCE:?} behind the store");
            return Err(Error::new(Reason::StoreUnavailable, message));
        }
        *passed = number;
        Ok(())
    }
}
