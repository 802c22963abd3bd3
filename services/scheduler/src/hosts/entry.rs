//! What is known of one host.

use std::sync::Arc;

use kilonova_model::{Epoch, Generation};
use kilonova_proto::types::v1::Capabilities;
use tokio::time::Instant;

use crate::placement::HostId;

/// One host.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: HostId,
    pub capabilities: Option<Arc<Capabilities>>,
    /// When the capabilities last came.
    pub received: Option<Instant>,
    /// Why its stream is not alive; `None` while it is.
    pub lost: Option<String>,
    pub draining: bool,
    pub left: Option<Instant>,
    /// Whether it is counted as up.
    pub counted_up: bool,
}

impl Entry {
    pub fn new(id: HostId, draining: bool) -> Self {
        Self { id, capabilities: None, received: None, lost: None, draining, left: None, counted_up: false }
    }

    /// Why nothing is placed there; `None` while it is up.
    pub fn down_reason(&self) -> Option<String> {
        if self.left.is_some() {
            return Some("left the registry".to_owned());
        }
        if let Some(reason) = &self.lost {
            return Some(reason.clone());
        }
        if self.draining {
            return Some("it is stopping".to_owned());
        }
        self.capabilities.is_none().then(|| "it has not said what it has".to_owned())
    }

    pub fn is_up(&self) -> bool {
        self.left.is_none() && self.lost.is_none() && !self.draining && self.capabilities.is_some()
    }

    pub fn order(&self) -> Option<(Epoch, Generation)> {
        self.capabilities.as_deref().map(order)
    }
}

pub(super) fn order(capabilities: &Capabilities) -> (Epoch, Generation) {
    (Epoch(capabilities.epoch), Generation(capabilities.generation))
}
