//! What an attachment needs of the volume's backend and of its record.
//!
//! A volume's generation grows when it is reserved, when it is to be detached, when it is released and when it has moved
//! with its instance, and a disconnect carries the generation after the present one. So a connect that was sent before it
//! and arrives after it, as from a conductor that no longer owns the instance, is refused by the backend.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kilonova_model::{Epoch, Error, HostName, InstanceId, Reason, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::VolumeRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_store::{Compare, Txn};
use prost::Message;

use super::volume::command;
use super::{COMMAND_DEADLINE, Callers, refused, within};
use crate::attach::{complete, is_of, release};
use crate::cache::Entry;
use crate::engine::behind::Behind;
use crate::placed::{Placed, Site, generation};
use crate::shards::Fence;

/// A call that was not made to a host's volumes' backend is none that was not made to the host.
fn not_of_the_host(error: CallError) -> CallError {
    match error {
        CallError::NotExecuted(status) => CallError::MaybeExecuted(status),
        error => error,
    }
}

/// Whom a backend lets reach a volume: one connector for each host.
pub(crate) fn connector(host: &str) -> BTreeMap<String, String> {
    [("host".to_owned(), host.to_owned())].into()
}

impl Callers {
    /// Lets a host reach a volume, and gives how. A backend that cannot be asked now is waited for: that it was not asked says
    /// nothing of the host, which must not be left for it.
    pub(super) async fn connect(
        &self,
        volume_id: &str,
        host: &str,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let backend = self.backend(volume_id, "connect", 0).await.map_err(not_of_the_host)?;
        let Some((mut client, command)) = backend else {
            let message = format!("volume {volume_id} is gone");
            return Err(refused(&Error::new(Reason::VolumeNotFound, message)));
        };
        let request = volume::InitializeConnectionRequest { command, connector: connector(host) };
        let answer = client.initialize_connection(within(request, COMMAND_DEADLINE)).await;
        answer
            .map(|answer| answer.into_inner().connection)
            .map_err(|status| not_of_the_host(classify(status)))
    }

    /// Keeps a host from reaching a volume any longer; every host when there is none. A volume that is gone is reached by
    /// nobody.
    pub(super) async fn disconnect(&self, volume_id: &str, host: Option<&str>) -> Result<(), CallError> {
        let Some((mut client, command)) = self.backend(volume_id, "disconnect", 1).await? else {
            return Ok(());
        };
        let connector = host.map(connector).unwrap_or_default();
        let request = volume::TerminateConnectionRequest { command, connector };
        client.terminate_connection(within(request, COMMAND_DEADLINE)).await.map(drop).map_err(classify)
    }

    /// Gives the volumes of an instance that has moved the generation that the disconnects had, in the transaction that ends the
    /// move. If it was built anew, an attach or a detach that was overtaken ends with it: it has all of them (`settle`).
    pub(super) async fn fence_volumes(
        &self,
        instance_id: InstanceId,
        instance: &pb::Instance,
        settle: bool,
    ) -> Result<Txn, CallError> {
        let mut txn = Txn::new();
        for attachment in &instance.attachments {
            let Some((id, entry)) = self.volume(&attachment.volume_id).await? else { continue };
            let mut record = VolumeRecord::clone(&entry.record);
            generation::grow(&mut record.volume.get_or_insert_default().generation);
            if settle && is_of(record.resource(), instance_id) {
                complete(&mut record, SystemTime::now());
            }
            let key = VolumeRecord::key(&self.volumes.db.keys, id);
            txn =
                txn.when(Compare::ModRevision(key.clone(), entry.revision)).put(key, record.encode_to_vec());
        }
        Ok(txn)
    }

    /// Adds to a transaction that an instance has a volume, or has it no more.
    pub(super) async fn settle_volume(
        &self,
        txn: Txn,
        instance: InstanceId,
        volume_id: &str,
        attached: bool,
    ) -> Result<Txn, CallError> {
        let Some((id, entry)) = self.volume(volume_id).await? else { return Ok(txn) };
        if !is_of(entry.record.resource(), instance) {
            return Ok(txn);
        }
        let mut record = VolumeRecord::clone(&entry.record);
        let change = if attached { complete } else { release };
        change(&mut record, SystemTime::now());
        let key = VolumeRecord::key(&self.volumes.db.keys, id);
        Ok(txn.when(Compare::ModRevision(key.clone(), entry.revision)).put(key, record.encode_to_vec()))
    }

    /// Has a volume's generation go on after one that its backend has taken, if that is ahead of it; says whether it was.
    pub(super) async fn continue_volume(&self, behind: &Behind, fence: &Fence) -> Result<bool, Error> {
        let Ok(id) = behind.id.parse::<VolumeId>() else { return Ok(false) };
        let Some(entry) = self.volumes.read(id).await? else { return Ok(false) };
        let mut record = VolumeRecord::clone(&entry.record);
        if !record.continue_after(behind.taken) {
            return Ok(false);
        }
        tracing::warn!(%id, taken = behind.taken, "its backend has taken commands of a later record than the store has");
        self.volumes.write(id, &entry, record, Some(fence), Txn::new()).await?;
        Ok(true)
    }

    /// The volume as the store has it.
    async fn volume(&self, volume_id: &str) -> Result<Option<(VolumeId, Entry<VolumeRecord>)>, CallError> {
        let Ok(id) = volume_id.parse::<VolumeId>() else { return Ok(None) };
        let entry = self.volumes.read(id).await.map_err(|error| refused(&error))?;
        Ok(entry.map(|entry| (id, entry)))
    }

    /// The volume's backend, and a command for it; none if there is no such volume, or it is on no backend.
    async fn backend(
        &self,
        volume_id: &str,
        step: &str,
        newer: u64,
    ) -> Result<Option<(VolumeServiceClient<Channel>, Option<volume::VolumeCommand>)>, CallError> {
        let Some((id, entry)) = self.volume(volume_id).await? else { return Ok(None) };
        let resource = entry.record.resource();
        if resource.host.is_empty() {
            return Ok(None);
        }
        let epoch = self.epoch(ServiceKind::Volume, &resource.host)?;
        let at = Site { host: resource.host.clone(), attempt: resource.attempt };
        let command = command(id, resource.generation + newer, &at, epoch, step, self.told(entry.revision));
        let channel = self.host(ServiceKind::Volume, &at.host, epoch)?;
        Ok(Some((VolumeServiceClient::new(channel), Some(command))))
    }

    /// The incarnation of a registered member.
    fn epoch(&self, service: ServiceKind, host: &str) -> Result<Epoch, CallError> {
        let name = HostName::parse(host).ok();
        let members = self.peers.registry().members(service).current();
        name.and_then(|name| members.callable(&name).map(|member| member.epoch)).ok_or_else(|| {
            let message = format!("{host} is not registered");
            refused(&Error::new(Reason::NoSuchHost, message).with("host", host))
        })
    }
}
