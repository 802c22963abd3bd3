//! Flavors, images and quotas: records that nobody drives.

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_model::{Error, FlavorId, ImageId, ProjectId, Reason};
use kilonova_proto::conductor::v1::QuotaRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::{Key, Keys};
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use crate::accept::{Acceptor, Request};
use crate::cache::{Cache, Page};
use crate::db::{Db, conflict};

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;

/// A record of the catalogue.
pub trait Item: Message + Default + Clone + PartialEq + 'static {
    /// Its id.
    type Id: Clone + Ord + std::fmt::Debug + std::fmt::Display + Send + Sync + 'static;
    /// `flavor` or `image`.
    const NOUN: &'static str;
    /// Why there is none of that id.
    const NOT_FOUND: Reason;

    /// Its key.
    fn key(keys: &Keys, id: &Self::Id) -> String;
    /// Completes a new one.
    fn created(self, now: SystemTime) -> Self;
}

impl Item for pb::Flavor {
    type Id = FlavorId;
    const NOUN: &'static str = "flavor";
    const NOT_FOUND: Reason = Reason::FlavorNotFound;

    fn key(keys: &Keys, id: &FlavorId) -> String {
        keys.flavor(id)
    }
    fn created(mut self, now: SystemTime) -> Self {
        if self.name.is_empty() {
            self.name = self.id.clone();
        }
        self.create_time = Some(timestamp(now));
        self
    }
}

impl Item for pb::Image {
    type Id = ImageId;
    const NOUN: &'static str = "image";
    const NOT_FOUND: Reason = Reason::ImageNotFound;

    fn key(keys: &Keys, id: &ImageId) -> String {
        keys.image(id)
    }
    fn created(mut self, now: SystemTime) -> Self {
        if self.name.is_empty() {
            self.name = self.id.clone();
        }
        self.create_time = Some(timestamp(now));
        self
    }
}

/// All flavors, all images, or all aggregates.
pub struct Shelf<T: Item> {
    db: Db,
    /// The memory.
    pub cache: Cache<T::Id, T>,
}

impl Shelf<pb::Flavor> {
    /// The flavors.
    pub fn flavors(db: &Db, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Flavor(id) = key { Some(id) } else { None };
        Self::follow("flavors", db, db.keys.flavors(), id_of, tasks)
    }
}

impl Shelf<pb::Image> {
    /// The images.
    pub fn images(db: &Db, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Image(id) = key { Some(id) } else { None };
        Self::follow("images", db, db.keys.images(), id_of, tasks)
    }
}

impl<T: Item> Shelf<T> {
    /// Follows the keys under a prefix; `id_of` says which of them belong here.
    pub fn follow(
        name: &'static str,
        db: &Db,
        prefix: String,
        id_of: fn(Key) -> Option<T::Id>,
        tasks: &Tasks,
    ) -> Self {
        let cache = Cache::follow(name, &db.store, &db.keys, prefix, id_of, tasks);
        Self { db: db.clone(), cache }
    }

    /// One, from memory or else from the store.
    pub async fn get(&self, id: &T::Id) -> Result<T, Error> {
        if let Some(entry) = self.cache.get(id) {
            return Ok(T::clone(&entry.record));
        }
        let read = self.db.read::<T>(&T::key(&self.db.keys, id)).await?;
        read.map(|read| read.record).ok_or_else(|| self.not_found(id))
    }

    /// There is none of that id.
    pub fn not_found(&self, id: &T::Id) -> Error {
        Error::new(T::NOT_FOUND, format!("no {} {id}", T::NOUN)).with(&format!("{}_id", T::NOUN), id)
    }

    /// Stores a new one.
    pub async fn create(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        id: &T::Id,
        item: T,
        validate_only: bool,
    ) -> Result<T, Error> {
        if acceptor.replay(request).await?.is_some() {
            return self.get(id).await;
        }
        let item = item.created(SystemTime::now());
        let exists = || {
            Error::new(Reason::ResourceExists, format!("{} {id} exists", T::NOUN))
                .with(&format!("{}_id", T::NOUN), id)
        };
        let key = T::key(&self.db.keys, id);
        if validate_only {
            return match self.db.read::<T>(&key).await? {
                Some(_) => Err(exists()),
                None => Ok(item),
            };
        }
        let txn = Txn::new().when_absent(key.clone()).put(key, item.encode_to_vec());
        match self.db.commit(acceptor.remember(request, vec![id.to_string()], txn)).await? {
            TxnOutcome::Committed { revision } => {
                self.cache.committed(id.clone(), Arc::new(item.clone()), revision);
                Ok(item)
            }
            // The same request may have come twice at once.
            TxnOutcome::Conflict { .. } => match acceptor.replay(request).await? {
                Some(_) => self.get(id).await,
                None => Err(exists()),
            },
        }
    }

