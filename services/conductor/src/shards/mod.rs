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
//! What a conductor owns is not remembered beside the keys but read off them (`holders.rs`): a shard is its own as long as the
//! newest key known carries its present lease. So nothing can be owned in the store and forgotten here.
//!
//! Where the store went back to an earlier state, keys and leases are not what they were: every conductor joins anew, once an administrator has
//! accepted the store (`identity.rs`).
//!
//! A conductor that dies loses its lease, and with it all keys at once; the others see it and take over. One
//! that drains revokes its lease, to the same effect.

mod assign;
mod holders;
mod unowned;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kilonova_model::{Epoch, HostName, Revision};
use kilonova_proto::conductor::v1::ShardRecord;
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use kilonova_runtime::readiness::Readiness;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::Key;
use kilonova_store::{Compare, LeaseId, StoreError, Txn, TxnOutcome, WatchEvent, WatchFrom};
use parking_lot::RwLock;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use assign::{SHARDS, preferred, shard_of, shards_of};
use holders::{Holder, Holders};

use crate::db::Db;
use crate::identity::StoreIdentity;

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

impl Fence {
    /// Only while it is this conductor's right.
    #[must_use]
    pub fn holds(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.revision)
    }
}

/// What this conductor owns. Clones share it.
#[derive(Clone)]
pub struct Shards {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    holders: RwLock<Holders>,
    settled: watch::Sender<bool>,
}

/// Why a conductor has to join anew.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the lease was not renewed in time")]
    Late,
    #[error("this conductor's own key is gone")]
    KeyGone,
    #[error("the store went back to an earlier state, or is another one")]
    WentBack,
    #[error("the store is not what it was, and not accepted")]
    NotAccepted,
}

