//! Follows the other schedulers, so that they do not all choose the same hosts.

use std::sync::Arc;

use kilonova_rpc::registry::Members;

use crate::placement::Apart;
use crate::state::State;

/// Tells both kinds of placement who else decides, as it changes.
pub(super) async fn follow(state: Arc<State>, schedulers: Members) {
    schedulers.known().await;
    let mut changes = schedulers.subscribe();
    loop {
        let set = changes.borrow_and_update().clone();
        let serving = set.members.iter().filter(|(_, member)| !member.draining);
        let others = serving.map(|(host, _)| host).filter(|host| **host != state.host);
        let apart = Apart::new(state.host.as_str(), others.map(kilonova_model::HostName::as_str));
        state.hosts.lock().keep_apart(apart.clone());
        state.backends.lock().keep_apart(apart);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
