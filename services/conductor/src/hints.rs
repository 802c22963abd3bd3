//! What a volume's hints name: to the user other volumes and an instance, to a scheduler backends and a host.

use std::collections::BTreeSet;

use kilonova_model::Error;
use kilonova_model::check::Checker;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1::SchedulerHints;

use crate::placed::{Phase, Placed};
use crate::records::Records;
use crate::requests::{self, Named, read_id};

/// Where those are that hints name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The backends of the volumes to be with.
    pub same_backends: Vec<String>,
    /// The backends of the volumes to be apart from.
    pub different_backends: Vec<String>,
    /// The host of the instance to be local to; empty for none.
    pub instance_host: String,
}

/// Who can be named.
pub struct Directory<'a> {
    /// By `same_host` and `different_host`.
    pub volumes: &'a Records<VolumeRecord>,
    /// By `local_to_instance`.
    pub instances: &'a Records<InstanceRecord>,
}

impl Directory<'_> {
    /// Refuses hints that name what is not there, or not of this project.
    pub async fn check(&self, hints: &SchedulerHints, project: &str) -> Result<(), Error> {
        let mut check = Checker::new();
        for (field, ids) in [("different_host", &hints.different_host), ("same_host", &hints.same_host)] {
            for id in ids {
                ensure_there(&mut check, self.volumes, field, id, project).await?;
            }
        }
        if !hints.local_to_instance.is_empty() {
            let id = &hints.local_to_instance;
            ensure_there(&mut check, self.instances, "local_to_instance", id, project).await?;
        }
        check.finish()
    }

    /// Looks them up, as they are now and not as memory has them.
    pub async fn find(&self, hints: &SchedulerHints) -> Result<Whereabouts, Error> {
        if !hints.same_host.is_empty() || !hints.different_host.is_empty() {
            self.volumes.brought_up_to_date().await?;
        }
        if !hints.local_to_instance.is_empty() {
            self.instances.brought_up_to_date().await?;
        }
        Ok(Whereabouts {
            same_backends: hosts(self.volumes, &hints.same_host),
            different_backends: hosts(self.volumes, &hints.different_host),
            instance_host: host(self.instances, &hints.local_to_instance).unwrap_or_default(),
        })
    }
}

async fn ensure_there<P: Placed>(
    check: &mut Checker,
    records: &Records<P>,
    field: &str,
    text: &str,
    project: &str,
) -> Result<(), Error> {
    let field = format!("volume.hints.{field}");
    let named = Named { id: read_id(&field, text)?, project, etag: "" };
    let is_there = match requests::get(records, named).await {
        Ok(entry) => entry.record.status().phase != Phase::Gone,
        Err(error) if error.reason == P::NOT_FOUND => false,
        Err(error) => return Err(error),
    };
    check.ensure(is_there, &field, format!("the project has no {} {text}", P::NOUN));
    Ok(())
}

/// Each of their hosts once.
fn hosts<P: Placed>(records: &Records<P>, ids: &[String]) -> Vec<String> {
    let hosts: BTreeSet<String> = ids.iter().filter_map(|id| host(records, id)).collect();
    hosts.into_iter().collect()
}

/// The host of one that has one and is not gone.
fn host<P: Placed>(records: &Records<P>, id: &str) -> Option<String> {
    let status = records.cache.get(&id.parse().ok()?)?.record.status();
    (status.phase != Phase::Gone && !status.host.is_empty()).then_some(status.host)
}
