//! What users ask of instances and volumes, made into records and changes of records.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use kilonova_model::check::{self, Checker};
use kilonova_model::time::timestamp;
use kilonova_model::{Error, FieldViolation, InstanceId, Reason, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::{DeleteInstanceRequest, InstanceRecord, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_store::Txn;

use crate::accept::{Acceptor, Request, book};
use crate::cache::Entry;
use crate::db::conflict;
use crate::history::{self, Actor};
use crate::placed::{Phase, Placed, Wanted};
use crate::records::{Records, Written};

/// How often a request is tried again when somebody else was faster.
const TRIES: usize = 16;

/// Who accepts, and since when.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance<'a> {
    /// The conductor.
    pub conductor: &'a str,
    /// When the request arrived.
    pub arrived: SystemTime,
    /// The request's id.
    pub request_id: &'a str,
}

impl Acceptance<'_> {
    /// Begins the action that was asked for.
    pub fn note(&self, actions: &mut Vec<pb::Action>, kind: Kind) {
        history::begin(actions, kind, self.request_id, self.arrived);
        let took = self.arrived.elapsed().unwrap_or_default();
        history::add_to_newest(actions, history::done("accept", self.actor(), self.arrived, took, 0, ""));
    }

    /// The conductor as the one who did a step.
    #[must_use]
    pub fn actor(&self) -> Actor<'_> {
        Actor { service: ServiceKind::Conductor, host: self.conductor }
    }
}

/// The records of `count` new instances.
pub fn new_instances(
    spec: &pb::InstanceSpec,
    count: u32,
    project: &str,
    flavor: &pb::Flavor,
    image: &pb::Image,
    acceptance: Acceptance<'_>,
) -> Vec<(InstanceId, InstanceRecord)> {
    (1..=count.max(1))
        .map(|number| {
            let id = InstanceId::generate();
            let mut spec = spec.clone();
            if count > 1 {
                spec.name = format!("{}-{number}", spec.name);
            }
            let instance = pb::Instance {
                id: id.to_string(),
                project_id: project.to_owned(),
                spec: Some(spec),
                flavor: Some(flavor.clone()),
                desired: pb::instance::Desired::Running.into(),
                state: pb::instance::State::Building.into(),
                task: pb::instance::Task::Scheduling.into(),
                create_time: Some(timestamp(acceptance.arrived)),
                update_time: Some(timestamp(acceptance.arrived)),
                generation: 1,
                ..Default::default()
            };
            let mut record = InstanceRecord {
                instance: Some(instance),
                image: Some(image.clone()),
                counted: true,
                ..Default::default()
            };
            acceptance.note(&mut record.actions, Kind::Create);
            (id, record)
        })
        .collect()
}

/// The record of a new volume.
pub fn new_volume(
    spec: &pb::VolumeSpec,
    project: &str,
    acceptance: Acceptance<'_>,
) -> (VolumeId, VolumeRecord) {
    let id = VolumeId::generate();
    let volume = pb::Volume {
        id: id.to_string(),
        project_id: project.to_owned(),
        spec: Some(spec.clone()),
        desired: pb::volume::Desired::Present.into(),
        state: pb::volume::State::Creating.into(),
        create_time: Some(timestamp(acceptance.arrived)),
        update_time: Some(timestamp(acceptance.arrived)),
        generation: 1,
        ..Default::default()
    };
    let mut record = VolumeRecord { volume: Some(volume), counted: true, ..Default::default() };
    acceptance.note(&mut record.actions, Kind::Create);
    (id, record)
}

/// Whether an image runs in a flavor; `field` is the one that names what does not fit.
pub fn check_fit(field: &str, flavor: &pb::Flavor, image: &pb::Image) -> Result<(), Error> {
    let mut check = Checker::new();
    check.ensure(
        flavor.ram_mib >= image.min_ram_mib,
        field,
        format!(
            "image {} needs {} MiB of memory, {} has {}",
            image.id, image.min_ram_mib, flavor.id, flavor.ram_mib
        ),
    );
    check.ensure(
        flavor.disk_gib == 0 || flavor.disk_gib >= image.min_disk_gib,
        field,
        format!(
            "image {} needs {} GiB of disk, {} has {}",
            image.id, image.min_disk_gib, flavor.id, flavor.disk_gib
        ),
    );
    check.finish()
}