impl Shards {
    /// Takes part in the sharing in a task of `tasks`. `gained` is told when shards became this one's.
    pub fn join(
        db: Db,
        identity: StoreIdentity,
        conductor: HostName,
        epochs: watch::Receiver<Epoch>,
        ttl: Duration,
        gained: mpsc::Sender<()>,
        tasks: &Tasks,
    ) -> Self {
        let holders = RwLock::default();
        let shared = Arc::new(Shared { db: db.clone(), holders, settled: watch::Sender::new(false) });
        let member = Member { db, identity, conductor, epochs, ttl, gained, shared: shared.clone() };
        tasks.spawn_graceful("shards", move |token| async move {
            let mut backoff = Backoff::new(BackoffPolicy::retry());
            while !token.is_cancelled() {
                tokio::select! {
                    () = token.cancelled() => break,
                    () = member.may_drive() => {}
                }
                let began = Instant::now();
                if let Err(why) = member.hold(&token).await {
                    tracing::warn!(%why, "shards are not held; joining again");
                }
                if began.elapsed() > ttl {
                    backoff.reset();
                }
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
        let shard = shard_of(id);
        let revision = self.shared.holders.read().own(shard)?;
        Some(Fence { key: self.shared.db.keys.shard(shard), revision })
    }

    /// Whether the shard of this id is this conductor's.
    #[must_use]
    pub fn owns(&self, id: &impl ToString) -> bool {
        self.shared.holders.read().own(shard_of(id)).is_some()
    }

    /// How many shards each conductor owns.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<HostName, u32> {
        self.shared.holders.read().count()
    }

    /// How many shards are this conductor's.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.shared.holders.read().all_own().len()
    }

    /// Says in a task of `tasks` when shards have had no owner for as long as a lease lives.
    pub fn watch_unowned(&self, identity: StoreIdentity, ttl: Duration, readiness: Readiness, tasks: &Tasks) {
        tasks.spawn("unowned shards", unowned::watch(self.clone(), identity, ttl, readiness));
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
    identity: StoreIdentity,
    conductor: HostName,
    epochs: watch::Receiver<Epoch>,
    ttl: Duration,
    gained: mpsc::Sender<()>,
    shared: Arc<Shared>,
}

impl Member {
    /// Waits until records are to be driven. A conductor that waits for that has taken part as it should.
    async fn may_drive(&self) {
        tokio::select! {
            () = self.identity.until(true) => {}
            () = self.identity.until(false) => {
                self.shared.settled.send_replace(true);
                self.identity.until(true).await;
            }
        }
    }

    /// Holds a lease and shares, until the lease or the store is lost or `token` is cancelled.
    async fn hold(&self, token: &CancellationToken) -> Result<(), Left> {
        let granted = Instant::now();
        let lease = self.db.store.grant_lease(self.ttl).await?;
        self.shared.holders.write().begin(lease);
        let outcome = tokio::select! {
            why = self.renew(lease, granted) => Err(why),
            why = self.share(lease) => why,
            () = self.identity.until(false) => Err(Left::NotAccepted),
            () = token.cancelled() => Ok(()),
        };
        self.shared.holders.write().end();
        match self.db.store.revoke_lease(lease).await {
            Ok(()) | Err(StoreError::LeaseGone) => {}
            Err(error) => tracing::warn!(%error, "the shards stay held until the lease ends"),
        }
        outcome
    }

    /// Keeps the lease; returns when it is lost, or may be by the store's clock.
    async fn renew(&self, lease: LeaseId, granted: Instant) -> Left {
        let mut renewed = granted;
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let asked = Instant::now();
            // Who stood still asks all the same: every write is fenced, and the store may not have let go of the lease.
            let deadline = (renewed + self.ttl).max(asked + self.ttl / 3);
            match tokio::time::timeout_at(deadline, self.db.store.keep_alive(lease)).await {
                Ok(Ok(())) => renewed = asked,
                Ok(Err(StoreError::LeaseGone)) => return StoreError::LeaseGone.into(),
                Ok(Err(error)) if renewed.elapsed() < self.ttl => {
                    tracing::warn!(%error, "cannot renew the lease on the shards");
                }
                Ok(Err(_)) | Err(_) => return Left::Late,
            }
        }
    }

    async fn share(&self, lease: LeaseId) -> Result<(), Left> {
        let keys = &self.db.keys;
        let me = Txn::new().put_leased(keys.owner(&self.conductor), self.record(lease), lease);
        self.db.store.txn(me).await?;
        let mut owners = self.db.store.watch(&keys.owners(), WatchFrom::Snapshot);
        let mut shards = self.db.store.watch(&keys.shards(), WatchFrom::Snapshot);
        let mut alive: Option<BTreeSet<HostName>> = None;
        let mut mine = BTreeSet::new();
        let mut listed = false;
        loop {
            tokio::select! {
                Some(event) = owners.next() => {
                    if is_of_another_history(&event) {
                        return Err(Left::WentBack);
                    }
                    take_owners(&mut alive, event, &self.db);
                    if alive.as_ref().is_some_and(|alive| !alive.contains(&self.conductor)) {
                        return Err(Left::KeyGone);
                    }
                    mine = alive.as_ref().map_or_else(BTreeSet::new, |alive| shards_of(&self.conductor, alive));
                }
                Some(event) = shards.next() => {
                    listed = true;
                    // What came together is answered together.
                    let mut next = Some(event);
                    while let Some(event) = next {
                        if is_of_another_history(&event) {
                            return Err(Left::WentBack);
                        }
                        self.take_shards(event);
                        next = shards.next().now_or_never().flatten();
                    }
                }
            }
            if alive.is_some() && listed {
                self.balance(&mine, lease).await?;
                self.shared.settled.send_replace(true);
            }
        }
    }

    /// Gives up what others should own and takes what is free and should be this one's.
    async fn balance(&self, mine: &BTreeSet<u16>, lease: LeaseId) -> Result<(), StoreError> {
        let own = self.shared.holders.read().all_own();
        let excess: Vec<u16> = own.into_iter().filter(|shard| !mine.contains(shard)).collect();
        for batch in excess.chunks(BATCH) {
            self.give_up(batch).await?;
        }
        let free: Vec<u16> = {
            let holders = self.shared.holders.read();
            mine.iter().copied().filter(|shard| holders.is_free(*shard)).collect()
        };
        let mut taken = 0;
        for batch in free.chunks(BATCH) {
            taken += self.take(batch, lease).await?;
        }
        if taken > 0 {
            tracing::debug!(shards = taken, "took shards");
            // Full means that a look at all records is due already.
            let _ = self.gained.try_send(());
        }
        metrics::gauge!("conductor_shards_owned").set(self.shared.holders.read().all_own().len() as f64);
        Ok(())
    }

    async fn take(&self, batch: &[u16], lease: LeaseId) -> Result<usize, StoreError> {
        let txn = batch.iter().fold(Txn::new(), |txn, shard| {
            let key = self.db.keys.shard(*shard);
            txn.when_absent(key.clone()).put_leased(key, self.record(lease), lease)
        });
        match self.db.store.txn(txn).await? {
            TxnOutcome::Committed { revision } => {
                let mut holders = self.shared.holders.write();
                for shard in batch {
                    let conductor = Some(self.conductor.clone());
                    holders.put(*shard, Holder { conductor, lease: lease.0, created: revision });
                }
                Ok(batch.len())
            }
            // Somebody holds one of them: take them one by one.
            TxnOutcome::Conflict { .. } if batch.len() > 1 => {
                let mut taken = 0;
                for shard in batch {
                    taken += Box::pin(self.take(&[*shard], lease)).await?;
                }
                Ok(taken)
            }
            TxnOutcome::Conflict { .. } => Ok(0),
        }
    }

    async fn give_up(&self, batch: &[u16]) -> Result<(), StoreError> {
        // Forgotten first: from here on no step begins under these rights.
        let fences: Vec<Fence> = {
            let mut holders = self.shared.holders.write();
            let fence = |shard: &u16| {
                let revision = holders.own(*shard)?;
                holders.forget(*shard);
                Some(Fence { key: self.db.keys.shard(*shard), revision })
            };
            batch.iter().filter_map(fence).collect()
        };
        if let TxnOutcome::Conflict { .. } = self.db.store.txn(release(&fences)).await? {
            // One of them is somebody else's already: let go of the others one by one.
            for fence in &fences {
                self.db.store.txn(release(std::slice::from_ref(fence))).await?;
            }
        }
        tracing::debug!(shards = batch.len(), "gave up shards");
        Ok(())
    }

    fn take_shards(&self, event: WatchEvent) {
        let shard = |key: &str| match self.db.keys.parse(key) {
            Some(Key::Shard(shard)) => Some(shard),
            _ => None,
        };
        let mut holders = self.shared.holders.write();
        match event {
            WatchEvent::Snapshot { items, revision, .. } => {
                let listed = items.iter().filter_map(|item| Some((shard(&item.key)?, Holder::read(item))));
                holders.replace(listed, revision);
            }
            WatchEvent::Put(item) => {
                if let Some(shard) = shard(&item.key) {
                    holders.put(shard, Holder::read(&item));
                }
            }
            WatchEvent::Delete { key, revision } => {
                if let Some(shard) = shard(&key) {
                    holders.delete(shard, revision);
                }
            }
        }
    }

    fn record(&self, lease: LeaseId) -> Vec<u8> {
        let epoch = self.epochs.borrow().0;
        ShardRecord { conductor: self.conductor.to_string(), epoch, lease: lease.0 }.encode_to_vec()
    }
}

fn is_of_another_history(event: &WatchEvent) -> bool {
    matches!(event, WatchEvent::Snapshot { went_back: true, .. })
}

/// Deletes the keys of shards that are still owned by these rights.
fn release(fences: &[Fence]) -> Txn {
    fences.iter().fold(Txn::new(), |txn, fence| txn.when(fence.holds()).delete(fence.key.clone()))
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
