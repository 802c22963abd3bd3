//! Who drives which records.
//!
//! Every conductor that takes part holds a leased key `owners/<conductor>`; the keys there are who is alive. The
//! 256 shards are spread over them by rendezvous hashing ([`preferred`]), and ownership of one is a key
//! `shards/<n>` on the same lease, put only if it is absent. The key's create revision is the *fence*: every
//! write of an owner compares it, so that an owner that was slow, or believed dead, writes nothing any more.
//!
//! ```text
//!            preferred, key absent: put                lease lost, or key gone
//!   (free) ───────────────────────────► owned ────────────────────────────────► (free)
//!                                         │ another is preferred: forget, delete key
//!                                         └────────────────────────────────────► (free)
//! ```
//!
//! A conductor that dies loses its lease, and with it all keys at once; the others see it and take over. One
//! that drains revokes its lease, to the same effect.

mod assign;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kilonova_model::{Epoch, HostName, Revision};
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::Key;
use kilonova_store::{LeaseId, StoreError, Txn, TxnOutcome, WatchEvent, WatchFrom};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use assign::{SHARDS, preferred, shard_of, shards_of};

use crate::db::Db;

/// How many shards are taken or given up in one transaction.
const BATCH: usize = 64;

/// The right to write the records of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The shard's key.
    pub key: String,
    /// Its create revision.
    pub revision: Revision,
}

/// What this conductor owns. Clones share it.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
}

struct Shared {
    owned: RwLock<HashMap<u16, Fence>>,
    /// Every shard's owner, as last seen.
    owners: RwLock<BTreeMap<u16, (HostName, Revision)>>,
    lost: mpsc::Sender<u16>,
    settled: watch::Sender<bool>,
}

impl Shards {
    /// Takes part in the sharing in a task of `tasks`. `gained` is told of every shard that becomes this one's.
    pub fn join(
        db: Db,
        conductor: HostName,
        epochs: watch::Receiver<Epoch>,
        ttl: Duration,
        gained: mpsc::Sender<Vec<u16>>,
        tasks: &Tasks,
    ) -> Self {
        let (lost, lost_rx) = mpsc::channel(usize::from(SHARDS));
        let shared = Arc::new(Shared {
            owned: RwLock::default(),
            owners: RwLock::default(),
            lost,
            settled: watch::Sender::new(false),
        });
        let member = Member { db, conductor, epochs, ttl, gained, shared: shared.clone() };
        let token = tasks.token().clone();
        tasks.spawn_graceful("shards", move |_| async move {
            let mut lost_rx = lost_rx;
            let mut backoff = Backoff::new(BackoffPolicy::retry());
            while !token.is_cancelled() {
                if let Err(error) = member.hold(&mut lost_rx, &token, &mut backoff).await {
                    tracing::warn!(%error, "shards are not held; joining again");
                }
                member.forget_all();
                tokio::select! {
                    () = token.cancelled() => {}
                    () = tokio::time::sleep(backoff.next_delay()) => {}
                }
            }
        });
        Self { shared }
    }

    /// The right to write the records of the shard of this id, if it is this conductor's.
    #[must_use]
    pub fn fence(&self, id: &impl ToString) -> Option<Fence> {
        self.shared.owned.read().get(&shard_of(id)).cloned()
    }

    /// Whether the shard of this id is this conductor's.
    #[must_use]
    pub fn owns(&self, id: &impl ToString) -> bool {
        self.shared.owned.read().contains_key(&shard_of(id))
    }

    /// A write was refused by the fence: the shard is no longer this conductor's.
    pub fn lost(&self, id: &impl ToString) {
        let shard = shard_of(id);
        self.shared.owned.write().remove(&shard);
        // Full means that the task is about to look anyway.
        let _ = self.shared.lost.try_send(shard);
    }

