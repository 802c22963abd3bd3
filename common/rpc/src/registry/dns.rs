//! Members found under a DNS name, resolved again and again.
//!
//! An answer without addresses, an error or no answer changes nothing: the last set stays, and its age shows in
//! `registry_dns_stale_seconds`.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kilonova_model::{Revision, ServiceKind};
use kilonova_store::WatchHealth;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::members::{MemberSet, Members, Unlisted, stale_for};
use super::targets::{Address, HostAddress, bare_member};
use crate::backoff::{Backoff, BackoffPolicy, Jitter};

/// How long one resolution may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// The first pause after a failure; then they grow up to the refresh.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Turns names into addresses.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `host:port`.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// What the system resolves with.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) })
    }
}

/// The handle to the members under a name, and the work that keeps it current.
pub(super) fn follow(
    service: ServiceKind,
    name: Address,
    refresh: Duration,
    host_address: Option<HostAddress>,
    resolver: Arc<dyn Resolve>,
) -> (Members, impl Future<Output = ()> + Send + 'static) {
    let (health, healthy) = watch::channel(WatchHealth::now(false));
    let (members, source) = Members::new(service, healthy);
    let first = FIRST_PAUSE.min(refresh);
    let policy = BackoffPolicy::new(first, refresh, 2.0, Jitter::Around(0.2)).expect("a valid policy");
    let work = async move {
        let unlisted = host_address.map_or(Unlisted::Unknown, Unlisted::At);
        let mut known = BTreeSet::new();
        let mut backoff = Backoff::new(policy);
        loop {
            let pause = match resolve(&*resolver, &name).await {
                Ok(found) => {
                    set_connected(&health, true);
                    backoff.reset();
                    if found != known {
                        tracing::info!(%service, name = name.as_str(), ?found, "the name has other addresses now");
                        known = found;
                        let revision = source.sets.borrow().revision.next();
                        let set = set_of(&known, &name, unlisted.clone(), revision);
                        source.sets.send_replace(Arc::new(set));
                    }
                    refresh.mul_f64(0.8 + 0.4 * rand::random::<f64>())
                }
                Err(why) => {
                    if set_connected(&health, false) || backoff.failures() == 0 {
                        tracing::warn!(%service, name = name.as_str(), why, kept = known.len(),
                            "the name cannot be resolved; the members known are kept");
                    }
                    backoff.next_delay()
                }
            };
            let stale = stale_for(&health.borrow()).as_secs_f64();
            metrics::gauge!("registry_dns_stale_seconds", "service" => service.as_str()).set(stale);
            metrics::gauge!("registry_dns_addresses", "service" => service.as_str()).set(known.len() as f64);
            sleep(pause).await;
        }
    };
    (members, work)
}

/// At least one address, or why there is none.
async fn resolve(resolver: &dyn Resolve, name: &Address) -> Result<BTreeSet<SocketAddr>, String> {
    match timeout(RESOLVE_DEADLINE, resolver.resolve(name.as_str())).await {
        Ok(Ok(found)) if found.is_empty() => Err("it has no address".to_owned()),
        Ok(Ok(found)) => Ok(found.into_iter().collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {RESOLVE_DEADLINE:?}")),
    }
}

fn set_of(
    addresses: &BTreeSet<SocketAddr>,
    name: &Address,
    unlisted: Unlisted,
    revision: Revision,
) -> MemberSet {
    let member = |address: &SocketAddr| {
        let address = Address::parse(&address.to_string()).ok()?;
        let host = address.host_name();
        let member = bare_member(host.clone(), address.as_str().to_owned(), name.as_str().to_owned());
        Some((host, Arc::new(member)))
    };
    let members = addresses.iter().filter_map(member).collect();
    MemberSet { members, unlisted, revision, ..MemberSet::default() }
}

/// Returns whether that is a change.
fn set_connected(health: &watch::Sender<WatchHealth>, connected: bool) -> bool {
    health.send_if_modified(|health| {
        let changed = health.connected != connected;
        if changed {
            *health = WatchHealth::now(connected);
        }
        changed
    })
}
