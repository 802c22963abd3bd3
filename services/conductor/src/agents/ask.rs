//! What a scheduler is asked for a record: the same for a build and for one that is only thought of.

use std::time::Duration;

use kilonova_model::{Error, Reason, ServiceKind};
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::{CallError, classify};

use super::{Callers, GroupWish, refused, step_id, within};
use crate::hints::Directory;
use crate::moves;
use crate::placed::Placed;

/// The longest a scheduler may think.
const SELECT_DEADLINE: Duration = Duration::from_secs(5);

/// The local disk in GiB that an instance of a flavor takes with an image.
#[must_use]
pub fn disk_gib(flavor: &pb::Flavor, image: &pb::Image) -> u32 {
    if flavor.disk_gib > 0 { flavor.disk_gib } else { image.min_disk_gib }
}

/// What a scheduler is asked for an instance that is to get another image where it is.
#[must_use]
pub fn rebuild_request(record: &InstanceRecord, image: &pb::Image) -> scheduler::SelectHostsRequest {
    let instance = record.resource();
    let flavor = instance.flavor.clone().unwrap_or_default();
    let held = record.image.as_ref().map_or(0, |image| disk_gib(&flavor, image));
    let force_host = instance.host.clone();
    scheduler::SelectHostsRequest {
        request_id: step_id(&instance.id, instance.generation, instance.attempt, "rebuild"),
        flavor: Some(flavor),
        image: Some(image.clone()),
        count: 1,
        hints: Some(pb::SchedulerHints { force_host, ..Default::default() }),
        project_id: instance.project_id.clone(),
        dry_run: true,
        rebuild: true,
        held_disk_gib: held,
        ..Default::default()
    }
}

impl Callers {
    /// Says in hosts what the user said in instances: a scheduler knows hosts only. An instance that has no host yet
    /// excludes none; one that is to be joined and has no host leaves no place.
    fn resolve(&self, mut hints: pb::SchedulerHints, excluded: &mut Vec<String>) -> pb::SchedulerHints {
        let host_of = |id: &String| {
            let entry = self.instances.cache.get(&id.parse().ok()?)?;
            Some(entry.record.resource().host.clone()).filter(|host| !host.is_empty())
        };
        excluded.extend(hints.different_host.iter().filter_map(host_of));
        if let Some(joined) = hints.same_host.first() {
            match host_of(joined) {
                Some(host) if hints.force_host.is_empty() || hints.force_host == host => {
                    hints.force_host = host
                }
                _ => excluded.extend(
                    self.peers
                        .registry()
                        .members(ServiceKind::Compute)
                        .current()
                        .members
                        .keys()
                        .map(ToString::to_string),
                ),
            }
        }
        hints.different_host.clear();
        hints.same_host.clear();
        hints.server_group_id.clear();
        hints
    }

    /// What a scheduler is asked for an instance.
    pub(crate) fn hosts_request(
        &self,
        request_id: String,
        record: &InstanceRecord,
        alternates: u32,
        group: &GroupWish,
    ) -> scheduler::SelectHostsRequest {
        let instance = record.resource();
        let spec = instance.spec.clone().unwrap_or_default();
        let mut excluded_hosts = record.tried_hosts.clone();
        excluded_hosts.extend(group.broken.iter().cloned());
        excluded_hosts.extend(moves::leaves(record));
        let mut hints = spec.hints.unwrap_or_default();
        if moves::is_later(record) {
            // Where it was first to go, or not, and with whom, says nothing of where it may go later; whom it is to be apart from does.
            hints.force_host.clear();
            hints.exclude_hosts.clear();
            hints.same_host.clear();
        }
        let mut hints = self.resolve(hints, &mut excluded_hosts);
        if let Some(target) = moves::target(record) {
            target.clone_into(&mut hints.force_host);
        }
        if let Some(host) = group.only().filter(|_| hints.force_host.is_empty()) {
            host.clone_into(&mut hints.force_host);
        }
        scheduler::SelectHostsRequest {
            request_id,
            flavor: moves::flavor_to_be(record).cloned(),
            image: record.image.clone(),
            availability_zone: spec.availability_zone,
            count: 1,
            alternates,
            excluded_hosts,
            hints: Some(hints),
            project_id: instance.project_id.clone(),
            server_group: group.hosts.clone(),
            ..Default::default()
        }
    }

    /// Asks a scheduler for hosts.
    pub(crate) async fn select_hosts(
        &self,
        request: scheduler::SelectHostsRequest,
    ) -> Result<scheduler::SelectHostsResponse, CallError> {
        let mut client = SchedulerServiceClient::new(self.peers.call(ServiceKind::Scheduler));
        let answer = client.select_hosts(within(request, SELECT_DEADLINE)).await;
        Ok(answer.map_err(classify)?.into_inner())
    }

    /// The backend a snapshot is on.
    async fn host_of(&self, snapshot_id: &str) -> Result<String, CallError> {
        let gone = || {
            let message = format!("snapshot {snapshot_id} is gone");
            refused(&Error::new(Reason::SnapshotNotFound, message).with("snapshot_id", snapshot_id))
        };
        let id = snapshot_id.parse().map_err(|_| gone())?;
        let entry = self.snapshots.get(id).await.map_err(|error| refused(&error))?;
        let host = entry.map(|entry| entry.record.resource().host.clone()).unwrap_or_default();
        if host.is_empty() { Err(gone()) } else { Ok(host) }
    }

    /// What a scheduler is asked for a volume.
    pub(crate) async fn backends_request(
        &self,
        request_id: String,
        record: &VolumeRecord,
        alternates: u32,
    ) -> Result<scheduler::SelectBackendsRequest, CallError> {
        let volume = record.resource();
        let mut spec = volume.spec.clone().unwrap_or_default();
        if !spec.snapshot_id.is_empty() {
            // As in Cinder by default: where the snapshot is.
            spec.hints.get_or_insert_default().force_host = self.host_of(&spec.snapshot_id).await?;
        }
        let directory = Directory { volumes: &self.volumes, instances: &self.instances };
        let hints = spec.hints.clone().unwrap_or_default();
        let named = directory.find(&hints).await.map_err(|error| refused(&error))?;
        Ok(scheduler::SelectBackendsRequest {
            request_id,
            volume: Some(spec),
            count: 1,
            alternates,
            excluded_backends: record.tried_hosts.clone(),
            project_id: volume.project_id.clone(),
            dry_run: false,
            same_backends: named.same_backends,
            different_backends: named.different_backends,
            instance_host: named.instance_host,
        })
    }

    /// Asks a scheduler for backends.
    pub(crate) async fn select_backends(
        &self,
        request: scheduler::SelectBackendsRequest,
    ) -> Result<scheduler::SelectBackendsResponse, CallError> {
        let mut client = SchedulerServiceClient::new(self.peers.call(ServiceKind::Scheduler));
        let answer = client.select_backends(within(request, SELECT_DEADLINE)).await;
        Ok(answer.map_err(classify)?.into_inner())
    }
}
