//! One look: the hosts first, then the store.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kilonova_model::{Epoch, Error, HostName, ProjectId, Reason, Revision, ServiceKind};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::conductor::v1::{InstanceRecord, SnapshotRecord, UsageRecord, VolumeRecord};
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_store::keys::Key;
use prost::Message;

use super::no_such_host;
use super::world::{Guests, Stored, Used, World};
use crate::agents::{Callers, within};
use crate::cache::{Cache, Entry};
use crate::db::{Db, decode, store_error};
use crate::groups::Groups;
use crate::hosts::HostId;
use crate::records::Records;

/// How many hosts are asked at once.
const AT_ONCE: usize = 16;
/// How long a host gets to say all that it has.
const HOST_DEADLINE: Duration = Duration::from_secs(5);
/// How much of a host's answer comes at once.
const HOST_PAGE: i32 = 1000;
/// How many records are read at once.
const STORE_PAGE: usize = 500;
/// Most hosts that are known.
const MAX_HOSTS: usize = 100_000;

/// Who looks, and mends.
#[derive(Clone)]
pub struct Auditor {
    /// The store.
    pub db: Db,
    /// The calls, with instances, volumes and snapshots.
    pub callers: Callers,
    /// The server groups.
    pub groups: Groups,
    /// The hosts that have registered.
    pub hosts: Cache<HostId, kilonova_proto::conductor::v1::HostRecord>,
}

impl Auditor {
    /// The hosts and backends to ask: those that are there, and those that have ever registered. Only the one that is named,
    /// if one is.
    pub fn hosts(&self, only: &str) -> Result<Vec<HostId>, Error> {
        let (known, _) = self.hosts.page(None, MAX_HOSTS, |_, _| true);
        let mut hosts: BTreeMap<HostId, ()> = known.into_iter().map(|(id, _)| (id, ())).collect();
        for service in [ServiceKind::Compute, ServiceKind::Volume] {
            let members = self.callers.peers.registry().members(service).current();
            hosts.extend(members.members.keys().map(|host| ((service, host.clone()), ())));
        }
        let asked: Vec<HostId> =
            hosts.into_keys().filter(|(_, host)| only.is_empty() || host.as_str() == only).collect();
        if asked.is_empty() && !only.is_empty() { Err(no_such_host(only)) } else { Ok(asked) }
    }

    /// Looks at these hosts, and then at all records.
    pub async fn look(&self, hosts: &[HostId]) -> Result<World, Error> {
        let mut world = World::default();
        for service in [ServiceKind::Compute, ServiceKind::Volume] {
            let members = self.callers.peers.registry().members(service).current();
            let (there, held) = (members.members.keys(), members.held.keys());
            world.registered.extend(there.chain(held).map(|host| (service, host.to_string())));
        }
        let asks = stream::iter(hosts.to_vec()).map(|id| async move {
            let answer = self.ask(&id).await;
            (id, answer)
        });
        let mut answers = asks.buffer_unordered(AT_ONCE);
        while let Some((id, answer)) = answers.next().await {
            match answer {
                Ok(There::Guests(there)) => drop(world.computes.insert(id.1.to_string(), there)),
                Ok(There::Stored(there)) => drop(world.backends.insert(id.1.to_string(), there)),
                Err(why) => drop(world.unchecked.insert(id, why)),
            }
        }
        drop(answers);
        self.read_records(&mut world).await?;
        Ok(world)
    }

    async fn ask(&self, id: &HostId) -> Result<There, String> {
        let (service, host) = id;
        let epoch = self.epoch(*service, host).ok_or("it is not registered")?;
        let asked = async {
            match service {
                ServiceKind::Compute => self.guests(host, epoch).await.map(There::Guests),
                _ => self.stored(host, epoch).await.map(There::Stored),
            }
        };
        let answer = tokio::time::timeout(HOST_DEADLINE, asked).await;
        let answer = answer.map_err(|_| format!("no answer within {} s", HOST_DEADLINE.as_secs()))?;
        answer.map_err(|status| status.message().to_owned())
    }

    /// The incarnation of a registered host.
    pub(super) fn epoch(&self, service: ServiceKind, host: &HostName) -> Option<Epoch> {
        self.callers.peers.registry().members(service).current().callable(host).map(|member| member.epoch)
    }

    async fn guests(&self, host: &HostName, epoch: Epoch) -> Result<Guests, tonic::Status> {
        let channel = self.callers.peers.call_host(ServiceKind::Compute, host).at(epoch);
        let mut client = ComputeServiceClient::new(channel);
        let mut guests = BTreeMap::new();
        let mut request = compute::ListGuestsRequest {
            target_host: host.to_string(),
            target_epoch: epoch.0,
            page_size: HOST_PAGE,
            page_token: String::new(),
        };
        loop {
            let answer = client.list_guests(within(request.clone(), HOST_DEADLINE)).await?.into_inner();
            guests.extend(by_id(answer.guests, |guest| &guest.instance_id));
            if answer.next_page_token.is_empty() {
                return Ok(Guests { epoch, guests });
            }
            request.page_token = answer.next_page_token;
        }
    }

