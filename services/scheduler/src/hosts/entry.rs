//! What is known of one host.

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, Generation};
use kilonova_proto::types::v1::Capabilities;
use tokio::time::Instant;

use super::quarantine;
use crate::placement::HostId;

/// After how many of its own intervals without new figures a publisher's are too old.
const MISSED: u32 = 3;

/// What is said of one that was not heard yet.
const NO_ANSWER: &str = "no answer yet";

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
    /// The incarnation the registry shows.
    pub registered: Epoch,
    /// The registry shows it no longer, though its stream may be alive.
    pub absent: bool,
    /// This incarnation has not said yet what it has.
    pub awaited: bool,
    pub left: Option<Instant>,
    /// When its driver's figures last changed.
    pub collected: Option<Instant>,
    /// They are too old.
    pub is_stale: bool,
    /// How builds there went.
    pub builds: quarantine::Record,
    /// Whether it is counted as quarantined.
    pub counted_quarantined: bool,
    /// Whether it is counted as up.
    pub counted_up: bool,
    /// Whether it is counted as registered.
    pub counted_registered: bool,
}

impl Entry {
    /// One that has not answered yet.
    pub fn new(id: HostId, registered: Epoch) -> Self {
        Self {
            id,
            capabilities: None,
            received: None,
            lost: Some(NO_ANSWER.to_owned()),
            draining: false,
            registered,
            absent: false,
            awaited: true,
            left: None,
            collected: None,
            is_stale: false,
            builds: quarantine::Record::default(),
            counted_quarantined: false,
            counted_up: false,
            counted_registered: false,
        }
    }

    /// The registry shows it, as it was before or anew.
    pub fn join(&mut self, epoch: Epoch, draining: bool) {
        let is_back = self.left.take().is_some();
        let is_anew = self.registered != epoch;
        self.absent = false;
        self.registered = epoch;
        self.draining = draining;
        self.awaited |= is_back || is_anew;
        // One that is up stays up until its new stream says otherwise.
        if is_back || (is_anew && self.lost.is_some()) {
            self.lost = Some(NO_ANSWER.to_owned());
        }
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
        let Some(capabilities) = &self.capabilities else {
            return Some("it has not said what it has".to_owned());
        };
        self.is_stale.then(|| {
            let every = interval(capabilities).unwrap_or_default();
            format!("its driver, asked every {every:?}, gave no figures {MISSED} times in a row")
        })
    }

    /// Why nothing new is placed there though it is up.
    pub fn kept_away_reason(&self) -> Option<String> {
        let told = self.capabilities.as_deref().filter(|told| !told.enabled);
        let disabled = told.map(|told| match told.disabled_reason.as_str() {
            "" => "disabled".to_owned(),
            reason => format!("disabled: {reason}"),
        });
        disabled.or_else(|| self.builds.reason().map(|reason| format!("quarantined: {reason}")))
    }

    /// When its figures are too old, if they do not change before.
    pub fn stale_at(&self) -> Option<Instant> {
        let time = interval(self.capabilities.as_deref()?)?.checked_mul(MISSED)?;
        self.collected?.checked_add(time)
    }

    pub fn is_up(&self) -> bool {
        let is_there = self.left.is_none() && self.lost.is_none() && !self.draining;
        is_there && self.capabilities.is_some() && !self.is_stale
    }

    /// Whether it may have room that is not known of.
    pub fn is_pending(&self) -> bool {
        self.awaited && self.left.is_none() && !self.draining && !self.is_up()
    }

    /// Whether capabilities are older than those known. What the registered incarnation says is not: where the store
    /// was restored from a backup, epochs go backwards.
    pub fn is_outdated(&self, capabilities: &Capabilities) -> bool {
        let Some(known) = self.order() else { return false };
        let told = order(capabilities);
        told < known && (told.0 != self.registered || known.0 == self.registered)
    }

    pub fn order(&self) -> Option<(Epoch, Generation)> {
        self.capabilities.as_deref().map(order)
    }
}

fn interval(capabilities: &Capabilities) -> Option<Duration> {
    let interval = capabilities.collect_interval.as_ref()?;
    Duration::try_from(*interval).ok().filter(|interval| !interval.is_zero())
}

pub(super) fn order(capabilities: &Capabilities) -> (Epoch, Generation) {
    (Epoch(capabilities.epoch), Generation(capabilities.generation))
}
