//! Waits until the hosts have compared what they have with a store that was put back and accepted.
//!
//! What a host has that its records do not explain is in the records only then. Before it is, a build or a move that the store's copy had
//! under way would be done a second time elsewhere. Hosts compare when they see that the store is another one, and say so when they register.

use std::collections::BTreeSet;
use std::time::Duration;

use kilonova_model::HostName;
use tokio::time::{Instant, sleep};

use super::HostId;
use crate::identity::StoreIdentity;
use crate::reach::{Reach, Standing};

/// The time between two looks at the hosts.
const LOOK: Duration = Duration::from_millis(200);
/// The longest that a host which is registered is waited for: many times what comparing takes. One that hangs holds up the whole cell.
const PATIENCE: Duration = Duration::from_secs(180);

/// Notes in the store that the hosts have compared, each time that a store was accepted; runs until it is cancelled. Hosts that are not
/// registered have `grace` to come.
pub async fn note(identity: StoreIdentity, reaches: [Reach; 2], grace: Duration) {
    loop {
        let store = identity.until_to_compare().await;
        let since = Instant::now();
        let left = loop {
            let left =
                reaches.iter().flat_map(|reach| left(reach, &store.id, since.elapsed() < grace)).collect();
            let is_over = BTreeSet::is_empty(&left) || since.elapsed() >= PATIENCE;
            if is_over || identity.id() != store.id {
                break left;
            }
            sleep(LOOK).await;
        };
        if !left.is_empty() {
            tracing::error!(
                id = store.id,
                hosts = left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                "these hosts are registered and have not compared what they have with the store: not waited for any longer"
            );
        }
        if let Err(error) = identity.set_compared(&store.id).await {
            tracing::warn!(%error, "cannot note that the hosts have compared: tried again");
            sleep(LOOK).await;
        }
    }
}

/// The hosts of one kind that have yet to compare.
fn left(reach: &Reach, store: &str, is_early: bool) -> BTreeSet<HostName> {
    let members = reach.members.current();
    let registered = members.members.keys().chain(members.held.keys()).cloned();
    let known =
        reach.hosts.ids(|(service, _), _| *service == reach.service).into_iter().map(|(_, host)| host);
    let expected = known.filter(|host| is_early && reach.standing(host.as_str()) != Standing::Fenced);
    let has_compared = |host: &HostName| {
        let id: HostId = (reach.service, host.clone());
        reach.hosts.get(&id).is_some_and(|entry| entry.record.compared_store_id == store)
    };
    registered.chain(expected).filter(|host| !has_compared(host)).collect()
}