/// One record as a user names it.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a, I> {
    /// Its id.
    pub id: I,
    /// Its project; empty for any.
    pub project: &'a str,
    /// Its etag; empty for any.
    pub etag: &'a str,
}

impl<I: Copy> Named<'_, I> {
    /// Refuses a record of another project, or that has changed.
    pub fn check<P: Placed<Id = I>>(&self, entry: &Entry<P>) -> Result<(), Error> {
        self.check_project(entry)?;
        self.check_etag(entry)
    }

    fn check_project<P: Placed<Id = I>>(&self, entry: &Entry<P>) -> Result<(), Error> {
        if self.project.is_empty() || self.project == entry.record.project_id() {
            Ok(())
        } else {
            Err(Records::<P>::not_found(self.id))
        }
    }

    fn check_etag<P: Placed<Id = I>>(&self, entry: &Entry<P>) -> Result<(), Error> {
        if self.etag.is_empty() || self.etag == entry.etag() {
            return Ok(());
        }
        Err(Error::new(Reason::EtagMismatch, format!("the {} has changed since it was read", P::NOUN))
            .with("etag", entry.etag()))
    }
}

/// Reads a record as a user names it.
pub async fn get<P: Placed>(records: &Records<P>, named: Named<'_, P::Id>) -> Result<Entry<P>, Error> {
    let entry = records.get(named.id).await?.ok_or_else(|| Records::<P>::not_found(named.id))?;
    named.check_project(&entry)?;
    Ok(entry)
}

/// Reads a record as a user names it from the store: memory may be older than what another conductor accepted.
pub async fn stored<P: Placed>(records: &Records<P>, named: Named<'_, P::Id>) -> Result<Entry<P>, Error> {
    let entry = records.read(named.id).await?.ok_or_else(|| Records::<P>::not_found(named.id))?;
    named.check_project(&entry)?;
    Ok(entry)
}

/// What may keep a record from being deleted.
#[async_trait]
pub trait Guard<P>: Sync {
    /// Refuses a record that others need.
    async fn may_go(&self, record: &P) -> Result<(), Error>;
}

/// Nothing does.
pub struct Unguarded;

#[async_trait]
impl<P: Sync> Guard<P> for Unguarded {
    async fn may_go(&self, _: &P) -> Result<(), Error> {
        Ok(())
    }
}

/// What is deleted by a request of its own.
pub trait Deleted: Placed {
    /// The method.
    const DELETE: &'static str;
}

impl Deleted for InstanceRecord {
    const DELETE: &'static str = "DeleteInstance";
}

impl Deleted for VolumeRecord {
    const DELETE: &'static str = "DeleteVolume";
}

impl Deleted for SnapshotRecord {
    const DELETE: &'static str = "DeleteSnapshot";
}

/// Accepts the end of a record, once for each request id; `None` when it is missing and may be, or is gone since an earlier request of
/// that id. `guard` judges the record as the store has it, in the transaction that accepts: what it read of others has to be as new as
/// that.
pub async fn delete<P: Deleted>(
    records: &Records<P>,
    named: Named<'_, P::Id>,
    allow_missing: bool,
    timeout: Duration,
    acceptance: Acceptance<'_>,
    guard: &impl Guard<P>,
) -> Result<Option<Entry<P>>, Error> {
    // What was asked, without the request's id.
    let message = DeleteInstanceRequest {
        project_id: named.project.to_owned(),
        instance_id: named.id.to_string(),
        etag: named.etag.to_owned(),
        allow_missing,
        ..Default::default()
    };
    let request = Request::new(P::DELETE, named.project, acceptance.request_id, &message)?;
    let (db, ids) = (&records.db, || vec![named.id.to_string()]);
    for _ in 0..TRIES {
        let is_repeated = book::replay(db, &request).await?.is_some();
        let entry = records.read(named.id).await?.filter(|entry| named.check_project(entry).is_ok());
        if is_repeated {
            return Ok(entry);
        }
        let there = entry.filter(|entry| {
            entry.record.status().phase != Phase::Gone || is_ended_by(entry, acceptance.request_id)
        });
        let Some(entry) = there else {
            if !allow_missing {
                match book::replay(db, &request).await? {
                    Some(_) => continue,
                    None => return Err(Records::<P>::not_found(named.id)),
                }
            }
            if book::settle(db, &request, ids(), Txn::new()).await? {
                return Ok(None);
            }
            continue;
        };
        if entry.record.status().wanted == Wanted::Absent {
            if book::settle(db, &request, ids(), Txn::new()).await? {
                return Ok(Some(entry));
            }
            continue;
        }
        named.check_etag(&entry)?;
        guard.may_go(&entry.record).await?;
        let mut record = P::clone(&entry.record);
        let now = SystemTime::now();
        record.set_absent(now + timeout, now);
        acceptance.note(record.actions_mut(), Kind::Delete);
        let with = book::remember(&db.keys, &request, ids(), Txn::new());
        if let Written::Stored(entry) = records.write(named.id, &entry, record, None, with).await? {
            return Ok(Some(entry));
        }
    }
    Err(conflict(&format!("{} {}", P::NOUN, named.id)))
}

