//! The current capabilities of one host, for anyone who watches.
//!
//! There is one current value, never a queue: a reader that was away for ten changes sees the tenth. The generation
//! grows by one with every change, so that a reader can order what it gets without clocks.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::Error;
use kilonova_proto::capability::v1::watch_capabilities_response::Event as Out;
use kilonova_proto::capability::v1::{Heartbeat, SnapshotEnd, WatchCapabilitiesResponse};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::publish::{Ask, Event, Frames, Publication, PublishOptions};
use parking_lot::Mutex;

use super::capability_server::{CAPABILITY_SERVICE, WATCH};

/// The capabilities one host publishes. Clones share them.
#[derive(Clone, Debug)]
pub struct CapabilityPublisher {
    current: Arc<Mutex<Arc<Capabilities>>>,
    /// Of one key: there is one host. Its generations are the value's.
    publication: Publication<(), Capabilities>,
}

impl CapabilityPublisher {
    /// Starts with these, as generation 1.
    pub fn new(first: Capabilities) -> Self {
        let first = Capabilities { generation: 1, ..first };
        let options = PublishOptions {
            heartbeat: Duration::from_secs(2),
            heartbeats: Duration::from_millis(500)..=Duration::from_secs(60),
            ..PublishOptions::default()
        };
        let publication = Publication::new((CAPABILITY_SERVICE, WATCH), first.epoch, options, message);
        publication.put((), &first);
        Self { current: Arc::new(Mutex::new(Arc::new(first))), publication }
    }

    /// Changes them. `change` reads the figures while no other change can come between, so that what is published
    /// last is also newest. Readers are told only if anything differs.
    pub fn publish(&self, change: impl FnOnce(&mut Capabilities)) {
        let mut current = self.current.lock();
        let mut next = Capabilities::clone(&current);
        change(&mut next);
        next.generation = current.generation;
        if next == **current {
            return;
        }
        next.generation += 1;
        if next.epoch != current.epoch {
            self.publication.renew(next.epoch);
        }
        self.publication.put((), &next);
        *current = Arc::new(next);
    }

    /// What is published now.
    pub fn current(&self) -> Arc<Capabilities> {
        self.current.lock().clone()
    }

    /// What is published, and every change of it.
    pub fn subscribe(&self, ask: &Ask<'_>) -> Result<Frames, Error> {
        self.publication.subscribe(ask)
    }
}

fn message(event: Event<Capabilities>, resume_token: String) -> WatchCapabilitiesResponse {
    let event = match event {
        Event::Snapshot(capabilities) => Some(Out::Snapshot(capabilities)),
        Event::SnapshotEnd => Some(Out::SnapshotEnd(SnapshotEnd {})),
        Event::Update(capabilities) => Some(Out::Update(capabilities)),
        // The one value there is never goes.
        Event::Delete(_) => None,
        Event::Heartbeat => Some(Out::Heartbeat(Heartbeat {})),
    };
    WatchCapabilitiesResponse { event, resume_token }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_grows_with_changes_only() {
        let publisher = CapabilityPublisher::new(Capabilities::default());
        let published = || (publisher.current().generation, publisher.publication.counts().generation);
        publisher.publish(|_| {});
        assert_eq!(published(), (1, 1));
        publisher.publish(|capabilities| capabilities.enabled = true);
        publisher.publish(|capabilities| capabilities.traits.push("X".into()));
        assert_eq!(published(), (3, 3));
        let seen = publisher.current();
        assert_eq!((seen.enabled, seen.traits.len()), (true, 1));
    }
}
