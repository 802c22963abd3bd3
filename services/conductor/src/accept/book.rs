//! What is known of projects and of requests: from memory, to try; from the store, to be sure.
//!
//! Usage and limits are followed like records. A transaction judged on them compares their revisions, so that memory may
//! be late without harm: the transaction fails, and they are read. What was only remembered never refuses anybody.

use std::sync::Arc;

use kilonova_model::{Error, ProjectId, Reason, Revision};
use kilonova_proto::conductor::v1::{QuotaRecord, RequestRecord, UsageRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::Txn;
use kilonova_store::keys::{Key, Keys};
use prost::Message;

use super::Request;
use super::merge::Basis;
use crate::cache::{Cache, Entry};
use crate::config::Config;
use crate::db::{Db, Read};

/// Projects and requests as the accept path sees them.
pub struct Book {
    /// The store.
    pub db: Db,
    config: Arc<Config>,
    usages: Cache<ProjectId, UsageRecord>,
    quotas: Cache<ProjectId, QuotaRecord>,
}

impl Book {
    /// Follows the store in tasks of `tasks`.
    #[must_use]
    pub fn follow(db: Db, config: Arc<Config>, tasks: &Tasks) -> Self {
        let used = |key| if let Key::Usage(project) = key { Some(project) } else { None };
        let limited = |key| if let Key::Quota(project) = key { Some(project) } else { None };
        let usages = Cache::follow("usage", &db.store, &db.keys, db.keys.usages(), used, tasks);
        let quotas = Cache::follow("quotas", &db.store, &db.keys, db.keys.quotas(), limited, tasks);
        Self { db, config, usages, quotas }
    }

    /// What was last heard of a project.
    #[must_use]
    pub fn remembered(&self, project: &ProjectId) -> Basis {
        self.basis(known(&self.usages, project), known(&self.quotas, project))
    }

    /// What the store says of a project.
    pub async fn read(&self, project: &ProjectId) -> Result<Basis, Error> {
        let quota = self.db.read_or_default::<QuotaRecord>(&self.db.keys.quota(project)).await?;
        Ok(self.basis(self.usage(project).await?, quota))
    }

    fn basis(&self, usage: Read<UsageRecord>, quota: Read<QuotaRecord>) -> Basis {
        Basis {
            used: usage.record.usage.unwrap_or_default(),
            used_at: usage.revision,
            limits: quota.record.limits.unwrap_or_else(|| self.config.quota.limits()),
            limits_at: quota.revision,
        }
    }

    /// Enters what this process committed.
    pub fn counted(&self, project: &ProjectId, used: pb::QuotaUsage, revision: Revision) {
        let record = UsageRecord { usage: Some(used) };
        self.usages.committed(project.clone(), Arc::new(record), revision);
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

    /// The ids an earlier request of that id was answered with. `Err` if it was another request.
    pub async fn replay(&self, request: &Request) -> Result<Option<Vec<String>>, Error> {
        replay(&self.db, request).await
    }

    /// Adds the request's id to a transaction that carries it out.
    #[must_use]
    pub fn remember(&self, request: &Request, resource_ids: Vec<String>, txn: Txn) -> Txn {
        remember(&self.db.keys, request, resource_ids, txn)
    }
}

/// The ids an earlier request of that id was answered with. `Err` if it was another request.
pub async fn replay(db: &Db, request: &Request) -> Result<Option<Vec<String>>, Error> {
    let Some(id) = &request.id else { return Ok(None) };
    let key = db.keys.request(&request.project, id);
    let Some(Read { record, .. }) = db.read::<RequestRecord>(&key).await? else { return Ok(None) };
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

/// Adds the request's id to a transaction that carries it out. When it is forgotten is said by the key's revision ([`crate::expiry`]).
#[must_use]
pub fn remember(keys: &Keys, request: &Request, resource_ids: Vec<String>, txn: Txn) -> Txn {
    let Some(id) = &request.id else { return txn };
    let key = keys.request(&request.project, id);
    let record = RequestRecord {
        method: request.method.to_owned(),
        fingerprint: request.fingerprint.clone(),
        resource_ids,
        ..Default::default()
    };
    txn.when_absent(key.clone()).put(key, record.encode_to_vec())
}

/// Remembers a request for which there is nothing to do while `holds` does. False if that does not hold, or the same request was
/// accepted meanwhile.
pub async fn settle(
    db: &Db,
    request: &Request,
    resource_ids: Vec<String>,
    holds: Txn,
) -> Result<bool, Error> {
    if request.id.is_none() {
        return Ok(true);
    }
    let txn = remember(&db.keys, request, resource_ids, holds);
    Ok(db.commit(txn).await?.committed().is_some())
}

/// A record in memory; one that is not there is the default one at revision 0, as in the store.
fn known<R: Message + Default + Clone + PartialEq + 'static>(
    cache: &Cache<ProjectId, R>,
    project: &ProjectId,
) -> Read<R> {
    let read = |entry: Entry<R>| Read { record: R::clone(&entry.record), revision: entry.revision };
    cache.get(project).map_or_else(|| Read { record: R::default(), revision: Revision(0) }, read)
}
