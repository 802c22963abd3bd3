//! What an attachment needs of the volume's backend and of its record.
//!
//! A volume's generation grows when it is reserved, when it is to be detached, when it is released and when it has moved
//! with its instance, and a disconnect carries the generation after the present one. So a connect that was sent before it
//! and arrives after it, as from a conductor that no longer owns the instance, is refused by the backend.
//!
//! The generation has to be of the decision: it is read from the store, so the volume has to be the instance's still, and the instance's
//! record, read after it, the one that was decided on. Both records change in one transaction whenever the volume comes or goes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kilonova_model::{Epoch, Error, HostName, InstanceId, Reason, Revision, ServiceKind, VolumeId};
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_store::Txn;

use super::volume::command;
use super::{COMMAND_DEADLINE, Callers, refused, within};
use crate::attach::{complete, is_of, release};
use crate::cache::Entry;
use crate::engine::behind::Behind;
use crate::placed::{Placed, Site, generation};
use crate::shards::Fence;

/// The record that a connect or a disconnect was decided on.
#[derive(Clone, Copy)]
pub(super) struct Decided {
    /// The id of the instance whose volume it is about.
    pub id: InstanceId,
    /// The revision of the instance's record.
    pub at: Revision,
}

impl Decided {
    pub(super) fn on(id: InstanceId, entry: &Entry<InstanceRecord>) -> Self {
        Self { id, at: entry.revision }
    }
}

