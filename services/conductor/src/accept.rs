//! Accepting requests: everything is checked, then stored in one transaction, then answered.
//!
//! A transaction holds the new records, the request's id with their ids, the project's usage, and the server group they join. It
//! compares that the request's id is new and that usage and group are as they were read, so that of two equal requests, or two that
//! together exceed a quota, one wins on whichever conductor they arrive.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::page::fingerprint;
use kilonova_model::time::timestamp;
use kilonova_model::{Error, FieldViolation, ProjectId, Reason, RequestId, Revision, ServerGroupId};
use kilonova_proto::conductor::v1::{QuotaRecord, RequestRecord, UsageRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tokio::sync::Mutex;

use crate::cache::Entry;
use crate::config::Config;
use crate::db::{Db, Read, conflict};
use crate::groups::Groups;
use crate::placed::Placed;
use crate::quota;
use crate::records::Records;

/// The project of a request that names none.
const DEFAULT_PROJECT: &str = "default";
/// How often a request is tried again when the project's usage changed under it.
const TRIES: usize = 32;
/// How many projects can be in this conductor's accept path side by side.
const LANES: usize = 64;

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
    db: Db,
    config: Arc<Config>,
    lanes: Arc<Lanes>,
}

/// One transaction on a project's usage at a time, so that those of one conductor do not make each other fail.
pub struct Lanes(Vec<Mutex<()>>);

impl Default for Lanes {
    fn default() -> Self {
        Self((0..LANES).map(|_| Mutex::default()).collect())
    }
}

impl Lanes {
    /// Waits for the project's turn.
    pub async fn enter(&self, project: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let lane = usize::try_from(fingerprint(project) % LANES as u64).unwrap_or(0);
        self.0[lane].lock().await
    }
}

impl Acceptor {
    /// Accepts into this store.
    #[must_use]
    pub fn new(db: Db, config: Arc<Config>, lanes: Arc<Lanes>) -> Self {
        Self { db, config, lanes }
    }

    /// The store it accepts into.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
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
        let wanted = new.iter().fold(pb::QuotaUsage::default(), |sum, (_, r)| quota::sum(&sum, &r.usage()));
        let _lane = self.lanes.enter(request.project.as_str()).await;
        let _group_lane = match group {
            Some((groups, id)) => Some(groups.enter(id).await),
            None => None,
        };
        for attempt in 0..TRIES {
            if let Some(ids) = self.replay(request).await? {
                return earlier(records, ids).await;
            }
            let usage = self.usage(&request.project).await?;
            let limits = self.limits(&request.project).await?.record;
            let used = usage.record.usage.unwrap_or_default();
            quota::check(request.project.as_str(), &limits, &used, &wanted)?;
            let joined = match group {
                Some((groups, id)) => {
                    let members = new.iter().map(|(id, _)| id.to_string());
                    Some((groups, groups.joined(id, &request.project, members).await?))
                }
                None => None,
            };
            if validate_only {
                let unsaved = |(_, r): (P::Id, P)| Entry { record: Arc::new(r), revision: Revision(0) };
                return Ok(new.into_iter().map(unsaved).collect());
            }
            let usage_key = self.db.keys.usage(&request.project);
            let usage_record = UsageRecord { usage: Some(quota::sum(&used, &wanted)) };
            let mut txn = Txn::new()
                .when(Compare::ModRevision(usage_key.clone(), usage.revision))
                .put(usage_key, usage_record.encode_to_vec());
            for (id, record) in &new {
                let key = P::key(&self.db.keys, *id);
                txn = txn.when_absent(key.clone()).put(key, record.encode_to_vec());
            }
            if let Some((groups, change)) = &joined {
                txn = groups.with(txn, change);
            }
            let ids = new.iter().map(|(id, _)| id.to_string()).collect();
            match self.db.commit(self.remember(request, ids, txn)).await? {
                TxnOutcome::Committed { revision } => {
                    if let Some((groups, change)) = joined {
                        groups.committed(change, revision);
                    }
                    let enter = |(id, record): (P::Id, P)| {
                        let entry = Entry { record: Arc::new(record), revision };
                        records.cache.committed(id, entry.record.clone(), revision);
                        entry
                    };
                    return Ok(new.into_iter().map(enter).collect());
                }
                TxnOutcome::Conflict { .. } => pause(attempt).await,
            }
        }
        Err(conflict(&format!("the usage of project {}", request.project)))
    }

    /// The ids an earlier request of that id was answered with. `Err` if it was another request.
    pub async fn replay(&self, request: &Request) -> Result<Option<Vec<String>>, Error> {
        let Some(id) = &request.id else { return Ok(None) };
        let key = self.db.keys.request(&request.project, id);
        let Some(Read { record, .. }) = self.db.read::<RequestRecord>(&key).await? else { return Ok(None) };
        if record.method != request.method || record.fingerprint != request.fingerprint {
            return Err(Error::new(
                Reason::RequestIdReused,
                format!("request_id {id} was used before for another request"),
            )
            .with("request_id", id)
            .with("method", &record.method));
        }
        Ok(Some(record.resource_ids))
    }

    /// Adds the request's id to a transaction that carries it out.
    #[must_use]
    pub fn remember(&self, request: &Request, resource_ids: Vec<String>, txn: Txn) -> Txn {
        let Some(id) = &request.id else { return txn };
        let key = self.db.keys.request(&request.project, id);
        let record = RequestRecord {
            method: request.method.to_owned(),
            fingerprint: request.fingerprint.clone(),
            resource_ids,
            expire_time: Some(timestamp(SystemTime::now() + self.config.request_retention.get())),
        };
        txn.when_absent(key.clone()).put(key, record.encode_to_vec())
    }

    /// What a project may use, and the revision of its own limits, 0 when it has the default ones.
    pub async fn limits(&self, project: &ProjectId) -> Result<Read<pb::QuotaLimits>, Error> {
        let own = self.db.read_or_default::<QuotaRecord>(&self.db.keys.quota(project)).await?;
        let record = own.record.limits.unwrap_or_else(|| self.config.quota.limits());
        Ok(Read { record, revision: own.revision })
    }

    /// What a project uses.
    pub async fn usage(&self, project: &ProjectId) -> Result<Read<UsageRecord>, Error> {
        self.db.read_or_default(&self.db.keys.usage(project)).await
    }
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