    /// How many shards each conductor owns.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<HostName, u32> {
        let mut counts = BTreeMap::new();
        for (conductor, _) in self.shared.owners.read().values() {
            *counts.entry(conductor.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// How many shards are this conductor's.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.shared.owned.read().len()
    }

    /// Waits until this conductor has taken part in the sharing once.
    pub async fn settled(&self) {
        let mut settled = self.shared.settled.subscribe();
        // The sender lives as long as `self`.
        let _ = settled.wait_for(|settled| *settled).await;
    }
}

/// One conductor's part in the sharing.
struct Member {
    db: Db,
    conductor: HostName,
    epochs: watch::Receiver<Epoch>,
    ttl: Duration,
    gained: mpsc::Sender<Vec<u16>>,
    shared: Arc<Shared>,
}

impl Member {
    /// Holds a lease and shares, until the lease or the store is lost or `token` is cancelled.
    async fn hold(
        &self,
        lost: &mut mpsc::Receiver<u16>,
        token: &tokio_util::sync::CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), StoreError> {
        let lease = self.db.store.grant_lease(self.ttl).await?;
        let outcome = tokio::select! {
            outcome = self.share(lease, lost, backoff) => outcome,
            () = token.cancelled() => Ok(()),
        };
        self.forget_all();
        match self.db.store.revoke_lease(lease).await {
            Ok(()) | Err(StoreError::LeaseGone) => {}
            Err(error) => tracing::warn!(%error, "the shards stay held until the lease ends"),
        }
        outcome
    }

