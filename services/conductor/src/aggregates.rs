//! Aggregates of compute hosts: what hosts have in common, and which they are.
//!
//! An aggregate names its hosts. A host learns which aggregates it is in when it registers, and at once when one changes
//! ([`crate::hosts`]); it publishes them with its capabilities, which is how schedulers learn of them.

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_model::{AggregateId, Error, Reason, Revision};
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::{Key, Keys};
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::accept::{Acceptor, Request};
use crate::barrier::Barrier;
use crate::cache::{Cache, Entry, Page};
use crate::catalogue::{Item, Shelf};
use crate::db::{Db, conflict};
use crate::hosts::Once;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;

impl Item for pb::Aggregate {
    type Id = AggregateId;
    const NOUN: &'static str = "aggregate";
    const NOT_FOUND: Reason = Reason::AggregateNotFound;

    fn key(keys: &Keys, id: &AggregateId) -> String {
        keys.aggregate(id)
    }
    fn created(mut self, now: SystemTime) -> Self {
        self.create_time = Some(timestamp(now));
        self.update_time = self.create_time;
        self
    }
}

/// All aggregates. Clones share them.
#[derive(Clone)]
pub struct Aggregates {
    db: Db,
    shelf: Arc<Shelf<pb::Aggregate>>,
    barrier: Arc<Barrier>,
}

/// What became of a change.
pub struct Changed {
    /// The aggregate as it is now.
    pub aggregate: pb::Aggregate,
    /// When it became so.
    pub revision: Revision,
    /// The hosts that something changed for; if it was so before, all it has: whether they were told is not known.
    pub hosts: Vec<String>,
}

impl Aggregates {
    /// Follows the store.
    pub fn follow(db: &Db, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Aggregate(id) = key { Some(id) } else { None };
        let shelf = Shelf::follow("aggregates", db, db.keys.aggregates(), id_of, tasks);
        Self { db: db.clone(), shelf: Arc::new(shelf), barrier: Arc::default() }
    }

    /// The memory.
    #[must_use]
    pub fn cache(&self) -> &Cache<AggregateId, pb::Aggregate> {
        &self.shelf.cache
    }

    /// Stores a new one, once for each request id.
    pub async fn create(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        id: &AggregateId,
        new: pb::Aggregate,
        validate_only: bool,
    ) -> Result<pb::Aggregate, Error> {
        let created = self.shelf.create(acceptor, request, id, new, validate_only).await?;
        Ok(self.cache().get(id).map_or(created, |entry| shown(&entry)))
    }

    /// One, from memory or else from the store.
    pub async fn get(&self, id: &AggregateId) -> Result<pb::Aggregate, Error> {
        match self.cache().get(id) {
            Some(entry) => Ok(shown(&entry)),
            None => self.read(id).await.map(|entry| shown(&entry)),
        }
    }

    async fn read(&self, id: &AggregateId) -> Result<Entry<pb::Aggregate>, Error> {
        let read = self.db.read::<pb::Aggregate>(&self.db.keys.aggregate(id)).await?;
        let read = read.ok_or_else(|| self.shelf.not_found(id))?;
        Ok(Entry { record: Arc::new(read.record), revision: read.revision })
    }

    /// A page, in the order of the ids.
    #[must_use]
    pub fn page(&self, after: Option<&AggregateId>, limit: usize) -> Page<AggregateId, pb::Aggregate> {
        self.shelf.page(after, limit)
    }

    /// Changes one, once for each request id; `etag` is what it has to be at, empty for anything.
    pub async fn change(
        &self,
        Once { acceptor, request }: &Once<'_>,
        id: &AggregateId,
        etag: &str,
        change: impl Fn(&mut pb::Aggregate) -> Result<(), Error>,
    ) -> Result<Changed, Error> {
        let key = self.db.keys.aggregate(id);
        for _ in 0..TRIES {
            let is_repeated = acceptor.replay(request).await?.is_some();
            let entry = self.read(id).await?;
            if is_repeated {
                return Ok(as_it_is(&entry));
            }
            let mut new = match changed(&entry, etag, &change) {
                Ok(new) => new,
                Err(_) if acceptor.outrun(request).await? => continue,
                Err(error) => return Err(error),
            };
            let as_read = Txn::new().when(Compare::ModRevision(key.clone(), entry.revision));
            if new == *entry.record {
                if acceptor.settle(request, vec![id.to_string()], as_read).await? {
                    return Ok(as_it_is(&entry));
                }
                continue;
            }
            let hosts = concerned(&entry.record, &new);
            new.update_time = Some(timestamp(SystemTime::now()));
            let txn = as_read.put(key.clone(), new.encode_to_vec());
            let txn = acceptor.remember(request, vec![id.to_string()], txn);
            if let TxnOutcome::Committed { revision } = self.db.commit(txn).await? {
                let entry = Entry { record: Arc::new(new), revision };
                self.cache().committed(id.clone(), entry.record.clone(), revision);
                return Ok(Changed { aggregate: shown(&entry), revision, hosts });
            }
        }
        Err(conflict(&format!("aggregate {id}")))
    }

