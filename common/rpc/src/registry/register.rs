//! Registering one member and staying registered.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, ServiceKind};
use kilonova_store::keys::Keys;
use kilonova_store::{Compare, SharedStore, StoreError, Txn, TxnOutcome};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::RegistryOptions;
use super::claim::{Attempt, Held, attempt};
use super::record::{self, Endpoint};
use crate::backoff::{Backoff, BackoffPolicy, Jitter};

/// After how many renewals the record itself is looked at.
const RENEWALS_PER_LOOK: u32 = 12;

/// A member that could not register.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Another process registered under the same name and keeps its registration alive.
    #[error(
        "{service} {host:?} at {ours} cannot start: {theirs} is registered under that name and alive (epoch {epoch}); \
         give one of the two another host name"
    )]
    Duplicate {
        /// The service.
        service: ServiceKind,
        /// The name both want.
        host: HostName,
        /// Where this one listens.
        ours: String,
        /// Where the other one listens.
        theirs: String,
        /// The other one's incarnation.
        epoch: Epoch,
    },
    /// The store did not take the registration.
    #[error("cannot register {service} {host:?}: {source}")]
    Store {
        /// The service.
        service: ServiceKind,
        /// The member.
        host: HostName,
        /// What the store said.
        source: StoreError,
    },
}

/// A member's place in the registry. Dropped without [`deregister`](Self::deregister), the record stays until
/// its lease ends, as after a crash.
pub struct Registration {
    shared: Arc<Shared>,
    epoch: watch::Receiver<Epoch>,
    tasks: JoinSet<()>,
}

impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration")
            .field("key", &self.shared.key)
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

struct Shared {
    store: SharedStore,
    keys: Keys,
    key: String,
    endpoint: Endpoint,
    options: RegistryOptions,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// None until it was put for the first time.
    held: Option<Held>,
    draining: bool,
}

impl Registration {
    pub(super) async fn start(
        store: SharedStore,
        keys: Keys,
        endpoint: Endpoint,
        options: RegistryOptions,
    ) -> Result<Self, RegisterError> {
        let held = Self::claim(&store, &keys, &endpoint, options.ttl).await?;
        let key = keys.endpoint(endpoint.service, &endpoint.host);
        tracing::info!(key, addr = endpoint.addr, epoch = %held.epoch, "registered");
        Ok(Self::keep(Shared { store, keys, key, endpoint, options, place: Mutex::default() }, Some(held)))
    }

    /// Goes on in the background if the store cannot be reached.
    pub(super) async fn start_eventually(
        store: SharedStore,
        keys: Keys,
        endpoint: Endpoint,
        options: RegistryOptions,
    ) -> Result<Self, RegisterError> {
        let key = keys.endpoint(endpoint.service, &endpoint.host);
        match store.get(&key).await {
            Err(error) if error.is_transient() => {
                tracing::warn!(key, %error, "the store cannot be reached; registering when it can");
                Ok(Self::keep(Shared { store, keys, key, endpoint, options, place: Mutex::default() }, None))
            }
            _ => Self::start(store, keys, endpoint, options).await,
        }
    }

    fn keep(mut shared: Shared, held: Option<Held>) -> Self {
        let (sender, epoch) = watch::channel(held.as_ref().map_or(Epoch(0), |held| held.epoch));
        shared.place.get_mut().held = held;
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(stay_registered(shared.clone(), sender));
        Self { shared, epoch, tasks }
    }

    /// Puts the first record, waiting for the lease of a dead predecessor to end.
    async fn claim(
        store: &SharedStore,
        keys: &Keys,
        endpoint: &Endpoint,
        ttl: Duration,
    ) -> Result<Held, RegisterError> {
        let key = keys.endpoint(endpoint.service, &endpoint.host);
        let patience = Instant::now() + after_a_dead_one(ttl);
        let pause = (ttl / 20).clamp(Duration::from_millis(10), Duration::from_millis(500));
        let (service, host) = (endpoint.service, endpoint.host.clone());
        let mut said = false;
        loop {
            match attempt(store, keys, endpoint, ttl, false).await {
                Ok(Attempt::Held(held)) => return Ok(held),
                Ok(Attempt::Again) => {}
                Ok(Attempt::Taken(other)) => {
                    if Instant::now() >= patience {
                        let (ours, theirs, epoch) = (endpoint.addr.clone(), other.addr, other.epoch);
                        return Err(RegisterError::Duplicate { service, host, ours, theirs, epoch });
                    }
                    if !said {
                        said = true;
                        tracing::warn!(key, theirs = other.addr, epoch = %other.epoch,
                            "the name is registered from another address; waiting for that lease to end");
                    }
                }
                Err(source) if source.is_transient() && Instant::now() < patience => {
                    tracing::warn!(key, error = %source, "registering failed; trying again");
                }
                Err(source) => return Err(RegisterError::Store { service, host, source }),
            }
            sleep(pause).await;
        }
    }

