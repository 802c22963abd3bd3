//! Following the members of one service in the store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kilonova_model::{Epoch, HostName, ServiceKind};
use kilonova_store::{KeyValue, Watch, WatchEvent};
use tokio::time::Instant;

use super::RegistryOptions;
use super::hold::{ByHost, Hold, Vanished};
use super::members::{MemberSet, Members, stale_for};
use super::record::{self, Member};
use super::snapshot::Snapshot;

/// How often the age of stale knowledge is reported.
const STALENESS_INTERVAL: Duration = Duration::from_secs(5);

/// The handle to a service's members, and the work that keeps it current.
pub(super) fn follow(
    service: ServiceKind,
    prefix: String,
    mut events: Watch,
    snapshot: Option<Arc<Snapshot>>,
) -> (Members, impl Future<Output = ()> + Send + 'static) {
    let health = events.health();
    let (members, mut source) = Members::new(service, health.clone());
    let mut follower = Follower::new(service, prefix);
    if let Some(set) = snapshot.as_ref().and_then(|snapshot| snapshot.get(service)) {
        tracing::info!(%service, members = set.members.len(), "members known from an earlier time");
        follower.set = MemberSet::clone(&set);
        follower.measure();
        source.sets.send_replace(set);
    }
    let work = async move {
        let mut report = tokio::time::interval(STALENESS_INTERVAL);
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { break };
                    follower.apply(event);
                    while let Some(Some(event)) = events.next().now_or_never() {
                        follower.apply(event);
                    }
                }
                Some((host, epoch)) = source.gone.recv() => {
                    follower.gone(&host, epoch);
                    while let Ok((host, epoch)) = source.gone.try_recv() {
                        follower.gone(&host, epoch);
                    }
                }
                _ = report.tick() => {
                    metrics::gauge!("registry_stale_seconds", "service" => service.as_str())
                        .set(stale_for(&health.borrow()).as_secs_f64());
                    continue;
                }
            }
            follower.measure();
            let set = Arc::new(follower.set.clone());
            if let Some(snapshot) = &snapshot {
                snapshot.put(service, &set);
            }
            source.sets.send_replace(set);
        }
    };
    (members, work)
}

/// Brings a set to what events say.
struct Follower {
    service: ServiceKind,
    prefix: String,
    set: MemberSet,
    hold: Hold,
}

impl Follower {
    fn new(service: ServiceKind, prefix: String) -> Self {
        let hold = Hold::new(RegistryOptions::for_service(service).ttl);
        Self { service, prefix, set: MemberSet::default(), hold }
    }

    fn apply(&mut self, event: WatchEvent) {
        self.set.revision = event.revision();
        match event {
            WatchEvent::Snapshot { items, went_back, .. } => {
                let listed: ByHost = items.iter().filter_map(|item| self.read(item)).collect();
                let how = match listed.is_empty() {
                    _ if went_back => Vanished::WithTheStore,
                    true => Vanished::All,
                    false => Vanished::Some,
                };
                self.adopt_all(listed, how);
            }
            WatchEvent::Put(item) => {
                if let Some((host, member)) = self.read(&item) {
                    self.returned(&host);
                    self.set.members.insert(host, member);
                }
            }
            WatchEvent::Delete { key, .. } => {
                if let Some(host) = host_of(&self.prefix, &key)
                    && let Some(member) = self.set.members.remove(&host)
                {
                    let remaining = self.set.members.len();
                    self.vanished([member], remaining, Vanished::Some);
                }
            }
        }
    }

    /// A listing takes the place of all that was known.
    fn adopt_all(&mut self, listed: ByHost, how: Vanished) {
        let known = std::mem::replace(&mut self.set.members, listed);
        let (stayed, left): (Vec<_>, Vec<_>) =
            known.into_values().partition(|member| self.set.members.contains_key(&member.host));
        let back: Vec<_> = self.set.members.keys().cloned().collect();
        for host in back {
            self.returned(&host);
        }
        if !left.is_empty() {
            self.vanished(left, stayed.len(), how);
        }
    }

    fn vanished(&mut self, left: impl IntoIterator<Item = Arc<Member>>, remaining: usize, how: Vanished) {
        let before = self.set.held.len();
        let held = self.hold.judge(Instant::now(), left, remaining, how);
        let members = &self.set.members;
        self.set.held.extend(held.into_iter().filter(|(host, _)| !members.contains_key(host)));
        if before == 0 && !self.set.held.is_empty() {
            tracing::warn!(
                service = %self.service, held = self.set.held.len(), remaining,
                "most members vanished from the registry at once; they are called as long as they serve"
            );
        }
    }

    /// The member is there.
    fn returned(&mut self, host: &HostName) {
        self.hold.forget(host);
        if self.set.held.remove(host).is_some() {
            self.let_go();
        }
    }

    /// Connecting to the member failed.
    fn gone(&mut self, host: &HostName, epoch: Epoch) {
        if self.set.held.get(host).is_some_and(|held| held.epoch == epoch) {
            self.hold.forget(host);
            self.set.held.remove(host);
            tracing::info!(service = %self.service, %host, "a held member does not answer and is gone");
            self.let_go();
        }
    }

    fn let_go(&self) {
        if self.set.held.is_empty() {
            tracing::info!(service = %self.service, members = self.set.members.len(), "no member is held any longer");
        }
    }

