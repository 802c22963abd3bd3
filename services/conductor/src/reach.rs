//! Whether the hosts of one kind can be asked: what moves are judged by, and whom engines wait for.

use kilonova_model::{Epoch, Error, HostName, Reason, ServiceKind};
use kilonova_proto::conductor::v1::HostRecord;
use kilonova_rpc::registry::Members;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;

use crate::cache::Cache;
use crate::db::{Db, store_error};
use crate::hosts::{Fences, HostId};

/// How a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is registered, or held while most vanished at once.
    Registered,
    /// It is not registered, and an operator said that it is off.
    Fenced,
    /// It is not registered; it may still run what it had.
    Gone,
}

/// The hosts of one kind as this conductor knows them. Clones share it.
#[derive(Clone)]
pub struct Reach {
    /// The store, for what has to be judged in a transaction.
    pub db: Db,
    /// Their kind.
    pub service: ServiceKind,
    /// Who is registered.
    pub members: Members,
    /// Those that ever registered.
    pub hosts: Cache<HostId, HostRecord>,
    /// What operators said of them.
    pub fences: Fences,
}

impl Reach {
    /// The keys of the cell.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.db.keys
    }

    /// The incarnation of a registered host. One that is held has not left: that most vanished at once says more of the registry
    /// than of them.
    #[must_use]
    pub fn epoch_of(&self, host: &str) -> Option<Epoch> {
        let host = HostName::parse(host).ok()?;
        self.members.current().callable(&host).map(|member| member.epoch)
    }

    /// How a host stands. A name that is none is gone.
    #[must_use]
    pub fn standing(&self, host: &str) -> Standing {
        let Ok(name) = HostName::parse(host) else { return Standing::Gone };
        if self.epoch_of(host).is_some() {
            return Standing::Registered;
        }
        if self.fences.holds(&(self.service, name)) { Standing::Fenced } else { Standing::Gone }
    }

    /// What holds in the store only while those of these hosts that are fenced are so still.
    pub fn fenced<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> Txn {
        self.fences.compares(self.service, hosts)
    }

    /// What holds in the store only while all of these hosts are fenced.
    pub fn off<'a>(&self, hosts: impl IntoIterator<Item = &'a str>) -> Txn {
        self.fences.all(self.service, hosts)
    }

    /// What holds in the store only while a host is registered; `gone` says what to do if it is not.
    pub async fn registered(&self, host: &str, gone: impl FnOnce() -> Error + Send) -> Result<Txn, Error> {
        let Ok(name) = HostName::parse(host) else { return Err(gone()) };
        let key = self.keys().endpoint(self.service, &name);
        let (found, _) = self.db.store.get(&key).await.map_err(store_error)?;
        if found.is_none() {
            return Err(gone());
        }
        Ok(Txn::new().when(kilonova_store::Compare::Exists(key)))
    }
}

/// Refuses what a host has to do that is off by an operator's word: nothing would come of it before its deadline.
pub fn not_off(host: &str, standing: Standing) -> Result<(), Error> {
    if standing != Standing::Fenced {
        return Ok(());
    }
    let message = format!(
        "{host} is fenced, and nothing can be done on a host that is off: evacuate the instance, or have the host register again"
    );
    Err(Error::new(Reason::InvalidState, message).with("host", host))
}

/// The refusal of what needs an instance's host, which is gone.
#[must_use]
pub fn home_is_gone(host: &str) -> Error {
    let message = format!(
        "{host}, the instance's host, is not registered: evacuate the instance if {host} is off, or wait until it is back"
    );
    Error::new(Reason::InvalidState, message).with("host", host)
}

/// The refusal of what would give up the last good copy of an instance, for another host is gone that has to have it.
#[must_use]
pub fn other_is_gone(host: &str, what: &str) -> Error {
    let message = format!(
        "{host} is not registered, and {what}: wait until it is back, or, if it is off, say so (`kilonova host fence {host}`)"
    );
    Error::new(Reason::InvalidState, message).with("host", host)
}
