//! The members of one service, as a value that changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, Revision, ServiceKind};
use kilonova_store::WatchHealth;
use tokio::sync::{mpsc, watch};

use super::record::Member;
use super::targets::{HostAddress, bare_member};

/// How many reports of members that are gone wait; one that finds no place is made again by the next attempt.
const REPORTS: usize = 256;

/// The members of one service at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberSet {
    /// By name.
    pub members: BTreeMap<HostName, Arc<Member>>,
    /// Those who vanished in such numbers that the registry is doubted. They may be called; whoever has another
    /// way to know that a member lives should take them for absent.
    pub held: BTreeMap<HostName, Arc<Member>>,
    /// The registry's revision; 0 before the registry was first read.
    pub revision: Revision,
    pub(super) unlisted: Unlisted,
}

/// Where a host is that is no member by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Unlisted {
    /// Nobody knows.
    #[default]
    Unknown,
    /// At an address made of its name.
    At(HostAddress),
    /// Behind this member.
    Through(Arc<Member>),
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

    /// The member of that name, held ones included: who a call may go to.
    #[must_use]
    pub fn callable(&self, host: &HostName) -> Option<&Arc<Member>> {
        self.members.get(host).or_else(|| self.held.get(host))
    }

    /// Where a call to that host goes: to the member of its name, or where the target's configuration says that any
    /// host is.
    #[must_use]
    pub fn route(&self, host: &HostName) -> Option<Arc<Member>> {
        if let Some(member) = self.callable(host) {
            return Some(member.clone());
        }
        match &self.unlisted {
            Unlisted::Unknown => None,
            Unlisted::At(template) => {
                let addr = template.of(host);
                Some(Arc::new(bare_member(host.clone(), addr.clone(), addr)))
            }
            Unlisted::Through(member) => {
                Some(Arc::new(Member { host: host.clone(), ..Member::clone(member) }))
            }
        }
    }
}

/// The members of one service, kept current by a task of the [`Registry`](super::Registry).
#[derive(Debug, Clone)]
pub struct Members {
    service: ServiceKind,
    current: watch::Receiver<Arc<MemberSet>>,
    health: watch::Receiver<WatchHealth>,
    gone: mpsc::Sender<(HostName, Epoch)>,
}

/// The other end of [`Members`]: for whoever keeps them current.
pub(super) struct Source {
    pub(super) sets: watch::Sender<Arc<MemberSet>>,
    /// Held members that could not be connected to.
    pub(super) gone: mpsc::Receiver<(HostName, Epoch)>,
}

impl Members {
    pub(super) fn new(service: ServiceKind, health: watch::Receiver<WatchHealth>) -> (Self, Source) {
        let (sets, current) = watch::channel(Arc::new(MemberSet::default()));
        let (reports, gone) = mpsc::channel(REPORTS);
        (Self { service, current, health, gone: reports }, Source { sets, gone })
    }

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

    /// For how long the registry has been out of reach; zero while it is followed.
    #[must_use]
    pub fn stale_for(&self) -> Duration {
        stale_for(&self.health.borrow())
    }

    /// The least minor version of the protos that a member now serves, of those who say so and take calls. None
    /// when nobody does. Not for keeping: it changes with the members.
    #[must_use]
    pub fn cap(&self) -> Option<u32> {
        let set = self.current.borrow();
        // Without an epoch it is the record of a foreign tool, or of no registration at all.
        let speaking = set.members.values().filter(|member| !member.draining && member.epoch > Epoch(0));
        speaking.map(|member| member.minor).min()
    }

    /// An attempt to connect to a member failed. If it is held, that settles it: it is gone.
    pub fn gone(&self, host: &HostName, epoch: Epoch) {
        if self.current.borrow().held.get(host).is_some_and(|held| held.epoch == epoch) {
            // With no place for the report, the next attempt that fails makes it again.
            let _ = self.gone.try_send((host.clone(), epoch));
        }
    }
}

pub(super) fn stale_for(health: &WatchHealth) -> Duration {
    if health.connected { Duration::ZERO } else { health.since.elapsed() }
}
