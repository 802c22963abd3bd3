//! The members of one service, as a value that changes.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kilonova_model::{HostName, Revision, ServiceKind};
use kilonova_store::{KeyValue, Watch, WatchEvent, WatchHealth};
use tokio::sync::watch;

use super::record::{self, Member};

/// How often the age of stale knowledge is reported.
const STALENESS_INTERVAL: Duration = Duration::from_secs(5);

/// The members of one service at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberSet {
    /// By name.
    pub members: BTreeMap<HostName, Arc<Member>>,
    /// The registry's revision; 0 before the registry was first read.
    pub revision: Revision,
}

impl MemberSet {
    /// Whether the registry has been read at all.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.revision > Revision(0)
    }

    /// The member of that name.
    #[must_use]
    pub fn get(&self, host: &HostName) -> Option<&Arc<Member>> {
        self.members.get(host)
    }
}

/// The members of one service, kept current by a task of the [`Registry`](super::Registry).
#[derive(Debug, Clone)]
pub struct Members {
    service: ServiceKind,
    current: watch::Receiver<Arc<MemberSet>>,
    health: watch::Receiver<WatchHealth>,
}

impl Members {
    /// Whose members these are.
    #[must_use]
    pub fn service(&self) -> ServiceKind {
        self.service
    }

    /// The members now.
    #[must_use]
    pub fn current(&self) -> Arc<MemberSet> {
        self.current.borrow().clone()
    }

    /// The members as they change. Changes that come together are seen as one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<MemberSet>> {
        self.current.clone()
    }

    /// Waits until the registry has been read once.
    pub async fn known(&self) -> Arc<MemberSet> {
        let mut current = self.current.clone();
        match current.wait_for(|set| set.is_known()).await {
            Ok(set) => set.clone(),
            Err(_) => self.current(),
        }
    }

    /// The least minor version of the interface that the members implement which are not about to leave: what may be
    /// asked of any of them. None while there are none.
    #[must_use]
    pub fn cap(&self) -> Option<u32> {
        let current = self.current.borrow();
        current.members.values().filter(|member| !member.draining).map(|member| member.minor).min()
    }

    /// For how long the registry has been out of reach; zero while it is followed.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        stale_for(&self.health.borrow())
    }
}

fn stale_for(health: &WatchHealth) -> Duration {
    if health.connected { Duration::ZERO } else { health.since.elapsed() }
}

/// The handle to a service's members, and the work that keeps it current.
pub(super) fn follow(
    service: ServiceKind,
    prefix: String,
    mut events: Watch,
) -> (Members, impl Future<Output = ()> + Send + 'static) {
    let health = events.health();
    let (sender, current) = watch::channel(Arc::new(MemberSet::default()));
    let members = Members { service, current, health: health.clone() };
    let work = async move {
        let mut set = MemberSet::default();
        let mut report = tokio::time::interval(STALENESS_INTERVAL);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { break };
                    apply(&mut set, &prefix, event);
                    while let Some(Some(event)) = events.next().now_or_never() {
                        apply(&mut set, &prefix, event);
                    }
                    metrics::gauge!("registry_endpoints", "service" => service.as_str())
                        .set(set.members.len() as f64);
                    sender.send_replace(Arc::new(set.clone()));
                }
                _ = report.tick() => {
                    metrics::gauge!("registry_stale_seconds", "service" => service.as_str())
                        .set(stale_for(&health.borrow()).as_secs_f64());
                }
            }
        }
    };
    (members, work)
}

/// Brings the set to what an event says. A re-read that finds nothing at all where there were members is not
/// believed: that is what a store that lost its leases looks like, and who is really gone does not answer.
fn apply(set: &mut MemberSet, prefix: &str, event: WatchEvent) {
    set.revision = event.revision();
    match event {
        WatchEvent::Snapshot { items, .. } => {
            if items.is_empty() && !set.members.is_empty() {
                tracing::warn!(
                    prefix,
                    kept = set.members.len(),
                    "the registry came back empty; members kept"
                );
                return;
            }
            set.members = items.iter().filter_map(|item| read(prefix, item)).collect();
        }
        WatchEvent::Put(item) => {
            if let Some((host, member)) = read(prefix, &item) {
                set.members.insert(host, member);
            }
        }
        WatchEvent::Delete { key, .. } => {
            if let Some(host) = host_of(prefix, &key) {
                set.members.remove(&host);
            }
        }
    }
}

fn read(prefix: &str, item: &KeyValue) -> Option<(HostName, Arc<Member>)> {
    let Some(host) = host_of(prefix, &item.key) else {
        tracing::warn!(key = item.key, "skipped: the key does not end in a host name");
        return None;
    };
    match record::decode(&host, &item.value) {
        Ok(member) => Some((host, Arc::new(member))),
        Err(error) => {
            tracing::warn!(key = item.key, %error, "skipped a malformed endpoint");
            None
        }
    }
}

fn host_of(prefix: &str, key: &str) -> Option<HostName> {
    HostName::parse(key.strip_prefix(prefix)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "kilonova/v1/c/endpoints/compute/";

    fn item(host: &str, value: &str, revision: u64) -> KeyValue {
        KeyValue {
            key: format!("{PREFIX}{host}"),
            value: value.to_owned().into(),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            leased: true,
        }
    }

    fn hosts(set: &MemberSet) -> Vec<&str> {
        set.members.keys().map(HostName::as_str).collect()
    }

    #[test]
    fn events_make_the_set_and_malformed_values_are_skipped() {
        let mut set = MemberSet::default();
        let items = vec![item("a", r#"{"Addr":"a:1"}"#, 3), item("b", "nonsense", 4)];
        apply(&mut set, PREFIX, WatchEvent::Snapshot { items, revision: Revision(5) });
        assert_eq!(hosts(&set), ["a"]);
        assert!(set.is_known());
        apply(&mut set, PREFIX, WatchEvent::Put(item("b", r#"{"Addr":"b:1"}"#, 6)));
        apply(&mut set, PREFIX, WatchEvent::Put(item("a", "{", 7)));
        assert_eq!(hosts(&set), ["a", "b"]);
        assert_eq!(set.revision, Revision(7));
        apply(&mut set, PREFIX, WatchEvent::Delete { key: format!("{PREFIX}a"), revision: Revision(8) });
        assert_eq!(hosts(&set), ["b"]);
    }

    #[test]
    fn an_empty_re_read_does_not_empty_the_set() {
        let mut set = MemberSet::default();
        apply(&mut set, PREFIX, WatchEvent::Put(item("a", r#"{"Addr":"a:1"}"#, 3)));
        apply(&mut set, PREFIX, WatchEvent::Snapshot { items: Vec::new(), revision: Revision(9) });
        assert_eq!(hosts(&set), ["a"]);
    }
}