    async fn share(
        &self,
        lease: LeaseId,
        lost: &mut mpsc::Receiver<u16>,
        backoff: &mut Backoff,
    ) -> Result<(), StoreError> {
        let keys = &self.db.keys;
        let me = Txn::new().put_leased(keys.owner(&self.conductor), self.record(), lease);
        self.db.store.txn(me).await?;
        let mut owners = self.db.store.watch(&keys.owners(), WatchFrom::Snapshot);
        let mut shards = self.db.store.watch(&keys.shards(), WatchFrom::Snapshot);
        let mut alive: Option<BTreeSet<HostName>> = None;
        let mut mine = BTreeSet::new();
        let mut listed = false;
        let mut renew = tokio::time::interval(self.ttl / 3);
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                _ = renew.tick() => {
                    match self.db.store.keep_alive(lease).await {
                        Ok(()) => {
                            renewed = Instant::now();
                            backoff.reset();
                        }
                        // Stop before the lease can have ended by the store's clock.
                        Err(error) if renewed.elapsed() + self.ttl / 3 >= self.ttl => return Err(error),
                        Err(StoreError::LeaseGone) => return Err(StoreError::LeaseGone),
                        Err(error) => tracing::warn!(%error, "cannot renew the lease on the shards"),
                    }
                }
                Some(event) = owners.next() => {
                    take_owners(&mut alive, event, &self.db);
                    mine = alive.as_ref().map_or_else(BTreeSet::new, |alive| shards_of(&self.conductor, alive));
                }
                Some(event) = shards.next() => {
                    listed = true;
                    self.take_shards(event);
                }
                Some(_) = lost.recv() => {}
            }
            if alive.is_some() && listed {
                self.balance(&mine, lease).await?;
                self.shared.settled.send_replace(true);
            }
        }
    }

    /// Gives up what others should own and takes what is free and should be this one's.
    async fn balance(&self, mine: &BTreeSet<u16>, lease: LeaseId) -> Result<(), StoreError> {
        let excess: Vec<u16> =
            self.shared.owned.read().keys().copied().filter(|shard| !mine.contains(shard)).collect();
        for batch in excess.chunks(BATCH) {
            self.give_up(batch).await?;
        }
        let free: Vec<u16> = {
            let owners = self.shared.owners.read();
            mine.iter().copied().filter(|shard| !owners.contains_key(shard)).collect()
        };
        for batch in free.chunks(BATCH) {
            let taken = self.take(batch, lease).await?;
            if !taken.is_empty() {
                tracing::debug!(shards = taken.len(), "took shards");
                // A full channel is drained by the engine; a closed one means that it has stopped.
                let _ = self.gained.send(taken).await;
            }
        }
        metrics::gauge!("conductor_shards_owned").set(self.shared.owned.read().len() as f64);
        Ok(())
    }

    async fn take(&self, batch: &[u16], lease: LeaseId) -> Result<Vec<u16>, StoreError> {
        let txn = batch.iter().fold(Txn::new(), |txn, shard| {
            let key = self.db.keys.shard(*shard);
            txn.when_absent(key.clone()).put_leased(key, self.record(), lease)
        });
        match self.db.store.txn(txn).await? {
            TxnOutcome::Committed { revision } => {
                let mut owned = self.shared.owned.write();
                let mut owners = self.shared.owners.write();
                for shard in batch {
                    owned.insert(*shard, Fence { key: self.db.keys.shard(*shard), revision });
                    owners.insert(*shard, (self.conductor.clone(), revision));
                }
                Ok(batch.to_vec())
            }
            // Somebody holds one of them: take them one by one.
            TxnOutcome::Conflict { .. } if batch.len() > 1 => {
                let mut taken = Vec::new();
                for shard in batch {
                    taken.extend(Box::pin(self.take(&[*shard], lease)).await?);
                }
                Ok(taken)
            }
            TxnOutcome::Conflict { .. } => Ok(Vec::new()),
        }
    }

    async fn give_up(&self, batch: &[u16]) -> Result<(), StoreError> {
        let fences: Vec<Fence> = {
            let mut owned = self.shared.owned.write();
            batch.iter().filter_map(|shard| owned.remove(shard)).collect()
        };
        for fence in fences {
            let txn = Txn::new()
                .when(kilonova_store::Compare::CreateRevision(fence.key.clone(), fence.revision))
                .delete(fence.key);
            self.db.store.txn(txn).await?;
        }
        tracing::debug!(shards = batch.len(), "gave up shards");
        Ok(())
    }

    fn take_shards(&self, event: WatchEvent) {
        let mut owners = self.shared.owners.write();
        match event {
            WatchEvent::Snapshot { items, .. } => {
                owners.clear();
                for item in &items {
                    if let (Some(Key::Shard(shard)), Some(conductor)) =
                        (self.db.keys.parse(&item.key), owner(&item.value))
                    {
                        owners.insert(shard, (conductor, item.create_revision));
                    }
                }
                self.shared.owned.write().retain(|shard, fence| {
                    owners.get(shard).is_some_and(|(_, revision)| *revision == fence.revision)
                });
            }
            WatchEvent::Put(item) => {
                if let (Some(Key::Shard(shard)), Some(conductor)) =
                    (self.db.keys.parse(&item.key), owner(&item.value))
                {
                    owners.insert(shard, (conductor, item.create_revision));
                }
            }
            WatchEvent::Delete { key, revision } => {
                let Some(Key::Shard(shard)) = self.db.keys.parse(&key) else { return };
                if owners.get(&shard).is_some_and(|(_, created)| *created < revision) {
                    owners.remove(&shard);
                }
                let mut owned = self.shared.owned.write();
                if owned.get(&shard).is_some_and(|fence| fence.revision < revision) {
                    owned.remove(&shard);
                }
            }
        }
    }

    fn record(&self) -> Vec<u8> {
        let epoch = self.epochs.borrow().0;
        ShardRecord { conductor: self.conductor.to_string(), epoch }.encode_to_vec()
    }

    fn forget_all(&self) {
        self.shared.owned.write().clear();
    }
}

fn owner(value: &[u8]) -> Option<HostName> {
    HostName::parse(&ShardRecord::decode(value).ok()?.conductor).ok()
}

fn take_owners(alive: &mut Option<BTreeSet<HostName>>, event: WatchEvent, db: &Db) {
    let name = |key: &str| match db.keys.parse(key) {
        Some(Key::Owner(conductor)) => Some(conductor),
        _ => None,
    };
    match event {
        WatchEvent::Snapshot { items, .. } => {
            *alive = Some(items.iter().filter_map(|item| name(&item.key)).collect());
        }
        WatchEvent::Put(item) => {
            if let (Some(alive), Some(conductor)) = (alive.as_mut(), name(&item.key)) {
                alive.insert(conductor);
            }
        }
        WatchEvent::Delete { key, .. } => {
            if let (Some(alive), Some(conductor)) = (alive.as_mut(), name(&key)) {
                alive.remove(&conductor);
            }
        }
    }
}
