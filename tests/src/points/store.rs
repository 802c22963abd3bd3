//! A store that fails at one transaction of the conductors that work through it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Revision, ServiceKind};
use kilonova_store::{
    KeyValue, LeaseId, Op, Page, SharedStore, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom,
};
use tokio::sync::watch;

use super::{Fault, Place, Points};

/// The store as one conductor has it.
pub struct PointStore {
    inner: SharedStore,
    points: Arc<Points>,
    conductor: String,
}

impl PointStore {
    /// Stands between a conductor and the store.
    #[must_use]
    pub fn before(inner: SharedStore, points: Arc<Points>, conductor: &str) -> SharedStore {
        Arc::new(Self { inner, points, conductor: conductor.to_owned() })
    }

    /// One that is dead does nothing more, whatever of it still runs; one that stands still waits.
    async fn alive(&self) {
        self.points.wait_if_still(&(ServiceKind::Conductor, self.conductor.clone())).await;
        if self.points.is_dying(ServiceKind::Conductor, &self.conductor) {
            std::future::pending().await
        }
    }
}

/// Whether a transaction changes records, and not only who is there and who owns what, or how far the store is.
fn is_of_records(txn: &Txn) -> bool {
    let kinds = || txn.ops.iter().map(|op| op.key().split('/').nth(3).unwrap_or_default());
    let is_mark = kinds().any(|kind| kind == "marks");
    !is_mark && kinds().any(|kind| !matches!(kind, "endpoints" | "shards" | "owners" | "hosts" | "fences"))
}

fn described(txn: &Txn) -> String {
    let key = |op: &Op| op.key().split('/').skip(3).collect::<Vec<_>>().join("/");
    txn.ops.iter().map(key).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl Store for PointStore {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        self.alive().await;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.alive().await;
        self.inner.list(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.alive().await;
        let due = match is_of_records(&txn) {
            true => self.points.next(Place::Write, || format!("{} {}", self.conductor, described(&txn))),
            false => None,
        };
        let me = (ServiceKind::Conductor, self.conductor.clone());
        match due {
            None | Some(Fault::Twice | Fault::Late) => self.inner.txn(txn).await,
            Some(Fault::Refuse) => Err(StoreError::Unavailable { message: "made to fail".to_owned() }),
            Some(Fault::Lose) => {
                self.inner.txn(txn).await?;
                Err(StoreError::Unknown { message: "the answer is made to be lost".to_owned() })
            }
            Some(Fault::Stall) => {
                self.points.stall(&me).await;
                self.inner.txn(txn).await
            }
            Some(Fault::CrashBefore) => self.points.crash(me).await,
            Some(Fault::CrashAfter | Fault::CrashCaller) => {
                self.inner.txn(txn).await?;
                self.points.crash(me).await
            }
        }
    }

    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        self.inner.watch(prefix, from)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.alive().await;
        self.inner.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.alive().await;
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.alive().await;
        self.inner.revoke_lease(lease).await
    }

    fn went_back(&self) -> watch::Receiver<u64> {
        self.inner.went_back()
    }

    async fn lineage(&self) -> Result<u64, StoreError> {
        self.inner.lineage().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.alive().await;
        self.inner.compact(revision).await
    }
}
