//! Accepting requests: everything is checked, then stored in one transaction, then answered.
//!
//! A transaction holds the new records, the request's id with their ids, the project's usage, and the server group they join. It
//! compares that the request's id is new and that usage, limits and group are as they were known, so that of two equal requests, or
//! two that together exceed a quota, one wins on whichever conductor they arrive. Creates of one project that wait together share a
//! transaction ([`batch`]); what they are judged on is remembered, not read ([`book`]).

pub mod batch;
pub mod book;
mod lanes;
pub mod merge;

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::page::fingerprint;
use kilonova_model::{Error, FieldViolation, ProjectId, RequestId, Revision, ServerGroupId};
use kilonova_proto::conductor::v1::UsageRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::cache::Entry;
use crate::config::Config;
use crate::db::{Db, Read, conflict};
use crate::groups::Groups;
use crate::placed::Placed;
use crate::quota;
use crate::records::{Records, check_size};
use batch::{Accepted, Batches};
use book::Book;
pub use lanes::Lanes;
use merge::Ask;

/// The project of a request that names none.
const DEFAULT_PROJECT: &str = "default";
/// How often a request is tried again when the project's usage changed under it.
const TRIES: usize = 32;

/// Reads a project id; none is the default project.
pub fn project(text: &str) -> Result<ProjectId, Error> {
    let text = if text.is_empty() { DEFAULT_PROJECT } else { text };
    ProjectId::parse(text).map_err(|error| {
        Error::invalid(vec![FieldViolation { field: "project_id".into(), description: error.to_string() }])
    })
}

/// What makes one request the same as another.
#[derive(Debug, Clone)]
pub struct Request {
    /// The project it is in.
    pub project: ProjectId,
    /// Its id; none for a request that is not to be repeated.
    pub id: Option<RequestId>,
    /// The method.
    pub method: &'static str,
    /// A digest of all the rest.
    pub fingerprint: String,
}

impl Request {
    /// Describes a request; `message` is the request without its id.
    pub fn new(
        method: &'static str,
        project_id: &str,
        request_id: &str,
        message: &impl Message,
    ) -> Result<Self, Error> {
        let id = match request_id {
            "" => None,
            text => Some(RequestId::parse(text).map_err(|error| {
                let description = error.to_string();
                Error::invalid(vec![FieldViolation { field: "request_id".into(), description }])
            })?),
        };
        let digest = fingerprint(message.encode_to_vec());
        Ok(Self { project: project(project_id)?, id, method, fingerprint: format!("{digest:016x}") })
    }
}

/// The accept path: quota, idempotency and the transaction that stores both with what was asked.
pub struct Acceptor {
    book: Arc<Book>,
    lanes: Arc<Lanes>,
    batches: Batches,
}

impl Acceptor {
    /// Accepts into this store, in tasks of `tasks`.
    #[must_use]
    pub fn new(db: Db, config: Arc<Config>, lanes: Arc<Lanes>, tasks: &Tasks) -> Self {
        let book = Arc::new(Book::follow(db, config, tasks));
        let batches = Batches::new(book.clone(), lanes.clone(), tasks);
        Self { book, lanes, batches }
    }

