//! Mending: each by one command or one transaction, which holds only as long as what the finding rests on.

use std::time::SystemTime;

use kilonova_model::{Error, HostName, InstanceId, Revision, ServerGroupId, ServiceKind, VolumeId};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::conductor::v1::{InstanceRecord, ReportStatus, UsageRecord, VolumeRecord};
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::classify;
use kilonova_rpc::peers::Channel;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;

use super::finding::{At, Finding, Heal, Settle};
use super::look::Auditor;
use crate::agents::connections::connector;
use crate::agents::{self, COMMAND_DEADLINE, Told, within};
use crate::attach::{complete, release};
use crate::cache::Entry;
use crate::db::Read;
use crate::groups::Change;
use crate::operations;
use crate::placed::{Placed, Site};
use crate::quota;
use crate::records::{Records, Written};
use crate::reports::{self, Report};

/// What is said when something changed since it was seen.
const CHANGED: &str = "it changed meanwhile; nothing was done";

/// What a mend is called in the id of its command.
const STEP: &str = "audit";

type Healed = Result<(), String>;

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Only if the key is as it was read; revision 0 for one that was not there.
fn as_read(key: String, read: Revision) -> Compare {
    if read.0 == 0 { Compare::Absent(key) } else { Compare::ModRevision(key, read) }
}

impl Auditor {
    /// Mends a finding, or says why not.
    pub async fn heal(&self, finding: &Finding) -> Healed {
        let healed = match &finding.heal {
            None => Err("it can only be reported".to_owned()),
            Some(heal) => self.mend(&finding.project, heal).await,
        };
        let (kind, subject, host) = (finding.kind.as_str_name(), &finding.subject, &finding.host);
        match &healed {
            Ok(()) => tracing::warn!(kind, subject, host, cause = finding.cause, "an audit healed a drift"),
            Err(why) => tracing::info!(kind, subject, host, why, "an audit did not heal a drift"),
        }
        healed
    }