/// A volume's backend, as far as it can be asked.
enum Backend {
    /// The volume is gone, on no backend, or not the instance's.
    None,
    /// An operator said that the backend, of that name, is off.
    Off(String),
    /// This, with a command.
    Asked(Box<(VolumeServiceClient<Channel>, volume::VolumeCommand)>),
}

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
        decided: Decided,
        volume_id: &str,
        host: &str,
    ) -> Result<BTreeMap<String, String>, CallError> {
        let backend = self.backend(decided, volume_id, "connect", 0).await.map_err(not_of_the_host)?;
        let (mut client, command) = match backend {
            Backend::Asked(asked) => *asked,
            Backend::Off(backend) => return Err(not_of_the_host(not_registered(&backend))),
            Backend::None => {
                let message = format!("volume {volume_id} is gone, or is not the instance's");
                return Err(refused(&Error::new(Reason::VolumeNotFound, message)));
            }
        };
        let command = Some(command);
        let request = volume::InitializeConnectionRequest { command, connector: connector(host) };
        let answer = client.initialize_connection(within(request, COMMAND_DEADLINE)).await;
        answer
            .map(|answer| answer.into_inner().connection)
            .map_err(|status| not_of_the_host(classify(status)))
    }

    /// Keeps a host from reaching a volume any longer; every host when there is none. A volume that is gone is reached by
    /// nobody, nor is one whose backend is off: gives what has to hold still for that.
    pub(super) async fn disconnect(
        &self,
        decided: Decided,
        volume_id: &str,
        host: Option<&str>,
    ) -> Result<Txn, CallError> {
        let (mut client, command) = match self.backend(decided, volume_id, "disconnect", 1).await? {
            Backend::Asked(asked) => *asked,
            Backend::Off(backend) => {
                return Ok(self.fences.all(ServiceKind::Volume, [backend.as_str()]));
            }
            Backend::None => return Ok(Txn::new()),
        };
        let connector = host.map(connector).unwrap_or_default();
        let request = volume::TerminateConnectionRequest { command: Some(command), connector };
        let answer = client.terminate_connection(within(request, COMMAND_DEADLINE)).await;
        answer.map(|_| Txn::new()).map_err(classify)
    }

    /// Gives the volumes of an instance that has moved the generation that the disconnects had, in the transaction that ends the
    /// move. If it was built anew, an attach or a detach that was overtaken ends with it: it has all of them (`settle`).
    pub(super) async fn fence_volumes(
        &self,
        mut txn: Txn,
        instance_id: InstanceId,
        instance: &pb::Instance,
        settle: bool,
    ) -> Result<Txn, CallError> {
        for attachment in &instance.attachments {
            let Some((id, entry)) = self.volume(&attachment.volume_id).await? else { continue };
            let mut record = VolumeRecord::clone(&entry.record);
            generation::grow(&mut record.volume.get_or_insert_default().generation);
            if settle && is_of(record.resource(), instance_id) {
                complete(&mut record, SystemTime::now());
            }
            txn = txn.and(self.volumes.put(id, &entry, &record));
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
        Ok(txn.and(self.volumes.put(id, &entry, &record)))
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

    /// The volume's backend, with a command of the volume's present generation.
    async fn backend(
        &self,
        decided: Decided,
        volume_id: &str,
        step: &str,
        newer: u64,
    ) -> Result<Backend, CallError> {
        let Some((id, entry)) = self.volume(volume_id).await? else { return Ok(Backend::None) };
        let now = self.instances.read(decided.id).await.map_err(|error| refused(&error))?;
        if now.is_none_or(|now| now.revision != decided.at) {
            let message = format!("the record of instance {} has changed since", decided.id);
            return Err(refused(&Error::new(Reason::StaleGeneration, message)));
        }
        let resource = entry.record.resource();
        if resource.host.is_empty() || !is_of(resource, decided.id) {
            return Ok(Backend::None);
        }
        let Some(epoch) = self.epoch(&resource.host) else {
            let is_off = HostName::parse(&resource.host)
                .is_ok_and(|host| self.fences.holds(&(ServiceKind::Volume, host)));
            return if is_off {
                Ok(Backend::Off(resource.host.clone()))
            } else {
                Err(not_registered(&resource.host))
            };
        };
        let at = Site { host: resource.host.clone(), attempt: resource.attempt };
        let command = command(id, resource.generation + newer, &at, epoch, step, self.told(entry.revision));
        let channel = self.host(ServiceKind::Volume, &at.host, epoch)?;
        Ok(Backend::Asked(Box::new((VolumeServiceClient::new(channel), command))))
    }

    /// The incarnation of a registered backend.
    fn epoch(&self, host: &str) -> Option<Epoch> {
        let name = HostName::parse(host).ok()?;
        let members = self.peers.registry().members(ServiceKind::Volume).current();
        members.callable(&name).map(|member| member.epoch)
    }
}

fn not_registered(host: &str) -> CallError {
    let message = format!("{host} is not registered");
    refused(&Error::new(Reason::NoSuchHost, message).with("host", host))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kilonova_model::CellName;
    use kilonova_rpc::caller::Caller;
    use kilonova_rpc::peers::{Peers, PeersOptions};
    use kilonova_rpc::registry::Registry;
    use kilonova_runtime::tasks::Tasks;
    use kilonova_store::embedded::EmbeddedStore;
    use kilonova_store::keys::Keys;
    use prost::Message;

    use super::*;
    use crate::db::Db;
    use crate::hosts::Fences;
    use crate::identity::StoreIdentity;
    use crate::records::Records;

    fn callers(tasks: &Tasks) -> Callers {
        let cell = CellName::parse("test").unwrap();
        let db = Db { store: Arc::new(EmbeddedStore::open_temporary().unwrap()), keys: Keys::new(&cell) };
        let caller = Caller::new(ServiceKind::Conductor, HostName::parse("c1").unwrap());
        let identity = StoreIdentity::new(db.clone());
        Callers {
            identity: identity.clone(),
            peers: Peers::new(Registry::new(db.store.clone(), cell), caller, PeersOptions::default()),
            instances: Records::follow("instances", &db, tasks),
            volumes: Records::follow("volumes", &db, tasks),
            snapshots: Records::follow("snapshots", &db, tasks),
            fences: Fences::follow(&db, identity, tasks),
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_of_a_backend_for_a_record_that_has_changed_since_or_for_what_another_has() {
        let tasks = Tasks::new("test");
        let callers = callers(&tasks);
        let (id, volume) = (InstanceId::generate(), VolumeId::generate());
        let keys = &callers.instances.db.keys;
        let put = async |key: String, value: Vec<u8>| {
            let written = callers.instances.db.commit(Txn::new().put(key, value)).await.unwrap();
            written.committed().unwrap()
        };
        let of = |of: InstanceId| {
            let attachment = pb::Attachment { instance_id: of.to_string(), ..Default::default() };
            let volume =
                pb::Volume { host: "b@sim".into(), attachments: vec![attachment], ..Default::default() };
            VolumeRecord { volume: Some(volume), ..Default::default() }.encode_to_vec()
        };
        put(keys.volume(volume), of(id)).await;
        let at = put(keys.instance(id), InstanceRecord::default().encode_to_vec()).await;
        let asked = async |at: Revision| {
            let decided = Decided { id, at };
            let connected = callers.connect(decided, &volume.to_string(), "h1").await.map(drop);
            let disconnected = callers.disconnect(decided, &volume.to_string(), None).await.map(drop);
            [connected, disconnected].map(|done| done.map_err(|error| error.error().unwrap().reason))
        };
        assert_eq!(asked(at).await, [Err(Reason::NoSuchHost); 2], "its backend is to be asked");
        let later = put(keys.instance(id), InstanceRecord::default().encode_to_vec()).await;
        assert_eq!(asked(at).await, [Err(Reason::StaleGeneration); 2], "decided on an older record");
        put(keys.volume(volume), of(InstanceId::generate())).await;
        assert_eq!(asked(later).await, [Err(Reason::VolumeNotFound), Ok(())], "another has it");
    }
}