    /// The store it accepts into.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.book.db
    }

    /// Waits for the project's turn.
    pub async fn enter(&self, project: &ProjectId) -> tokio::sync::MutexGuard<'_, ()> {
        self.lanes.enter(project.as_str()).await
    }

    /// What an earlier request of the same id created, as it is now.
    pub async fn earlier<P: Placed>(
        &self,
        request: &Request,
        records: &Records<P>,
    ) -> Result<Option<Vec<Entry<P>>>, Error> {
        match self.replay(request).await? {
            Some(ids) => earlier(records, ids).await.map(Some),
            None => Ok(None),
        }
    }

    /// Stores new records. All or none.
    pub async fn create<P: Placed>(
        &self,
        request: &Request,
        records: &Records<P>,
        new: Vec<(P::Id, P)>,
        validate_only: bool,
    ) -> Result<Vec<Entry<P>>, Error> {
        self.create_in(request, records, new, None, validate_only).await
    }

    /// Stores new records, as members of a server group if there is one. All or none.
    pub async fn create_in<P: Placed>(
        &self,
        request: &Request,
        records: &Records<P>,
        new: Vec<(P::Id, P)>,
        group: Option<(&Groups, ServerGroupId)>,
        validate_only: bool,
    ) -> Result<Vec<Entry<P>>, Error> {
        new.iter().try_for_each(|(_, record)| check_size(record))?;
        let wanted = new.iter().fold(pb::QuotaUsage::default(), |sum, (_, r)| quota::sum(&sum, &r.usage()));
        match group {
            _ if validate_only => self.judge(request, records, new, group, &wanted).await,
            Some((groups, id)) => self.join(request, records, new, groups, id, &wanted).await,
            None => {
                let ask = Ask { request: request.clone(), wanted, txn: self.stored(request, records, &new) };
                match self.batches.accept(ask).await? {
                    Accepted::New(revision) => Ok(entered(records, new, revision)),
                    Accepted::Earlier(ids) => earlier(records, ids).await,
                }
            }
        }
    }

    /// The new records and the request's id, if none of them is there.
    fn stored<P: Placed>(&self, request: &Request, records: &Records<P>, new: &[(P::Id, P)]) -> Txn {
        let txn = new.iter().fold(Txn::new(), |txn, (id, record)| {
            let key = P::key(&records.db.keys, *id);
            txn.when_absent(key.clone()).put(key, record.encode_to_vec())
        });
        self.remember(request, new.iter().map(|(id, _)| id.to_string()).collect(), txn)
    }

    /// Says what would become of a request, and stores nothing.
    async fn judge<P: Placed>(
        &self,
        request: &Request,
        records: &Records<P>,
        new: Vec<(P::Id, P)>,
        group: Option<(&Groups, ServerGroupId)>,
        wanted: &pb::QuotaUsage,
    ) -> Result<Vec<Entry<P>>, Error> {
        if let Some(ids) = self.replay(request).await? {
            return earlier(records, ids).await;
        }
        self.book.read(&request.project).await?.with(&request.project, wanted)?;
        if let Some((groups, id)) = group {
            groups.joined(id, &request.project, new.iter().map(|(id, _)| id.to_string())).await?;
        }
        let unsaved = |(_, r): (P::Id, P)| Entry { record: Arc::new(r), revision: Revision(0) };
        Ok(new.into_iter().map(unsaved).collect())
    }

    /// Stores new members of a server group, alone: its record grows with each of them.
    async fn join<P: Placed>(
        &self,
        request: &Request,
        records: &Records<P>,
        new: Vec<(P::Id, P)>,
        groups: &Groups,
        id: ServerGroupId,
        wanted: &pb::QuotaUsage,
    ) -> Result<Vec<Entry<P>>, Error> {
        let project = &request.project;
        let _lane = self.enter(project).await;
        let _group_lane = groups.enter(id).await;
        for attempt in 0..TRIES {
            if let Some(ids) = self.replay(request).await? {
                return earlier(records, ids).await;
            }
            let basis = self.book.read(project).await?;
            let joined = match basis.with(project, wanted) {
                Ok(used) => {
                    let members = new.iter().map(|(id, _)| id.to_string());
                    groups.joined(id, project, members).await.map(|change| (used, change))
                }
                Err(refusal) => Err(refusal),
            };
            let (used, change) = match joined {
                Ok(joined) => joined,
                Err(_) if self.outrun(request).await? => continue,
                Err(refusal) => return Err(refusal),
            };
            let txn = basis.count(&records.db.keys, project, &used);
            let txn = groups.with(txn, &change).and(self.stored(request, records, &new));
            match self.book.db.commit(txn).await? {
                TxnOutcome::Committed { revision } => {
                    self.book.counted(project, used, revision);
                    groups.committed(change, revision);
                    return Ok(entered(records, new, revision));
                }
                TxnOutcome::Conflict { .. } => pause(attempt).await,
            }
        }
        Err(conflict(&format!("the usage of project {project}")))
    }

    /// The ids an earlier request of that id was answered with. `Err` if it was another request.
    pub async fn replay(&self, request: &Request) -> Result<Option<Vec<String>>, Error> {
        self.book.replay(request).await
    }

    /// Whether a request that is about to be refused has been accepted since it began: what it ran into is its twin.
    pub async fn outrun(&self, request: &Request) -> Result<bool, Error> {
        Ok(request.id.is_some() && self.replay(request).await?.is_some())
    }

    /// Adds the request's id to a transaction that carries it out.
    #[must_use]
    pub fn remember(&self, request: &Request, resource_ids: Vec<String>, txn: Txn) -> Txn {
        self.book.remember(request, resource_ids, txn)
    }

    /// Remembers a request for which there is nothing to do while `holds` does. False if that does not hold, or the same request
    /// was accepted meanwhile.
    pub async fn settle(
        &self,
        request: &Request,
        resource_ids: Vec<String>,
        holds: Txn,
    ) -> Result<bool, Error> {
        book::settle(self.db(), request, resource_ids, holds).await
    }

    /// What a project uses and may use, from the store.
    pub async fn basis(&self, project: &ProjectId) -> Result<merge::Basis, Error> {
        self.book.read(project).await
    }

    /// What a project may use, and the revision of its own limits, 0 when it has the default ones.
    pub async fn limits(&self, project: &ProjectId) -> Result<Read<pb::QuotaLimits>, Error> {
        self.book.limits(project).await
    }

    /// What a project uses.
    pub async fn usage(&self, project: &ProjectId) -> Result<Read<UsageRecord>, Error> {
        self.book.usage(project).await
    }
}

/// Enters what was stored in memory.
fn entered<P: Placed>(records: &Records<P>, new: Vec<(P::Id, P)>, revision: Revision) -> Vec<Entry<P>> {
    let enter = |(id, record): (P::Id, P)| {
        let entry = Entry { record: Arc::new(record), revision };
        records.cache.committed(id, entry.record.clone(), revision);
        entry
    };
    new.into_iter().map(enter).collect()
}

/// What takes this off what a project uses, if that is still as it is read here.
pub async fn take_off(db: &Db, project: &ProjectId, less: &pb::QuotaUsage) -> Result<Txn, Error> {
    let key = db.keys.usage(project);
    let read = db.read_or_default::<UsageRecord>(&key).await?;
    let left = quota::difference(&read.record.usage.unwrap_or_default(), less);
    let left = UsageRecord { usage: Some(left) }.encode_to_vec();
    Ok(Txn::new().when(Compare::ModRevision(key.clone(), read.revision)).put(key, left))
}

/// What an earlier request created, as it is now. What is no longer kept is left out.
async fn earlier<P: Placed>(records: &Records<P>, ids: Vec<String>) -> Result<Vec<Entry<P>>, Error> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids.iter().filter_map(|id| id.parse::<P::Id>().ok()) {
        found.extend(records.get(id).await?);
    }
    Ok(found)
}

/// Lets the one that was faster finish.
async fn pause(attempt: usize) {
    let most = 2_u64.pow(u32::try_from(attempt.min(5)).unwrap_or(5));
    tokio::time::sleep(Duration::from_micros(rand::random_range(0..=most * 1000))).await;
}