    /// Removes one, once for each request id.
    pub async fn delete(
        &self,
        acceptor: &Acceptor,
        request: &Request,
        id: &T::Id,
        allow_missing: bool,
    ) -> Result<(), Error> {
        let key = T::key(&self.db.keys, id);
        for _ in 0..TRIES {
            if acceptor.replay(request).await?.is_some() {
                return Ok(());
            }
            let txn = Txn::new().when(Compare::Exists(key.clone())).delete(key.clone());
            let txn = acceptor.remember(request, vec![id.to_string()], txn);
            if self.db.commit(txn).await?.committed().is_some() {
                return Ok(());
            }
            if !allow_missing {
                // The same request may have come twice at once.
                return if acceptor.outrun(request).await? { Ok(()) } else { Err(self.not_found(id)) };
            }
            let missing = Txn::new().when_absent(key.clone());
            if acceptor.settle(request, vec![id.to_string()], missing).await? {
                return Ok(());
            }
        }
        Err(conflict(&format!("{} {id}", T::NOUN)))
    }

    /// A page, in the order of the ids.
    #[must_use]
    pub fn page(&self, after: Option<&T::Id>, limit: usize) -> Page<T::Id, T> {
        self.cache.page(after, limit, |_, _| true)
    }
}

/// What a project may use and what it uses.
pub async fn quota(acceptor: &Acceptor, project: &ProjectId) -> Result<pb::Quota, Error> {
    Ok(pb::Quota {
        project_id: project.to_string(),
        limits: Some(acceptor.limits(project).await?.record),
        usage: Some(acceptor.usage(project).await?.record.usage.unwrap_or_default()),
    })
}

/// Sets the limits of the request's project that `paths` names, all when it is empty; once for its id.
pub async fn set_limits(
    db: &Db,
    acceptor: &Acceptor,
    request: &Request,
    new: &pb::QuotaLimits,
    paths: &[String],
) -> Result<(), Error> {
    let project = &request.project;
    let key = db.keys.quota(project);
    for _ in 0..TRIES {
        if acceptor.replay(request).await?.is_some() {
            return Ok(());
        }
        let own = acceptor.limits(project).await?;
        let limits = QuotaRecord { limits: Some(merged(&own.record, new, paths)?) };
        let txn = Txn::new()
            .when(Compare::ModRevision(key.clone(), own.revision))
            .put(key.clone(), limits.encode_to_vec());
        let txn = acceptor.remember(request, vec![project.to_string()], txn);
        if let TxnOutcome::Committed { .. } = db.commit(txn).await? {
            return Ok(());
        }
    }
    Err(conflict(&format!("the quota of project {project}")))
}

fn merged(old: &pb::QuotaLimits, new: &pb::QuotaLimits, paths: &[String]) -> Result<pb::QuotaLimits, Error> {
    if paths.is_empty() {
        return Ok(*new);
    }
    let mut check = kilonova_model::check::Checker::new();
    let mut limits = *old;
    for path in paths {
        match path.as_str() {
            "instances" => limits.instances = new.instances,
            "cores" => limits.cores = new.cores,
            "ram_mib" => limits.ram_mib = new.ram_mib,
            "volumes" => limits.volumes = new.volumes,
            "gigabytes" => limits.gigabytes = new.gigabytes,
            "snapshots" => limits.snapshots = new.snapshots,
            other => check.ensure(false, "update_mask", format!("{other:?} is no limit")),
        }
    }
    check.finish().map(|()| limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_changes_only_what_it_names() {
        let old = pb::QuotaLimits { instances: 10, cores: 20, ..Default::default() };
        let new = pb::QuotaLimits { instances: -1, ..Default::default() };
        let limits = merged(&old, &new, &["instances".to_owned()]).unwrap();
        assert_eq!((limits.instances, limits.cores), (-1, 20));
        assert_eq!(merged(&old, &new, &[]).unwrap(), new);
        assert!(merged(&old, &new, &["gpus".to_owned()]).is_err());
    }
}