/// Whether that request ended it, by its history: conductors of an earlier version do not remember the ids of such requests.
fn is_ended_by<P: Placed>(entry: &Entry<P>, request_id: &str) -> bool {
    let last = entry.record.actions().last();
    last.is_some_and(|action| !request_id.is_empty() && action.request_id == request_id)
}

/// What of a user's description can be changed.
pub struct Description {
    name: Option<String>,
    metadata: Option<std::collections::BTreeMap<String, String>>,
}

impl Description {
    /// Reads the new values that the mask names.
    pub fn read(
        path: &str,
        mask: Option<&prost_types::FieldMask>,
        name: &str,
        metadata: &std::collections::BTreeMap<String, String>,
        name_required: bool,
    ) -> Result<Self, Error> {
        let mut check = Checker::new();
        let mut read = Self { name: None, metadata: None };
        let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
        check.ensure(!paths.is_empty(), "update_mask", "is required: name, metadata, or both");
        for field in paths {
            match field.as_str() {
                "name" => {
                    check::name(&mut check, &format!("{path}.name"), name, name_required);
                    read.name = Some(name.to_owned());
                }
                "metadata" => {
                    check::metadata(&mut check, &format!("{path}.metadata"), metadata);
                    read.metadata = Some(metadata.clone());
                }
                other => check.ensure(false, "update_mask", format!("{other:?} cannot be changed")),
            }
        }
        check.finish().map(|()| read)
    }
}

/// What of a record a description is made of: its name, its metadata, and when it last changed.
pub type Described<'a> = (
    &'a mut String,
    &'a mut std::collections::BTreeMap<String, String>,
    &'a mut Option<prost_types::Timestamp>,
);

/// Changes what a user calls a record, once for the request's id. The same values again change nothing.
pub async fn describe<P: Placed>(
    acceptor: &Acceptor,
    request: &Request,
    records: &Records<P>,
    named: Named<'_, P::Id>,
    new: &Description,
    fields: impl Fn(&mut P) -> Described<'_> + Send + Sync,
) -> Result<Entry<P>, Error> {
    for _ in 0..TRIES {
        if acceptor.replay(request).await?.is_some() {
            return stored(records, named).await;
        }
        let entry = stored(records, named).await?;
        if entry.record.status().wanted == Wanted::Absent {
            return Err(Error::new(Reason::InvalidState, format!("the {} is being deleted", P::NOUN)));
        }
        let mut record = P::clone(&entry.record);
        let (name, metadata, _) = fields(&mut record);
        if let Some(new) = &new.name {
            name.clone_from(new);
        }
        if let Some(new) = &new.metadata {
            metadata.clone_from(new);
        }
        if record == *entry.record {
            if request.id.is_none() {
                return Ok(entry);
            }
        } else {
            named.check_etag(&entry)?;
            *fields(&mut record).2 = Some(timestamp(SystemTime::now()));
        }
        let with = acceptor.remember(request, vec![named.id.to_string()], Txn::new());
        if let Written::Stored(entry) = records.write(named.id, &entry, record, None, with).await? {
            return Ok(entry);
        }
    }
    Err(conflict(&format!("{} {}", P::NOUN, named.id)))
}

/// Reads an id out of a request.
pub fn read_id<I: std::str::FromStr<Err = kilonova_model::InvalidId>>(
    field: &str,
    text: &str,
) -> Result<I, Error> {
    let mut check = Checker::new();
    let id = check.id(field, text);
    check.finish()?;
    id.ok_or_else(|| {
        Error::invalid(vec![FieldViolation {
            field: field.to_owned(),
            description: "is required".to_owned(),
        }])
    })
}