    /// Removes one that has no hosts, once for each request id.
    pub async fn delete(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        id: &AggregateId,
        allow_missing: bool,
    ) -> Result<(), Error> {
        let key = self.db.keys.aggregate(id);
        for _ in 0..TRIES {
            if acceptor.replay(request).await?.is_some() {
                return Ok(());
            }
            let Some(read) = self.db.read::<pb::Aggregate>(&key).await? else {
                if !allow_missing {
                    let gone = acceptor.outrun(request).await?;
                    return if gone { Ok(()) } else { Err(self.shelf.not_found(id)) };
                }
                let missing = Txn::new().when_absent(key.clone());
                if acceptor.settle(request, vec![id.to_string()], missing).await? {
                    return Ok(());
                }
                continue;
            };
            let hosts = read.record.hosts.len();
            if hosts > 0 {
                let message = format!("the aggregate has {hosts} hosts; remove them first");
                return Err(Error::new(Reason::InvalidState, message).with("hosts", hosts));
            }
            let compare = Compare::ModRevision(key.clone(), read.revision);
            let txn = Txn::new().when(compare).delete(key.clone());
            let txn = acceptor.remember(request, vec![id.to_string()], txn);
            if self.db.commit(txn).await?.committed().is_some() {
                return Ok(());
            }
        }
        Err(conflict(&format!("aggregate {id}")))
    }

    /// Waits until memory is at least as new as that.
    pub async fn at_least(&self, revision: Revision) -> Result<(), Error> {
        if self.cache().has_seen(revision) {
            return Ok(());
        }
        self.barrier.pass(&self.db, &self.db.keys.aggregates(), self.cache()).await
    }

    /// The aggregates that a host is in, and the revision that says how new that is.
    #[must_use]
    pub fn of(&self, host: &str) -> (Vec<pb::HostAggregate>, Revision) {
        // What is looked at afterwards is as new or newer.
        let revision = self.cache().seen();
        let (entries, _) = self.cache().page(None, usize::MAX, |_, aggregate| has(aggregate, host));
        let held = entries.into_iter().map(|(id, entry)| pb::HostAggregate {
            id: id.to_string(),
            metadata: entry.record.metadata.clone(),
        });
        (held.collect(), revision)
    }
}

/// One as it is to be. Only what something changes in has to be at that etag.
fn changed(
    entry: &Entry<pb::Aggregate>,
    etag: &str,
    change: impl Fn(&mut pb::Aggregate) -> Result<(), Error>,
) -> Result<pb::Aggregate, Error> {
    let mut new = pb::Aggregate::clone(&entry.record);
    change(&mut new)?;
    if new != *entry.record && !etag.is_empty() && etag != entry.etag() {
        let message = "the aggregate has changed since it was read";
        return Err(Error::new(Reason::EtagMismatch, message).with("etag", entry.etag()));
    }
    Ok(new)
}

/// The answer to what changes nothing, or changed it before.
fn as_it_is(entry: &Entry<pb::Aggregate>) -> Changed {
    Changed { aggregate: shown(entry), revision: entry.revision, hosts: entry.record.hosts.clone() }
}

/// Whether a host is in it.
fn has(aggregate: &pb::Aggregate, host: &str) -> bool {
    aggregate.hosts.binary_search_by(|one| one.as_str().cmp(host)).is_ok()
}

/// The hosts that something is different for.
fn concerned(before: &pb::Aggregate, after: &pb::Aggregate) -> Vec<String> {
    let all_differs = before.metadata != after.metadata;
    let left = before.hosts.iter().filter(|host| !has(after, host));
    let stays_or_comes = after.hosts.iter().filter(|host| all_differs || !has(before, host));
    left.chain(stays_or_comes).cloned().collect()
}

/// As users see it.
#[must_use]
pub fn shown(entry: &Entry<pb::Aggregate>) -> pb::Aggregate {
    pb::Aggregate { etag: entry.etag(), ..pb::Aggregate::clone(&entry.record) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aggregate(kind: &str, hosts: &[&str]) -> pb::Aggregate {
        pb::Aggregate {
            metadata: [("disk".to_owned(), kind.to_owned())].into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..pb::Aggregate::default()
        }
    }

    #[test]
    fn only_hosts_that_something_changes_for_are_told() {
        let before = aggregate("ssd", &["a", "b"]);
        assert_eq!(concerned(&before, &aggregate("ssd", &["b", "c"])), ["a", "c"]);
        assert_eq!(concerned(&before, &aggregate("nvme", &["b", "c"])), ["a", "b", "c"]);
    }
}
