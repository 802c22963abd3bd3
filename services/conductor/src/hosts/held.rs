//! Finds out which of the hosts that vanished from the registry at once are gone.
//!
//! They are held, that is taken for registered, until connecting to them fails (`kilonova_rpc::registry`). A host that is held and not called
//! would be so for ever, and be neither fenced nor evacuated.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_rpc::registry::Members;
use tokio::time::{Instant, sleep};

/// The time between two attempts to connect to the hosts that are held.
const EVERY: Duration = Duration::from_secs(1);
/// The longest that connecting to one may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most that are connected to at once.
const AT_ONCE: usize = 64;

/// Connects to the hosts of one kind that are held, again and again while there are any: the registry lets go of those to which that
/// fails. Runs until it is cancelled.
pub async fn probe(peers: Peers, members: Members) {
    let mut sets = members.subscribe();
    // The sender lives as long as the registry.
    while let Ok(set) = sets.wait_for(|set| !set.held.is_empty()).await.map(|set| set.clone()) {
        let channels: Vec<_> = set.held.keys().map(|host| peers.call_host(members.service(), host)).collect();
        let connect = |channel: Channel| async move {
            // That it fails is heard by the registry.
            let _ = channel.wait_ready(Instant::now() + DEADLINE).await;
        };
        stream::iter(channels).for_each_concurrent(AT_ONCE, connect).await;
        sleep(EVERY).await;
    }
}
