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
//!
//! Where calls to a service go may be told otherwise ([`Targets`]). Its members register in the store all the same.

mod claim;
mod dns;
mod fixed;
mod follow;
mod hold;
mod members;
mod options;
mod record;
mod register;
mod snapshot;
mod targets;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use kilonova_model::{CellName, ServiceKind};
use kilonova_store::{Keys, SharedStore};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use self::snapshot::Snapshot;

pub use dns::{Resolve, SystemResolver};
pub use members::{MemberSet, Members};
pub use options::RegistryOptions;
pub use record::{BadRecord, Endpoint, Member};
pub use register::{RegisterError, Registration};
pub use targets::{Address, BadTarget, DNS_REFRESH, Discovery, HostAddress, Targets, parse_static};

/// The members of all services of one cell. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// Where a registry gets to know members from, besides the store.
#[derive(Clone)]
pub struct Sources {
    /// How each service is found when it is called.
    pub targets: Targets,
    /// What resolves DNS names.
    pub resolver: Arc<dyn Resolve>,
    /// The file in which the members last known are kept.
    pub snapshot: Option<PathBuf>,
}

impl Default for Sources {
    fn default() -> Self {
        Self { targets: Targets::new(), resolver: Arc::new(SystemResolver), snapshot: None }
    }
}

struct Inner {
    store: SharedStore,
    cell: CellName,
    keys: Keys,
    targets: Targets,
    resolver: Arc<dyn Resolve>,
    snapshot: Option<Arc<Snapshot>>,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    members: HashMap<ServiceKind, Members>,
    routes: HashMap<ServiceKind, Members>,
    tasks: JoinSet<()>,
}

impl Registry {
    /// The registry of a cell, whose members are called where they registered.
    #[must_use]
    pub fn new(store: SharedStore, cell: CellName) -> Self {
        Self::with_sources(store, cell, Sources::default())
    }

    /// The registry of a cell.
    #[must_use]
    pub fn with_sources(store: SharedStore, cell: CellName, sources: Sources) -> Self {
        let keys = Keys::new(&cell);
        let Sources { targets, resolver, snapshot } = sources;
        let snapshot = snapshot.map(|path| Arc::new(Snapshot::open(path, cell.clone())));
        let followed = Mutex::default();
        Self { inner: Arc::new(Inner { store, cell, keys, targets, resolver, snapshot, followed }) }
    }

    /// The cell whose members these are.
    #[must_use]
    pub fn cell(&self) -> &CellName {
        &self.inner.cell
    }

    /// Whether the members of an earlier time were found in the snapshot's file.
    #[must_use]
    pub fn remembers(&self) -> bool {
        self.inner.snapshot.as_ref().is_some_and(|snapshot| snapshot.was_read())
    }

    /// Makes a member known, until it deregisters or stops renewing its lease.
    pub async fn register(
        &self,
        endpoint: Endpoint,
        options: RegistryOptions,
    ) -> Result<Registration, RegisterError> {
        Registration::start(self.inner.store.clone(), self.inner.keys.clone(), endpoint, options).await
    }

    /// The same; but while the store is out of reach, only begins with it. The registration has no epoch until it
    /// is made.
    pub async fn register_eventually(
        &self,
        endpoint: Endpoint,
        options: RegistryOptions,
    ) -> Result<Registration, RegisterError> {
        Registration::start_eventually(self.inner.store.clone(), self.inner.keys.clone(), endpoint, options)
            .await
    }

    /// The registered members of a service, kept current. One watch serves all who ask. Must be called within a
    /// runtime.
    #[must_use]
    pub fn members(&self, service: ServiceKind) -> Members {
        self.inner.members(&mut self.inner.followed.lock(), service)
    }

    /// Where calls to a service go: to its registered members, or where its target says. Must be called within a
    /// runtime.
    #[must_use]
    pub fn routes(&self, service: ServiceKind) -> Members {
        let mut followed = self.inner.followed.lock();
        if let Some(routes) = followed.routes.get(&service) {
            return routes.clone();
        }
        let routes = match self.inner.targets.get(&service).cloned().unwrap_or_default() {
            Discovery::Store => self.inner.members(&mut followed, service),
            Discovery::Static { members, host_address } => {
                followed.keep(fixed::list(service, &members, host_address))
            }
            Discovery::Mesh { address, host_address } => {
                followed.keep(fixed::mesh(service, &address, host_address))
            }
            Discovery::Dns { name, refresh, host_address } => {
                let resolver = self.inner.resolver.clone();
                followed.keep(dns::follow(service, name, refresh, host_address, resolver))
            }
        };
        followed.routes.insert(service, routes.clone());
        routes
    }
}

impl Inner {
    fn members(&self, followed: &mut Followed, service: ServiceKind) -> Members {
        if let Some(members) = followed.members.get(&service) {
            return members.clone();
        }
        let prefix = self.keys.endpoints(service);
        let watch = self.store.watch(&prefix, kilonova_store::WatchFrom::Snapshot);
        if let Some(snapshot) = self.snapshot.as_ref().filter(|_| followed.members.is_empty()) {
            followed.tasks.spawn(snapshot.clone().keep_written());
        }
        let members = followed.keep(follow::follow(service, prefix, watch, self.snapshot.clone()));
        followed.members.insert(service, members.clone());
        members
    }
}

impl Followed {
    /// Has the work done that keeps members current.
    fn keep(&mut self, (members, work): (Members, impl Future<Output = ()> + Send + 'static)) -> Members {
        self.tasks.spawn(work);
        members
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("root", &self.inner.keys.root()).finish_non_exhaustive()
    }
}