    async fn mend(&self, project: &str, heal: &Heal) -> Healed {
        match heal {
            Heal::Usage { read, sum } => {
                let key = self.db.keys.usage(&Self::project(project).map_err(words)?);
                self.commit(Txn::new().when(as_read(key.clone(), *read)).put(key, usage(*sum)))
                    .await
                    .map(drop)
            }
            Heal::LeaveGroup { group, member, record } => {
                let fence = member
                    .parse::<InstanceId>()
                    .ok()
                    .map(|id| as_read(self.db.keys.instance(id), record.unwrap_or(Revision(0))));
                self.change_group(*group, fence, |read| Change::left(*group, read, member)).await
            }
            Heal::Place { group, member, record, place } => {
                let fence = as_read(self.db.keys.instance(*member), *record);
                let entered = |read: &_| Change::entered(*group, read, &member.to_string(), place.clone());
                self.change_group(*group, Some(fence), entered).await
            }
            Heal::Terminate(id, at) => {
                let generation = at.stamp.generation.0;
                let command =
                    agents::instance::command(*id, generation, &at.site(), at.epoch, STEP, Told::default());
                let mut client = ComputeServiceClient::new(self.at(ServiceKind::Compute, at)?);
                let request = compute::TerminateInstanceRequest { command: Some(command) };
                taken(client.terminate_instance(within(request, COMMAND_DEADLINE)).await)
            }
            Heal::DeleteVolume(id, at) => {
                let request = volume::DeleteVolumeRequest { command: Some(command(id, at)) };
                taken(self.backend(at)?.delete_volume(within(request, COMMAND_DEADLINE)).await)
            }
            Heal::DeleteSnapshot(id, of, at) => {
                let (command, snapshot_id) = (Some(command(of, at)), id.to_string());
                let request = volume::DeleteSnapshotRequest { command, snapshot_id };
                taken(self.backend(at)?.delete_snapshot(within(request, COMMAND_DEADLINE)).await)
            }
            Heal::InstanceLost(id, entry) => lost(&self.callers.instances, *id, entry).await,
            Heal::VolumeLost(id, entry) => lost(&self.callers.volumes, *id, entry).await,
            Heal::SnapshotLost(id, entry) => lost(&self.callers.snapshots, *id, entry).await,
            Heal::InstanceFound(id, entry) => found(&self.callers.instances, *id, entry).await,
            Heal::VolumeFound(id, entry) => found(&self.callers.volumes, *id, entry).await,
            Heal::SnapshotFound(id, entry) => found(&self.callers.snapshots, *id, entry).await,
            Heal::Grow(id, entry, size) => self.grow(*id, entry, *size).await,
            Heal::Disconnect(id, entry, host) => self.disconnect(*id, entry, Some(host)).await,
            Heal::Settle(settle) => self.settle(settle).await,
            Heal::Release(id, entry, instance) => self.release(*id, entry, *instance).await,
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, String> {
        match self.db.commit(txn).await.map_err(words)? {
            TxnOutcome::Committed { revision } => Ok(revision),
            TxnOutcome::Conflict { .. } => Err(CHANGED.to_owned()),
        }
    }

    /// Changes a group as it is now, if the member's record is as it was.
    async fn change_group(
        &self,
        id: ServerGroupId,
        fence: Option<Compare>,
        change: impl Fn(&Read<kilonova_proto::conductor::v1::ServerGroupRecord>) -> Change + Send,
    ) -> Healed {
        let _lane = self.groups.enter(id).await;
        let read = self.groups.read(id).await.map_err(words)?.ok_or(CHANGED)?;
        let change = change(&read);
        let txn = fence.into_iter().fold(Txn::new(), Txn::when);
        let revision = self.commit(self.groups.with(txn, &change)).await?;
        self.groups.committed(change, revision);
        Ok(())
    }

    /// The channel to an incarnation of a host.
    fn at(&self, service: ServiceKind, at: &At) -> Result<Channel, String> {
        self.callers.host(service, &at.host, at.epoch).map_err(words)
    }

    fn backend(&self, at: &At) -> Result<VolumeServiceClient<Channel>, String> {
        self.at(ServiceKind::Volume, at).map(VolumeServiceClient::new)
    }

    /// The record gets the volume's size, and the project's usage what it is more.
    async fn grow(&self, id: VolumeId, entry: &Entry<VolumeRecord>, size_gib: u32) -> Healed {
        let mut record = VolumeRecord::clone(&entry.record);
        let spec = record.volume.get_or_insert_default().spec.get_or_insert_default();
        let more = QuotaUsage { gigabytes: size_gib.saturating_sub(spec.size_gib), ..Default::default() };
        spec.size_gib = size_gib;
        let project = Self::project(record.project_id()).map_err(words)?;
        let key = self.db.keys.usage(&project);
        let used: Read<UsageRecord> = self.db.read_or_default(&key).await.map_err(words)?;
        let sum = quota::sum(&used.record.usage.unwrap_or_default(), &more);
        let with = Txn::new().when(as_read(key.clone(), used.revision)).put(key, usage(sum));
        written(self.callers.volumes.write(id, entry, record, None, with).await)
    }

    /// Ends the exports of a volume: to one host at the generation it was seen at, to all at the next, as a detach does. A
    /// connect for what came after has a newer one.
    async fn disconnect(&self, id: VolumeId, entry: &Entry<VolumeRecord>, host: Option<&str>) -> Healed {
        let resource = entry.record.resource();
        let name = HostName::parse(&resource.host).map_err(words)?;
        let epoch = self.epoch(ServiceKind::Volume, &name);
        let epoch = epoch.ok_or_else(|| format!("{name} is not registered"))?;
        let generation = resource.generation + u64::from(host.is_none());
        let at = Site { host: name.to_string(), attempt: resource.attempt };
        let command =
            agents::volume::command(id, generation, &at, epoch, STEP, self.callers.told(entry.revision));
        let connector = host.map(connector).unwrap_or_default();
        let request = volume::TerminateConnectionRequest { command: Some(command), connector };
        let channel = self.callers.host(ServiceKind::Volume, name.as_str(), epoch).map_err(words)?;
        taken(VolumeServiceClient::new(channel).terminate_connection(within(request, COMMAND_DEADLINE)).await)
    }

    /// An instance and a volume that it lists agree again, in one transaction on both.
    async fn settle(&self, settle: &Settle) -> Healed {
        let Settle { instance: (id, entry), volume_id, volume, attached } = settle;
        let mut with = Txn::new();
        if let Some((volume, of)) = volume {
            if !attached {
                self.disconnect(*volume, of, None).await?;
            }
            let mut record = VolumeRecord::clone(&of.record);
            let change = if *attached { complete } else { release };
            change(&mut record, SystemTime::now());
            let key = VolumeRecord::key(&self.db.keys, *volume);
            with = with.when(as_read(key.clone(), of.revision)).put(key, record.encode_to_vec());
        }
        let mut record = InstanceRecord::clone(&entry.record);
        operations::settle(record.instance.get_or_insert_default(), volume_id, *attached);
        written(self.callers.instances.write(*id, entry, record, None, with).await)
    }

    /// A volume is free again, as at the end of a detach.
    async fn release(
        &self,
        id: VolumeId,
        entry: &Entry<VolumeRecord>,
        instance: Option<(InstanceId, Option<Revision>)>,
    ) -> Healed {
        self.disconnect(id, entry, None).await?;
        let mut record = VolumeRecord::clone(&entry.record);
        release(&mut record, SystemTime::now());
        let with = instance.map_or_else(Txn::new, |(instance, read)| {
            Txn::new().when(as_read(self.db.keys.instance(instance), read.unwrap_or(Revision(0))))
        });
        written(self.callers.volumes.write(id, entry, record, None, with).await)
    }
}

fn command(volume: impl std::fmt::Display, at: &At) -> volume::VolumeCommand {
    agents::volume::command(volume, at.stamp.generation.0, &at.site(), at.epoch, STEP, Told::default())
}

fn usage(sum: QuotaUsage) -> Vec<u8> {
    UsageRecord { usage: Some(sum) }.encode_to_vec()
}

fn taken<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Healed {
    answer.map(drop).map_err(|status| classify(status).to_string())
}

fn written<P>(written: Result<Written<P>, Error>) -> Healed {
    match written.map_err(words)? {
        Written::Stored(_) => Ok(()),
        Written::Changed | Written::Fenced => Err(CHANGED.to_owned()),
    }
}

/// A host that answers does not have it: as if it had reported it gone.
async fn lost<P: Placed>(records: &Records<P>, id: P::Id, entry: &Entry<P>) -> Healed {
    let status = entry.record.status();
    let report = Report {
        id,
        host: status.host,
        generation: status.generation,
        attempt: status.attempt,
        status: ReportStatus::Gone,
        fault: None,
        steps: Vec::new(),
        operation: None,
    };
    let record = reports::lost(entry.record.as_ref(), &report, SystemTime::now()).ok_or(CHANGED)?;
    written(records.write(id, entry, record, None, Txn::new()).await)
}

/// Sets a record back that was lost and is there again.
async fn found<P: Placed>(records: &Records<P>, id: P::Id, entry: &Entry<P>) -> Healed {
    let mut record = P::clone(&entry.record);
    record.set_found(SystemTime::now());
    written(records.write(id, entry, record, None, Txn::new()).await)
}

#[cfg(test)]
#[path = "heal_tests.rs"]
mod tests;