    async fn stored(&self, host: &HostName, epoch: Epoch) -> Result<Stored, tonic::Status> {
        let channel = self.callers.peers.call_host(ServiceKind::Volume, host).at(epoch);
        let mut client = VolumeServiceClient::new(channel);
        let (target_host, mut page_token) = (host.to_string(), String::new());
        let mut there = Stored { epoch, ..Default::default() };
        loop {
            let request = volume::ListVolumesRequest {
                target_host: target_host.clone(),
                target_epoch: epoch.0,
                page_size: HOST_PAGE,
                page_token,
            };
            let answer = client.list_volumes(within(request, HOST_DEADLINE)).await?.into_inner();
            there.volumes.extend(by_id(answer.volumes, |volume| &volume.volume_id));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        loop {
            let request = volume::ListSnapshotsRequest {
                target_host: target_host.clone(),
                target_epoch: epoch.0,
                page_size: HOST_PAGE,
                page_token,
            };
            let answer = client.list_snapshots(within(request, HOST_DEADLINE)).await?.into_inner();
            there.snapshots.extend(by_id(answer.snapshots, |snapshot| &snapshot.snapshot_id));
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                return Ok(there);
            }
        }
    }

    /// Reads the records, with the usage of projects before and after.
    async fn read_records(&self, world: &mut World) -> Result<(), Error> {
        let before = self.usages().await?;
        let Callers { instances, volumes, snapshots, .. } = &self.callers;
        let keys = &self.db.keys;
        world.snapshots =
            self.all(&keys.snapshots(), &snapshots.cache, placed::<SnapshotRecord>(snapshots)).await?;
        world.volumes = self.all(&keys.volumes(), &volumes.cache, placed::<VolumeRecord>(volumes)).await?;
        world.instances =
            self.all(&keys.instances(), &instances.cache, placed::<InstanceRecord>(instances)).await?;
        let group = |key| if let Key::ServerGroup(id) = key { Some(id) } else { None };
        world.groups = self.all(&keys.server_groups(), &self.groups.cache, group).await?;
        let mut after = self.usages().await?;
        for (project, (_, revision)) in &before {
            let (usage, after) = after.remove(project).unwrap_or_default();
            world.usages.insert(project.clone(), Used { usage, before: *revision, after });
        }
        for (project, (usage, after)) in after {
            world.usages.insert(project, Used { usage, before: Revision(0), after });
        }
        Ok(())
    }

    async fn usages(
        &self,
    ) -> Result<BTreeMap<String, (kilonova_proto::types::v1::QuotaUsage, Revision)>, Error> {
        let (prefix, mut after, mut usages) = (self.db.keys.usages(), None, BTreeMap::new());
        loop {
            let page =
                self.db.store.list(&prefix, after.as_deref(), STORE_PAGE).await.map_err(store_error)?;
            for item in &page.items {
                let Some(Key::Usage(project)) = self.db.keys.parse(&item.key) else { continue };
                let read = decode::<UsageRecord>(item)?;
                usages.insert(project.to_string(), (read.record.usage.unwrap_or_default(), read.revision));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(usages),
            }
        }
    }

    /// All records under a prefix, from the store. One that memory has at the same revision is not read a second time.
    async fn all<K, R>(
        &self,
        prefix: &str,
        memory: &Cache<K, R>,
        id_of: impl Fn(Key) -> Option<K>,
    ) -> Result<BTreeMap<K, Entry<R>>, Error>
    where
        K: Clone + Ord + std::fmt::Debug + Send + Sync + 'static,
        R: Message + Default + PartialEq + Send + Sync + 'static,
    {
        let (mut after, mut records) = (None, BTreeMap::new());
        loop {
            let page = self.db.store.list(prefix, after.as_deref(), STORE_PAGE).await.map_err(store_error)?;
            for item in &page.items {
                let Some(id) = self.db.keys.parse(&item.key).and_then(&id_of) else { continue };
                let remembered = memory.get(&id).filter(|entry| entry.revision == item.mod_revision);
                let entry = match remembered {
                    Some(entry) => entry,
                    None => {
                        let read = decode::<R>(item)?;
                        Entry { record: Arc::new(read.record), revision: read.revision }
                    }
                };
                records.insert(id, entry);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(records),
            }
        }
    }

    /// A project's name as the store takes it.
    pub(super) fn project(name: &str) -> Result<ProjectId, Error> {
        ProjectId::parse(name).map_err(|error| Error::new(Reason::Internal, error.to_string()))
    }
}

/// What a host has.
enum There {
    Guests(Guests),
    Stored(Stored),
}

/// How the ids of records of one type are read out of their keys.
fn placed<P: crate::placed::Placed>(_: &Records<P>) -> impl Fn(Key) -> Option<P::Id> {
    |key| P::id_of(&key)
}

/// By their ids. What has none is not ours to judge.
fn by_id<K: FromStr + Ord, T>(items: Vec<T>, id: impl Fn(&T) -> &String) -> impl Iterator<Item = (K, T)>
where
    K::Err: Display,
{
    items.into_iter().filter_map(move |item| match id(&item).parse() {
        Ok(id) => Some((id, item)),
        Err(error) => {
            tracing::warn!(id = id(&item), %error, "a host has something whose id cannot be read");
            None
        }
    })
}
