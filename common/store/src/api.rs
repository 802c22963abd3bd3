//! The [`Store`] trait: what both stores promise, and what the rest of Kilonova may rely on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kilonova_model::Revision;
use tokio::sync::watch;

use crate::{StoreError, Txn, TxnOutcome, Watch, WatchFrom};

/// A store shared by everything in a process.
pub type SharedStore = Arc<dyn Store>;

/// Names a lease. Positive, and never reused within the life of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// One key as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The revision at which the key came to be (again, if it had been deleted).
    pub create_revision: Revision,
    /// The revision of the last put.
    pub mod_revision: Revision,
    /// Whether the key goes away with a lease.
    pub leased: bool,
}

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys in byte order.
    pub items: Vec<KeyValue>,
    /// The revision at which this page was read.
    pub revision: Revision,
    /// Pass as `after` for the page that follows; none when this was the last one.
    pub next: Option<String>,
}

/// Revisioned keys, compare-and-write transactions, watches and leases.
///
/// Keys are printable text without spaces, not starting with `/`, at most [`MAX_KEY_BYTES`](crate::txn::MAX_KEY_BYTES)
/// long, ordered by their bytes. Every call has a deadline of its own; dropping the future of a call that
/// writes does not undo the write.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Which store this is: `embedded` or `etcd`.
    fn name(&self) -> &'static str;

    /// Reads one key, and the store's revision at that moment. Linearizable: it sees every transaction
    /// acknowledged before the call.
    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError>;

    /// Reads up to `limit` keys under `prefix`, in key order.
    ///
    /// The first page (`after` is none) is linearizable. For the following ones pass [`Page::next`], or any
    /// key to start right after it, now. A key that is there unchanged during the whole listing is listed exactly once. A
    /// key that changes meanwhile is listed as it was at the first page (etcd, as long as that revision is
    /// kept) or at a later one (embedded): so to follow a listing by a watch, start it
    /// [`WatchFrom::After`] the revision of the *first* page.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError>;

    /// Commits all operations if all compares hold, else does nothing. Durable when it returns
    /// [`TxnOutcome::Committed`].
    ///
    /// A transaction that changes nothing (no operations, or deletes of absent keys only) commits without
    /// a new revision.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Follows the keys under `prefix`. Must be called within an async runtime. See [`Watch`].
    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch;

    /// Makes a lease that lives at least `ttl` after its grant or its last renewal (a store may round up).
    /// Keys put with it are deleted when it ends.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease once; [`StoreError::LeaseGone`] when it no longer exists.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and deletes its keys; [`StoreError::LeaseGone`] when it no longer exists.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// How often the store was found to have gone back to an earlier state, or to be another one, since it was opened: as after
    /// etcd was restored from a copy, or wiped. Revisions, leases and records known from before mean nothing then. Every watch begins anew with a
    /// [`WatchEvent::Snapshot`](crate::WatchEvent::Snapshot) that says so. Found within seconds. Never so in one process with an embedded store.
    fn went_back(&self) -> watch::Receiver<u64>;

    /// The number of the data, which an earlier copy of them may have too: etcd's cluster id, or a number that an embedded store draws when
    /// it is made, and anew whenever it is opened although it has less than it had.
    async fn lineage(&self) -> Result<u64, StoreError>;

    /// Forgets the changes before a revision: whoever would resume from before it starts over. A store that keeps a bounded history by itself
    /// does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}