    fn read(&self, item: &KeyValue) -> Option<(HostName, Arc<Member>)> {
        let Some(host) = host_of(&self.prefix, &item.key) else {
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

    fn measure(&self) {
        let service = self.service.as_str();
        metrics::gauge!("registry_endpoints", "service" => service).set(self.set.members.len() as f64);
        metrics::gauge!("registry_held", "service" => service).set(self.set.held.len() as f64);
    }
}

fn host_of(prefix: &str, key: &str) -> Option<HostName> {
    HostName::parse(key.strip_prefix(prefix)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::Revision;

    const PREFIX: &str = "kilonova/v1/c/endpoints/compute/";

    fn follower() -> Follower {
        Follower::new(ServiceKind::Compute, PREFIX.to_owned())
    }

    fn item(host: &str, value: &str, revision: u64) -> KeyValue {
        KeyValue {
            key: format!("{PREFIX}{host}"),
            value: value.to_owned().into(),
            create_revision: Revision(revision),
            mod_revision: Revision(revision),
            leased: true,
        }
    }

    fn listing(hosts: &[&str], revision: u64) -> WatchEvent {
        let items = hosts.iter().map(|host| item(host, r#"{"Addr":"a:1"}"#, revision)).collect();
        WatchEvent::Snapshot { items, revision: Revision(revision), went_back: false }
    }

    fn put(host: &str, revision: u64) -> WatchEvent {
        WatchEvent::Put(item(host, r#"{"Addr":"a:1"}"#, revision))
    }

    fn delete(host: &str, revision: u64) -> WatchEvent {
        WatchEvent::Delete { key: format!("{PREFIX}{host}"), revision: Revision(revision) }
    }

    fn hosts(set: &ByHost) -> Vec<&str> {
        set.keys().map(HostName::as_str).collect()
    }

    #[test]
    fn events_make_the_set_and_malformed_values_are_skipped() {
        let mut follower = follower();
        let items = vec![item("a", r#"{"Addr":"a:1"}"#, 3), item("b", "nonsense", 4)];
        follower.apply(WatchEvent::Snapshot { items, revision: Revision(5), went_back: false });
        assert_eq!(hosts(&follower.set.members), ["a"]);
        assert!(follower.set.is_known());
        follower.apply(put("b", 6));
        follower.apply(WatchEvent::Put(item("a", "{", 7)));
        assert_eq!(hosts(&follower.set.members), ["a", "b"]);
        assert_eq!(follower.set.revision, Revision(7));
        follower.apply(delete("a", 8));
        assert_eq!(hosts(&follower.set.members), ["b"]);
        assert!(follower.set.held.is_empty());
    }

    #[test]
    fn a_listing_that_lacks_most_holds_them_until_they_return_or_do_not_answer() {
        let mut follower = follower();
        follower.apply(listing(&["a", "b", "c", "d"], 3));
        follower.apply(listing(&["d", "e"], 9));
        assert_eq!(hosts(&follower.set.members), ["d", "e"]);
        assert_eq!(hosts(&follower.set.held), ["a", "b", "c"]);
        follower.apply(put("b", 10));
        assert_eq!(hosts(&follower.set.members), ["b", "d", "e"]);
        follower.gone(&HostName::parse("a").unwrap(), Epoch(7));
        assert_eq!(hosts(&follower.set.held), ["a", "c"], "another incarnation");
        follower.gone(&HostName::parse("a").unwrap(), Epoch(0));
        assert_eq!(hosts(&follower.set.held), ["c"]);
        follower.apply(listing(&["b", "c", "d", "e"], 12));
        assert!(follower.set.held.is_empty());
    }

    #[test]
    fn an_empty_listing_holds_even_one() {
        let mut follower = follower();
        follower.apply(put("a", 3));
        follower.apply(listing(&[], 9));
        assert_eq!(hosts(&follower.set.held), ["a"]);
    }

    #[test]
    fn who_registered_after_the_copy_of_a_restored_store_is_held() {
        let mut follower = follower();
        follower.apply(listing(&["a", "b", "c", "d"], 30));
        let WatchEvent::Snapshot { items, revision, .. } = listing(&["a", "b", "c"], 9) else { return };
        follower.apply(WatchEvent::Snapshot { items, revision, went_back: true });
        assert_eq!(hosts(&follower.set.held), ["d"]);
        assert_eq!(follower.set.revision, Revision(9));
        follower.apply(put("d", 10));
        assert!(follower.set.held.is_empty());
    }

    #[test]
    fn deletes_of_most_hold_the_first_of_them_too() {
        let mut follower = follower();
        follower.apply(listing(&["a", "b", "c", "d"], 3));
        for (host, revision) in [("a", 4), ("b", 5)] {
            follower.apply(delete(host, revision));
        }
        assert!(follower.set.held.is_empty());
        follower.apply(delete("c", 6));
        assert_eq!(hosts(&follower.set.held), ["a", "b", "c"]);
        assert_eq!(hosts(&follower.set.members), ["d"]);
    }

    #[test]
    fn one_who_came_back_is_not_held() {
        let mut follower = follower();
        follower.apply(listing(&["a", "b", "c"], 3));
        follower.apply(delete("a", 4));
        follower.apply(put("a", 5));
        follower.apply(delete("b", 6));
        assert!(follower.set.held.is_empty());
        follower.apply(delete("c", 7));
        assert_eq!(hosts(&follower.set.held), ["b", "c"]);
    }
}