    /// The current incarnation; 0 while there is none yet. It changes when a lost lease made it necessary to register again.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        *self.epoch.borrow()
    }

    /// The current incarnation, as it changes.
    #[must_use]
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epoch.clone()
    }

    /// Asks callers for no new work. Stays so for the rest of the registration.
    pub async fn set_draining(&self) -> Result<(), StoreError> {
        let Shared { store, key, endpoint, .. } = &*self.shared;
        let mut place = self.shared.place.lock().await;
        place.draining = true;
        let Some(held) = &mut place.held else { return Ok(()) };
        let value = record::encode(endpoint, held.epoch, true);
        let unchanged = Compare::ModRevision(key.clone(), held.mod_revision);
        let put = Txn::new().when(unchanged).put_leased(key, value, held.lease);
        match store.txn(put).await? {
            TxnOutcome::Committed { revision } => held.mod_revision = revision,
            // The lease was lost; the record that is put next says it.
            TxnOutcome::Conflict { .. } => {}
        }
        Ok(())
    }

    /// Leaves the registry. On an error the record goes when its lease ends.
    pub async fn deregister(mut self) -> Result<(), StoreError> {
        self.tasks.shutdown().await;
        let place = self.shared.place.lock().await;
        let Some(held) = &place.held else { return Ok(()) };
        match self.shared.store.revoke_lease(held.lease).await {
            Err(StoreError::LeaseGone) | Ok(()) => {
                tracing::info!(key = self.shared.key, "deregistered");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// Renews the lease for ever; registers again, as a new incarnation, when the lease or the record is lost.
async fn stay_registered(shared: Arc<Shared>, epoch: watch::Sender<Epoch>) {
    let period = shared.options.ttl / 3;
    let mut failing = false;
    let mut look = false;
    let mut went_back = shared.store.went_back();
    if shared.place.lock().await.held.is_none() {
        register_again(&shared, &epoch).await;
    }
    for renewal in 1_u32.. {
        tokio::select! {
            () = sleep(period.mul_f64(0.9 + 0.2 * rand::random::<f64>())) => {}
            // The record may be gone, or an older one be in its place, whatever became of the lease.
            Ok(()) = went_back.changed() => look = true,
        }
        look |= renewal.is_multiple_of(RENEWALS_PER_LOOK);
        let renewed = match tokio::time::timeout(period, renew(&shared, look)).await {
            Ok(renewed) => renewed,
            Err(_) => Err(StoreError::Unavailable { message: format!("no answer within {period:?}") }),
        };
        match renewed {
            Ok(()) => {
                look = false;
                if std::mem::take(&mut failing) {
                    tracing::info!(key = shared.key, "the lease is renewed again");
                }
            }
            Err(StoreError::LeaseGone) => {
                tracing::warn!(key = shared.key, "the registration is lost; registering again");
                register_again(&shared, &epoch).await;
                (failing, look) = (false, false);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(key = shared.key, %error, "cannot renew the lease; serving on and trying on");
                }
            }
        }
    }
}

/// Renews the lease; on a look, also checks that the record is there: a live lease does not keep anybody from
/// deleting it.
async fn renew(shared: &Shared, look: bool) -> Result<(), StoreError> {
    let Some(lease) = shared.place.lock().await.held.as_ref().map(|held| held.lease) else {
        return Err(StoreError::LeaseGone);
    };
    shared.store.keep_alive(lease).await?;
    if look {
        let place = shared.place.lock().await;
        let (found, _) = shared.store.get(&shared.key).await?;
        if found.map(|found| found.mod_revision) != place.held.as_ref().map(|held| held.mod_revision) {
            return Err(StoreError::LeaseGone);
        }
    }
    Ok(())
}

/// How long the record of a dead predecessor may be in the way: leases end a little late.
fn after_a_dead_one(ttl: Duration) -> Duration {
    ttl + ttl / 4
}

async fn register_again(shared: &Shared, epoch: &watch::Sender<Epoch>) {
    let policy = BackoffPolicy::new(
        Duration::from_millis(500),
        Duration::from_secs(10).max(shared.options.ttl),
        2.0,
        Jitter::Full,
    )
    .expect("a valid policy");
    let mut backoff = Backoff::new(policy);
    let mut taken_since = None;
    loop {
        sleep(backoff.next_delay()).await;
        let mut place = shared.place.lock().await;
        let Shared { store, keys, key, endpoint, options, .. } = shared;
        match attempt(store, keys, endpoint, options.ttl, place.draining).await {
            Ok(Attempt::Held(new)) => {
                tracing::info!(key, epoch = %new.epoch, "registered again");
                epoch.send_replace(new.epoch);
                place.held = Some(new);
                return;
            }
            Ok(Attempt::Taken(other))
                if taken_since.get_or_insert_with(Instant::now).elapsed() < after_a_dead_one(options.ttl) =>
            {
                tracing::warn!(key, theirs = other.addr, epoch = %other.epoch,
                    "the name is registered from another address; waiting for that lease to end");
                // The store answers: it is not what is waited for.
                backoff.reset();
            }
            Ok(Attempt::Taken(other)) => {
                tracing::error!(key, ours = endpoint.addr, theirs = other.addr, epoch = %other.epoch,
                    "another process is registered under this name; stop one of the two");
            }
            Ok(Attempt::Again) => {}
            Err(error) => tracing::warn!(key, %error, "registering again failed; trying on"),
        }
    }
}
