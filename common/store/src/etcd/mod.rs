//! The store in an etcd cluster.
//!
//! Transactions, leases and revisions are etcd's own. Added here: a deadline on every call, an answer to
//! whether a failed call may have been done, which compares of a conflict failed, transactions that wait together in
//! one, and watches that heal.

mod cluster;
mod convert;
mod failure;
mod group;
mod history;
mod known;
mod options;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::Revision;
use tokio::sync::watch::Receiver;
use tokio::task::JoinSet;

use self::cluster::{Cluster, revision_of};
use self::failure::{Effect, Failure};
use self::group::Groups;
pub use self::options::{Credentials, EtcdOptions};
use crate::page::{PageRequest, next_token};
use crate::txn::validate_key;
use crate::{KeyValue, LeaseId, Page, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom};

/// A store in an etcd cluster.
pub struct EtcdStore {
    cluster: Arc<Cluster>,
    groups: Groups,
    _probing: JoinSet<()>,
}

impl EtcdStore {
    /// Connects to a cluster, and fails if it does not answer within the deadline.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self::over(Cluster::connect(options).await?))
    }

    /// Takes a cluster that may be away: calls fail until it is there, and watches wait for it. With credentials it
    /// must be there: they are shown at once.
    pub async fn connect_lazily(options: EtcdOptions) -> Result<Self, StoreError> {
        Ok(Self::over(Cluster::unchecked(options).await?))
    }

    fn over(cluster: Cluster) -> Self {
        let cluster = Arc::new(cluster);
        let mut probing = JoinSet::new();
        probing.spawn(keep_probing(cluster.clone()));
        Self { groups: Groups::start(cluster.clone()), cluster, _probing: probing }
    }
}

/// Looks every few seconds whether it is still the same store.
async fn keep_probing(cluster: Arc<Cluster>) {
    loop {
        let pause = cluster.options.probe_interval.mul_f64(rand::random_range(0.7..1.3));
        tokio::time::sleep(pause).await;
        if let Err(failure) = cluster.probe().await {
            tracing::debug!(?failure, "whether it is the same store cannot be seen now");
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("options", &self.cluster.options).finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        validate_key(key)?;
        let call = || async { self.cluster.kv().get(key, None).await };
        let answer = self.cluster.call(Effect::Read, call).await;
        let mut answer = answer.map_err(|failure| failure.into_error(Effect::Read))?;
        let revision = revision_of(answer.header()).map_err(|failure| failure.into_error(Effect::Read))?;
        let item = answer.take_kvs().pop().map(convert::key_value).transpose()?;
        Ok((item, revision))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let mut request = PageRequest::parse(prefix, after, limit)?;
        let range = match self.cluster.range(&request, false).await {
            Err(Failure::NoSuchRevision) => {
                request.revision = None;
                self.cluster.range(&request, false).await
            }
            answer => answer,
        };
        let range = range.map_err(|failure| failure.into_error(Effect::Read))?;
        let revision = request.revision.unwrap_or(range.revision);
        let items = range.items.into_iter().map(convert::key_value).collect::<Result<Vec<_>, _>>()?;
        let next = items.last().filter(|_| range.more).map(|last| next_token(&last.key, revision));
        Ok(Page { items, revision, next })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.validate()?;
        self.groups.commit(txn).await
    }

    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        watch::follow(&self.cluster, prefix, from)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let call = || async { self.cluster.client.lease_client().grant(seconds, None).await };
        let answer = self.cluster.call(Effect::Write, call).await;
        answer.map(|lease| LeaseId(lease.id())).map_err(|failure| failure.into_error(Effect::Write))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // The client's call returns after the first renewal.
        let call = || async { self.cluster.client.lease_client().keep_alive(lease.0).await.map(drop) };
        let answer = self.cluster.call(Effect::Repeatable, call).await;
        answer.map_err(|failure| failure.into_error(Effect::Repeatable))
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let call = || async { self.cluster.client.lease_client().revoke(lease.0).await.map(drop) };
        let answer = self.cluster.call(Effect::Write, call).await;
        answer.map_err(|failure| failure.into_error(Effect::Write))
    }

    fn went_back(&self) -> Receiver<u64> {
        self.cluster.history.subscribe()
    }

    async fn lineage(&self) -> Result<u64, StoreError> {
        let known = self.cluster.history.seen().cluster;
        if known == 0 {
            self.cluster.probe().await.map_err(|failure| failure.into_error(Effect::Read))?;
            return Ok(self.cluster.history.seen().cluster);
        }
        Ok(known)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.cluster.compact(revision).await.map_err(|failure| failure.into_error(Effect::Repeatable))
    }
}
