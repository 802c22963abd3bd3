//! The operator's word that a host is off: that nothing on it runs.
//!
//! It is a key of its own, beside the host's record, and is given while the host is not registered: the transaction that stores it compares
//! that. A host that registers deletes the key in the transaction that registers it, whether a conductor runs or not. So the word is never
//! about a host that has been back since. It is void in a store that was set back, too: the host may have been back after the copy.

use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_model::{Error, HostName, Reason, ServiceKind};
use kilonova_proto::conductor::v1::FenceRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::{Key, Keys};
use kilonova_store::{Compare, Txn};
use prost::Message;

use super::{HostId, Hosts, Once};
use crate::cache::Cache;
use crate::db::Db;
use crate::identity::StoreIdentity;

/// The hosts of which an operator said that they are off. Clones share them.
#[derive(Clone)]
pub struct Fences {
    db: Db,
    identity: StoreIdentity,
    cache: Cache<HostId, FenceRecord>,
}

impl Fences {
    /// Follows the fences of all hosts in a task of `tasks`.
    #[must_use]
    pub fn follow(db: &Db, identity: StoreIdentity, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Fence(service, host) = key { Some((service, host)) } else { None };
        let cache = Cache::follow("fences", &db.store, &db.keys, db.keys.fences(), id_of, tasks);
        Self { db: db.clone(), identity, cache }
    }

    /// Waits until the store has been read once.
    pub async fn filled(&self) {
        self.cache.filled().await;
    }

    /// True if an operator said that it is off, and it has not registered since.
    #[must_use]
    pub fn holds(&self, host: &HostId) -> bool {
        self.cache.get(host).is_some_and(|entry| self.is_of_this_store(&entry.record))
    }

    /// What holds in the store only while those hosts of these that are fenced by what this conductor knows are so still.
    pub fn compares<'a>(&self, service: ServiceKind, hosts: impl IntoIterator<Item = &'a str>) -> Txn {
        let is_fenced = |host: &&str| HostName::parse(host).is_ok_and(|host| self.holds(&(service, host)));
        self.all(service, hosts.into_iter().filter(is_fenced))
    }

    /// What holds in the store only while all of these hosts are fenced, as a decision that rests on it has them.
    pub fn all<'a>(&self, service: ServiceKind, hosts: impl IntoIterator<Item = &'a str>) -> Txn {
        let keys = hosts
            .into_iter()
            .filter_map(|host| Some(key(&self.db.keys, &(service, HostName::parse(host).ok()?))));
        keys.fold(Txn::new(), |txn, key| txn.when(Compare::Exists(key)))
    }

    /// The same, read from the store.
    async fn read(&self, host: &HostId) -> Result<bool, Error> {
        let read = self.db.read::<FenceRecord>(&key(&self.db.keys, host)).await?;
        Ok(read.is_some_and(|read| self.is_of_this_store(&read.record)))
    }

    fn is_of_this_store(&self, record: &FenceRecord) -> bool {
        record.store_id == self.identity.id()
    }
}

fn key(keys: &Keys, (service, host): &HostId) -> String {
    keys.fence(*service, host)
}

impl Hosts {
    /// Refuses a host that is registered, or taken for that because most vanished at once.
    async fn check_not_there(&self, id: &HostId, endpoint: &str) -> Result<(), Error> {
        let members = self.callers.peers.registry().members(id.0).current();
        let (found, _) = self.db.store.get(endpoint).await.map_err(crate::db::store_error)?;
        let message = if found.is_some() || members.members.contains_key(&id.1) {
            format!("{} is registered: switch it off first, and wait until it has left the registry", id.1)
        } else if members.held.contains_key(&id.1) {
            format!(
                "{} has left the registry together with most hosts, and is being connected to, to see whether it is gone: ask again in some seconds",
                id.1
            )
        } else {
            return Ok(());
        };
        Err(Error::new(Reason::InvalidState, message).with("host", &id.1))
    }

    /// Stores the word, or takes it back.
    pub async fn set_fenced(&self, once: &Once<'_>, id: &HostId, fenced: bool) -> Result<pb::Host, Error> {
        let endpoint = self.db.keys.endpoint(id.0, &id.1);
        if fenced && once.acceptor.replay(&once.request).await?.is_none() {
            self.check_not_there(id, &endpoint).await?;
        }
        let fence = key(&self.db.keys, id);
        let with = if fenced {
            let store_id = self.fences.identity.known().await?;
            let record = FenceRecord { store_id, create_time: Some(timestamp(SystemTime::now())) };
            Txn::new().when_absent(endpoint.clone()).put(fence, record.encode_to_vec())
        } else {
            Txn::new().delete(fence)
        };
        let entry = self.modify(id, Some(once), &with, |_| Ok(())).await?;
        Ok(pb::Host { fenced: self.fences.read(id).await?, ..self.shown(id, &entry) })
    }
}
