//! Who is there: members of services register in the store under a lease, and everybody follows them by a watch.
//!
//! ```text
//!  register ──get(own key) at revision R──► taken by another? ── yes ─► wait one TTL ─► refuse
//!      ▲                                         │ no
//!      │ jittered backoff                        ▼
//!      └── lease gone ◄── renew every TTL/3 ◄── put leased, guarded by "as read", epoch = R
//! ```
//!
//! The epoch of an incarnation is the store's revision read together with the own key just before the guarded
//! put. A put moves the revision, so a later incarnation always reads a greater one: no clock is involved.
//!
//! An outage of the store never makes members disappear: a member goes when its key is deleted, not when the
//! registry cannot be read. And when most go at once, they are held until they do not answer (`hold`).

mod claim;
mod follow;
mod hold;
mod members;
mod record;
mod register;

use std::collections::HashMap;
use std::sync::Arc;

use kilonova_model::{CellName, ServiceKind};
use kilonova_store::{Keys, SharedStore};
use parking_lot::Mutex;
use tokio::task::JoinSet;

pub use members::{MemberSet, Members};
pub use record::{BadRecord, Endpoint, Member};
pub use register::{RegisterError, Registration, RegistryOptions};

/// The members of all services of one cell. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    store: SharedStore,
    keys: Keys,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    members: HashMap<ServiceKind, Members>,
    tasks: JoinSet<()>,
}

impl Registry {
    /// The registry of a cell.
    #[must_use]
    pub fn new(store: SharedStore, cell: CellName) -> Self {
        let keys = Keys::new(&cell);
        Self { inner: Arc::new(Inner { store, keys, followed: Mutex::default() }) }
    }

    /// Makes a member known, until it deregisters or stops renewing its lease.
    pub async fn register(
        &self,
        endpoint: Endpoint,
        options: RegistryOptions,
    ) -> Result<Registration, RegisterError> {
        let key = self.inner.keys.endpoint(endpoint.service, &endpoint.host);
        Registration::start(self.inner.store.clone(), key, endpoint, options).await
    }

    /// The members of a service, kept current. One watch serves all who ask. Must be called within a runtime.
    #[must_use]
    pub fn members(&self, service: ServiceKind) -> Members {
        let mut followed = self.inner.followed.lock();
        if let Some(members) = followed.members.get(&service) {
            return members.clone();
        }
        let prefix = self.inner.keys.endpoints(service);
        let watch = self.inner.store.watch(&prefix, kilonova_store::WatchFrom::Snapshot);
        let (members, follow) = follow::follow(service, prefix, watch);
        followed.tasks.spawn(follow);
        followed.members.insert(service, members.clone());
        members
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("root", &self.inner.keys.root()).finish_non_exhaustive()
    }
}
