//! Locks by name, kept only while somebody holds one or waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A lock for each of many things. Clones share them. Whoever came first is served first.
#[derive(Debug)]
pub struct Locks<K> {
    locks: Arc<Mutex<BTreeMap<K, Arc<RwLock<()>>>>>,
}

impl<K> Clone for Locks<K> {
    fn clone(&self) -> Self {
        Self { locks: self.locks.clone() }
    }
}

impl<K> Default for Locks<K> {
    fn default() -> Self {
        Self { locks: Arc::default() }
    }
}

/// A lock that is held until this is dropped.
#[must_use]
#[derive(Debug)]
pub struct Held<G, K: Ord> {
    // Before the place, which looks whether anybody else has the lock.
    _guard: G,
    _place: Place<K>,
}

/// A lock held beside others that share it.
pub type Shared<K> = Held<OwnedRwLockReadGuard<()>, K>;
/// A lock held alone.
pub type Exclusive<K> = Held<OwnedRwLockWriteGuard<()>, K>;

/// A place among those who hold a lock or wait for it.
#[derive(Debug)]
struct Place<K: Ord> {
    locks: Locks<K>,
    key: K,
    lock: Option<Arc<RwLock<()>>>,
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut locks = self.locks.locks.lock();
        self.lock = None;
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

impl<K: Ord + Copy> Locks<K> {
    /// Waits until nobody holds it alone.
    pub async fn shared(&self, key: K) -> Shared<K> {
        let (place, lock) = self.place(key);
        Held { _guard: lock.read_owned().await, _place: place }
    }

    /// Waits until nobody else holds it.
    pub async fn exclusive(&self, key: K) -> Exclusive<K> {
        let (place, lock) = self.place(key);
        Held { _guard: lock.write_owned().await, _place: place }
    }

    /// How many things are locked, or waited for.
    pub fn count(&self) -> usize {
        self.locks.lock().len()
    }

    fn place(&self, key: K) -> (Place<K>, Arc<RwLock<()>>) {
        let lock = self.locks.lock().entry(key).or_default().clone();
        (Place { locks: self.clone(), key, lock: Some(lock.clone()) }, lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_alone_or_many_together_and_nothing_is_kept_of_what_nobody_holds() {
        let locks = Locks::default();
        let first = locks.shared(7).await;
        let second = locks.shared(7).now_or_never().unwrap();
        assert!(locks.exclusive(7).now_or_never().is_none(), "whoever gives up waiting leaves nothing");
        assert!(locks.exclusive(8).now_or_never().is_some());
        drop((first, second));
        assert_eq!(locks.count(), 0);
        let alone = locks.exclusive(7).await;
        assert!(locks.shared(7).now_or_never().is_none());
        let mut waiting = Box::pin(locks.exclusive(7));
        assert!((&mut waiting).now_or_never().is_none());
        drop(alone);
        assert_eq!(locks.count(), 1, "somebody waits");
        drop(waiting);
        assert_eq!(locks.count(), 0);
    }
}
