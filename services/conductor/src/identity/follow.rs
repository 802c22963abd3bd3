//! What a conductor does about the store's identity all the time: it follows it, marks the store, and gives it another id when it went
//! back.

use std::time::Duration;

use futures::StreamExt;
use kilonova_model::Error;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::readiness::{Readiness, STORE};
use kilonova_store::{Txn, WatchFrom};
use tokio::time::{Instant, sleep_until};

use super::mark::{KEPT, Mark};
use super::{StoreIdentity, waits};

/// The time without a new mark after which a conductor makes one.
pub(super) const MARK_EVERY: Duration = Duration::from_secs(5);

/// The pause before a failed change is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The time after which every conductor has noticed that the store went back.
const NOTICED: Duration = Duration::from_secs(60);

/// What one conductor knows of the identity.
#[derive(Default)]
struct Known {
    store: pb::Store,
    since: Option<Instant>,
    /// The id that the store is not to have after it went back. Another conductor may have noticed that first and given it a new id, and
    /// an administrator have accepted that: so a new id counts after a while only.
    steady: String,
}

impl Known {
    fn take(&mut self, store: pb::Store, now: Instant) {
        if store.id != self.store.id {
            self.since = Some(now);
        }
        let is_steady = self.since.is_some_and(|since| now.duration_since(since) >= NOTICED);
        if is_steady || self.steady.is_empty() {
            self.steady.clone_from(&store.id);
        }
        self.store = store;
    }

    /// The store went back, and has this identity now.
    fn take_over(&mut self, store: pb::Store) {
        self.steady.clone_from(&store.id);
    }
}

impl StoreIdentity {
    /// Keeps the store marked, and gives it another id whenever this conductor finds that it went back, so that agents which had not
    /// heard of more wait too. Runs until it is cancelled.
    pub async fn follow(self, readiness: Readiness) {
        let mut went_back = self.db.went_back();
        let mut changes = self.db.store.watch(&self.db.keys.store_identity(), WatchFrom::Snapshot);
        let mut known = Known::default();
        let mut due = Instant::now();
        let mut failing = false;
        loop {
            let is_due = Instant::now() >= due;
            let looked = if is_due { self.marked(&known.store.mark).await } else { self.current().await };
            match looked {
                Ok(store) => {
                    if is_due || store.mark != known.store.mark {
                        due = Instant::now() + about(MARK_EVERY);
                    }
                    show(&store, &readiness);
                    known.take(store, Instant::now());
                    failing = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot read or mark the store's identity; trying until that succeeds");
                    }
                    due = Instant::now() + RETRY;
                }
            }
            tokio::select! {
                () = sleep_until(due) => {}
                change = changes.next() => if change.is_none() { return },
                changed = went_back.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    known.take_over(self.renewed(&known.steady).await);
                }
            }
        }
    }

    /// The identity, which is not this id; tried until that is so.
    async fn renewed(&self, id: &str) -> pb::Store {
        loop {
            match self.renew_identity(id).await {
                Ok(store) => return store,
                Err(error) => {
                    tracing::warn!(%error, "cannot give a store that went back another identity: tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// The identity, with another mark than this.
    pub(super) async fn marked(&self, stale: &str) -> Result<pb::Store, Error> {
        let store = self.current().await?;
        let is_first_look = stale.is_empty();
        if !is_first_look && store.mark != stale { Ok(store) } else { self.make_mark().await }
    }

    /// Makes a mark, and deletes the one that is no longer kept, unless the identity is just being changed.
    async fn make_mark(&self) -> Result<pb::Store, Error> {
        let seen = self.read().await?;
        let mark = Mark::after(seen.store.mark.parse().ok());
        let keys = &self.db.keys;
        let mut txn = Txn::new().put(keys.mark(mark.number), mark.to_string());
        if let Some(old) = mark.number.checked_sub(KEPT) {
            txn = txn.delete(keys.mark(old));
        }
        let store = pb::Store { mark: mark.to_string(), ..seen.store.clone() };
        match self.write(txn, &seen, store).await? {
            Some(store) => Ok(store),
            None => self.current().await,
        }
    }
}

/// Says whether the store waits for an administrator. A warning: the conductor has to be called to accept it.
fn show(store: &pb::Store, readiness: &Readiness) {
    match waits(store) {
        true if store.accepted => readiness.warn(
            STORE,
            format!(
                "nothing is driven before the hosts have compared what they have with store {}",
                store.id
            ),
        ),
        true => readiness.warn(
            STORE,
            format!(
                "store {} is not as {} was: nothing is driven before `kilonova store accept`",
                store.id, store.previous_id
            ),
        ),
        false => readiness.ok(STORE),
    }
}

/// Somewhat more or less, so that conductors do not mark at the same moment.
fn about(period: Duration) -> Duration {
    period.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}
