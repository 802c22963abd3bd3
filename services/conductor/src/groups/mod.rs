//! Server groups: rules about which instances may share a host.
//!
//! A group's record is changed in the transactions that change its members, each comparing the record's revision: the one that
//! accepts an instance enters it, the one that places it enters its host, the one that ends it takes it out. In
//! between, its members' hosts are only ever more than what is, and are put right by the engine.

pub mod rule;

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_model::{Error, ProjectId, Reason, Revision, ServerGroupId};
use kilonova_proto::conductor::v1::{MemberPlace, ServerGroupRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::Key;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tokio::sync::MutexGuard;

use crate::accept::{Acceptor, Lanes, Request};
use crate::cache::Cache;
use crate::db::{Db, Read, conflict};

/// Most members of one group: its record is written with every change of a member's place.
const MAX_MEMBERS: usize = 500;
/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;

/// All server groups. Clones share them.
#[derive(Clone)]
pub struct Groups {
    db: Db,
    /// The memory.
    pub cache: Cache<ServerGroupId, ServerGroupRecord>,
    lanes: Arc<Lanes>,
}

/// A group's record as it is to be, for the transaction that makes it so.
pub struct Change {
    id: ServerGroupId,
    read: Revision,
    record: ServerGroupRecord,
}

impl Groups {
    /// Follows the store.
    pub fn follow(db: &Db, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::ServerGroup(id) = key { Some(id) } else { None };
        let prefix = db.keys.server_groups();
        let cache = Cache::follow("server groups", &db.store, &db.keys, prefix, id_of, tasks);
        Self { db: db.clone(), cache, lanes: Arc::default() }
    }

    /// Waits for a group's turn, so that the transactions of one conductor do not make each other fail.
    pub async fn enter(&self, id: ServerGroupId) -> MutexGuard<'_, ()> {
        self.lanes.enter(&id.to_string()).await
    }

    /// One group from the store.
    pub async fn read(&self, id: ServerGroupId) -> Result<Option<Read<ServerGroupRecord>>, Error> {
        self.db.read(&self.db.keys.server_group(id)).await
    }

    /// One group of that project from the store.
    pub async fn stored(&self, id: ServerGroupId, project: &str) -> Result<Read<ServerGroupRecord>, Error> {
        let read = self.read(id).await?;
        read.filter(|read| is_in(&read.record, project)).ok_or_else(|| not_found(id))
    }

    /// One group as users see it, from memory or else from the store.
    pub async fn get(&self, id: ServerGroupId, project: &str) -> Result<pb::ServerGroup, Error> {
        let record = match self.cache.get(&id) {
            Some(entry) => Some(ServerGroupRecord::clone(&entry.record)),
            None => self.read(id).await?.map(|read| read.record),
        };
        record.filter(|record| is_in(record, project)).map(shown).ok_or_else(|| not_found(id))
    }

    /// Stores a new one, once for each request id.
    pub async fn create(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        group: pb::ServerGroup,
        validate_only: bool,
    ) -> Result<pb::ServerGroup, Error> {
        if let Some(group) = self.earlier(acceptor, request).await? {
            return Ok(group);
        }
        let id = ServerGroupId::generate();
        let (project_id, create_time) = (request.project.to_string(), Some(timestamp(SystemTime::now())));
        let group = pb::ServerGroup { id: id.to_string(), project_id, create_time, ..group };
        if validate_only {
            return Ok(group);
        }
        let record = ServerGroupRecord { server_group: Some(group.clone()), ..Default::default() };
        let key = self.db.keys.server_group(id);
        let txn = Txn::new().when_absent(key.clone()).put(key, record.encode_to_vec());
        match self.db.commit(acceptor.remember(request, vec![group.id.clone()], txn)).await? {
            TxnOutcome::Committed { revision } => {
                self.cache.committed(id, Arc::new(record), revision);
                Ok(group)
            }
            // The same request may have come twice at once.
            TxnOutcome::Conflict { .. } => {
                let earlier = self.earlier(acceptor, request).await?;
                earlier.ok_or_else(|| conflict(&format!("server group {id}")))
            }
        }
    }

    async fn earlier(
        &self,
        acceptor: &Acceptor,
        request: &Request,
    ) -> Result<Option<pb::ServerGroup>, Error> {
        let ids = acceptor.replay(request).await?;
        match ids.and_then(|ids| ids.first()?.parse().ok()) {
            Some(id) => self.get(id, "").await.map(Some),
            None => Ok(None),
        }
    }

    /// Removes one that has no members, once for each request id.
    pub async fn delete(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        id: ServerGroupId,
        project: &str,
        allow_missing: bool,
    ) -> Result<(), Error> {
        for _ in 0..TRIES {
            if acceptor.replay(request).await?.is_some() {
                return Ok(());
            }
            let Some(read) = self.read(id).await?.filter(|read| is_in(&read.record, project)) else {
                if !allow_missing {
                    return if acceptor.outrun(request).await? { Ok(()) } else { Err(not_found(id)) };
                }
                // It will not come: ids of groups are drawn.
                if acceptor.settle(request, vec![id.to_string()], Txn::new()).await? {
                    return Ok(());
                }
                continue;
            };
            let members = read.record.server_group.map_or(0, |group| group.instance_ids.len());
            if members > 0 {
                let message = format!("the server group has {members} instances; delete them first");
                return Err(Error::new(Reason::InvalidState, message).with("members", members));
            }
            let key = self.db.keys.server_group(id);
            let txn = Txn::new().when(Compare::ModRevision(key.clone(), read.revision)).delete(key);
            let txn = acceptor.remember(request, vec![id.to_string()], txn);
            if self.db.commit(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(conflict(&format!("server group {id}")))
    }

    /// New members of a group of that project.
    pub async fn joined(
        &self,
        id: ServerGroupId,
        project: &ProjectId,
        members: impl ExactSizeIterator<Item = String>,
    ) -> Result<Change, Error> {
        let Read { mut record, revision: read } = self.stored(id, project.as_str()).await?;
        let ids = &mut record.server_group.get_or_insert_default().instance_ids;
        if ids.len() + members.len() > MAX_MEMBERS {
            let message =
                format!("the server group has {} instances, and {MAX_MEMBERS} is the most", ids.len());
            return Err(Error::new(Reason::QuotaExceeded, message)
                .with("resource", "server_group_members")
                .with("limit", MAX_MEMBERS));
        }
        ids.extend(members);
        Ok(Change { id, read, record })
    }

    /// The transaction with the change in it: only if the group is as it was read.
    #[must_use]
    pub fn with(&self, txn: Txn, change: &Change) -> Txn {
        let key = self.db.keys.server_group(change.id);
        txn.when(Compare::ModRevision(key.clone(), change.read)).put(key, change.record.encode_to_vec())
    }

    /// Enters a change that this process committed.
    pub fn committed(&self, change: Change, revision: Revision) {
        self.cache.committed(change.id, Arc::new(change.record), revision);
    }
}

impl Change {
    /// A member is there now; nowhere if `None`.
    #[must_use]
    pub fn moved(
        id: ServerGroupId,
        read: &Read<ServerGroupRecord>,
        member: &str,
        place: Option<MemberPlace>,
    ) -> Self {
        let mut record = read.record.clone();
        record.places.remove(member);
        record.places.extend(place.map(|place| (member.to_owned(), place)));
        Self { id, read: read.revision, record }
    }

    /// A member is there now, and one if it was not.
    #[must_use]
    pub fn entered(
        id: ServerGroupId,
        read: &Read<ServerGroupRecord>,
        member: &str,
        place: Option<MemberPlace>,
    ) -> Self {
        let mut change = Self::moved(id, read, member, place);
        let ids = &mut change.record.server_group.get_or_insert_default().instance_ids;
        if !ids.iter().any(|id| id == member) {
            ids.push(member.to_owned());
        }
        change
    }

    /// A member is one no longer.
    #[must_use]
    pub fn left(id: ServerGroupId, read: &Read<ServerGroupRecord>, member: &str) -> Self {
        let mut change = Self::moved(id, read, member, None);
        if let Some(group) = &mut change.record.server_group {
            group.instance_ids.retain(|id| id != member);
        }
        change
    }
}

/// What users see of a record.
#[must_use]
pub fn shown(record: ServerGroupRecord) -> pb::ServerGroup {
    record.server_group.unwrap_or_default()
}

/// Whether it is a project's; an empty project is any.
#[must_use]
pub fn is_in(record: &ServerGroupRecord, project: &str) -> bool {
    project.is_empty() || record.server_group.as_ref().is_some_and(|group| group.project_id == project)
}

fn not_found(id: ServerGroupId) -> Error {
    Error::new(Reason::ServerGroupNotFound, format!("no server group {id}")).with("server_group_id", id)
}
