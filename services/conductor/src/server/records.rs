//! `RecordService`: reads and lists, from memory.

use kilonova_model::page::{MAX_PAGE_BYTES, decode_token, encode_token, page_size};
use kilonova_model::{Error, FlavorId, HostName, ImageId, Reason, ServiceKind};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::record_service_server::RecordService;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::status::to_status;
use prost::Message;
use tonic::{Request, Response, Status};

use super::Conductor;
use crate::accept;
use crate::cache::{Cache, Entry};
use crate::catalogue;
use crate::history::service_kind;
use crate::hosts::HostId;
use crate::placed::Placed;
use crate::requests::{self, Named, read_id};

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, Error>) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Which records a list or watch is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Filter<S> {
    pub project: String,
    pub states: Vec<S>,
    pub host: String,
    pub ids: Vec<String>,
}

impl Filter<i32> {
    fn pass(&self, project: &str, state: i32, host: &str, id: &str, deleted: i32) -> bool {
        (self.project.is_empty() || self.project == project)
            && (self.host.is_empty() || self.host == host)
            && (self.ids.is_empty() || self.ids.iter().any(|wanted| wanted == id))
            && if self.states.is_empty() { state != deleted } else { self.states.contains(&state) }
    }

    pub fn instance(&self, record: &InstanceRecord) -> bool {
        let i = record.resource();
        self.pass(&i.project_id, i.state, &i.host, &i.id, pb::instance::State::Deleted.into())
    }

    pub fn volume(&self, record: &VolumeRecord) -> bool {
        let v = record.resource();
        self.pass(&v.project_id, v.state, &v.host, &v.id, pb::volume::State::Deleted.into())
    }
}

/// One page of records that pass, and the token of the next.
fn page<P: Placed>(
    cache: &Cache<P::Id, P>,
    size: i32,
    token: &str,
    filter: &Filter<i32>,
    pass: impl Fn(&P) -> bool,
) -> Result<(Vec<P::Resource>, String), Error> {
    let limit = page_size(size)?;
    let filter = format!("{filter:?}");
    let after = read_after::<P::Id>(&filter, token)?;
    let (mut entries, mut more) = cache.page(after.as_ref(), limit, |_, record| pass(record));
    more |= cut(&mut entries, |record| record.resource().encoded_len());
    let next = next_token(&filter, &entries, more);
    Ok((entries.iter().map(|(_, entry)| entry.record.shown(entry.etag())).collect(), next))
}

/// Cuts a page to what a receiver takes; says whether something was cut off.
pub(super) fn cut<I, R>(entries: &mut Vec<(I, Entry<R>)>, size: impl Fn(&R) -> usize) -> bool {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|(_, entry)| {
        bytes += size(&entry.record);
        bytes <= MAX_PAGE_BYTES
    });
    let fitting = fitting.count().max(1);
    let is_cut = fitting < entries.len();
    entries.truncate(fitting);
    is_cut
}

pub(super) fn read_after<I: std::str::FromStr>(filter: &str, token: &str) -> Result<Option<I>, Error> {
    let Some(last) = decode_token(filter, token)? else { return Ok(None) };
    last.parse().map(Some).map_err(|_| Error::new(Reason::PageTokenInvalid, "page_token names no record"))
}

pub(super) fn next_token<I: ToString, R>(filter: &str, entries: &[(I, Entry<R>)], more: bool) -> String {
    match entries.last() {
        Some((id, _)) if more => encode_token(filter, &id.to_string()),
        _ => String::new(),
    }
}

impl Conductor {
    async fn instance(&self, id: &str, project: &str) -> Result<Entry<InstanceRecord>, Error> {
        let named = Named { id: read_id("instance_id", id)?, project, etag: "" };
        requests::get(&self.instances, named).await
    }

    /// Sets of instances whether their hosts are there at this moment.
    fn set_host_states<'a>(&self, instances: impl IntoIterator<Item = &'a mut pb::Instance>) {
        let members = self.registry.members(ServiceKind::Compute).current();
        for instance in instances {
            let Ok(host) = HostName::parse(&instance.host) else { continue };
            instance.set_host_state(match (members.get(&host), members.callable(&host)) {
                (Some(_), _) => pb::host::State::Up,
                (None, Some(_)) => pb::host::State::Unspecified,
                (None, None) => pb::host::State::Down,
            });
        }
    }

    async fn volume(&self, id: &str, project: &str) -> Result<Entry<VolumeRecord>, Error> {
        let named = Named { id: read_id("volume_id", id)?, project, etag: "" };
        requests::get(&self.volumes, named).await
    }

    async fn list_hosts(&self, request: proto::ListHostsRequest) -> Result<proto::ListHostsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let only = read_kind(request.service())?;
        let filter = format!("{only:?}");
        let after = match decode_token(&filter, &request.page_token)? {
            None => None,
            Some(last) => Some(read_host(&last)?),
        };
        let pass = |id: &HostId, _: &proto::HostRecord| only.is_none_or(|kind| kind == id.0);
        let (entries, more) = self.hosts.cache.page(after.as_ref(), limit, pass);
        let next_page_token = match entries.last() {
            Some(((kind, host), _)) if more => encode_token(&filter, &format!("{kind}/{host}")),
            _ => String::new(),
        };
        Ok(proto::ListHostsResponse { hosts: self.hosts.with_figures(entries).await, next_page_token })
    }

    fn list_services(
        &self,
        request: &proto::ListServicesRequest,
    ) -> Result<proto::ListServicesResponse, Error> {
        let only = read_kind(request.service())?;
        let shards = self.shards.owners();
        let mut stale = std::time::Duration::ZERO;
        let mut services = Vec::new();
        for kind in ServiceKind::ALL.into_iter().filter(|kind| only.is_none_or(|only| only == *kind)) {
            let members = self.registry.members(kind);
            stale = stale.max(members.stale_for());
            for (host, member) in &members.current().members {
                let owned = (kind == ServiceKind::Conductor).then(|| shards.get(host)).flatten();
                services.push(pb::ServiceMember {
                    service: service_kind(kind).into(),
                    host: host.to_string(),
                    address: member.addr.clone(),
                    epoch: member.epoch.0,
                    availability_zone: member.zone.to_string(),
                    api_minor: member.minor,
                    draining: member.draining,
                    shards: owned.copied().unwrap_or_default(),
                });
            }
        }
        let registry_stale_seconds = u32::try_from(stale.as_secs()).unwrap_or(u32::MAX);
        Ok(proto::ListServicesResponse { services, registry_stale_seconds })
    }
}

fn read_kind(kind: pb::ServiceKind) -> Result<Option<ServiceKind>, Error> {
    Ok(match kind {
        pb::ServiceKind::Unspecified => None,
        pb::ServiceKind::Api => Some(ServiceKind::Api),
        pb::ServiceKind::Conductor => Some(ServiceKind::Conductor),
        pb::ServiceKind::Scheduler => Some(ServiceKind::Scheduler),
        pb::ServiceKind::Compute => Some(ServiceKind::Compute),
        pb::ServiceKind::Volume => Some(ServiceKind::Volume),
    })
}

fn read_host(text: &str) -> Result<HostId, Error> {
    let parse = || {
        let (kind, host) = text.split_once('/')?;
        Some((kind.parse().ok()?, HostName::parse(host).ok()?))
    };
    parse().ok_or_else(|| Error::new(Reason::PageTokenInvalid, "page_token names no host"))
}

#[tonic::async_trait]
impl RecordService for Conductor {
    async fn get_instance(
        &self,
        request: Request<proto::GetInstanceRequest>,
    ) -> Answer<proto::GetInstanceResponse> {
        let request = request.into_inner();
        let entry = self.instance(&request.instance_id, &request.project_id).await;
        answer(entry.map(|entry| {
            let mut instance = entry.record.shown(entry.etag());
            self.set_host_states([&mut instance]);
            proto::GetInstanceResponse { instance: Some(instance) }
        }))
    }

    async fn list_instances(
        &self,
        request: Request<proto::ListInstancesRequest>,
    ) -> Answer<proto::ListInstancesResponse> {
        let request = request.into_inner();
        let (project, host) = (request.project_id, request.host);
        let filter = Filter { project, states: request.states, host, ids: Vec::new() };
        let (size, token) = (request.page_size, request.page_token.as_str());
        let page = page(&self.instances.cache, size, token, &filter, |record| filter.instance(record));
        answer(page.map(|(mut instances, next_page_token)| {
            self.set_host_states(&mut instances);
            proto::ListInstancesResponse { instances, next_page_token }
        }))
    }

    async fn list_instance_actions(
        &self,
        request: Request<proto::ListInstanceActionsRequest>,
    ) -> Answer<proto::ListInstanceActionsResponse> {
        let request = request.into_inner();
        let entry = self.instance(&request.instance_id, &request.project_id).await;
        answer(
            entry
                .map(|entry| proto::ListInstanceActionsResponse { actions: entry.record.actions().to_vec() }),
        )
    }

    async fn get_volume(
        &self,
        request: Request<proto::GetVolumeRequest>,
    ) -> Answer<proto::GetVolumeResponse> {
        let request = request.into_inner();
        let entry = self.volume(&request.volume_id, &request.project_id).await;
        answer(entry.map(|entry| proto::GetVolumeResponse { volume: Some(entry.record.shown(entry.etag())) }))
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Answer<proto::ListVolumesResponse> {
        let request = request.into_inner();
        let (project, host) = (request.project_id, request.host);
        let filter = Filter { project, states: request.states, host, ids: Vec::new() };
        let (size, token) = (request.page_size, request.page_token.as_str());
        let page = page(&self.volumes.cache, size, token, &filter, |record| filter.volume(record));
        answer(page.map(|(volumes, next_page_token)| proto::ListVolumesResponse { volumes, next_page_token }))
    }

    async fn list_volume_actions(
        &self,
        request: Request<proto::ListVolumeActionsRequest>,
    ) -> Answer<proto::ListVolumeActionsResponse> {
        let request = request.into_inner();
        let entry = self.volume(&request.volume_id, &request.project_id).await;
        answer(
            entry.map(|entry| proto::ListVolumeActionsResponse { actions: entry.record.actions().to_vec() }),
        )
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Answer<proto::GetSnapshotResponse> {
        answer(self.get_snapshot(request.get_ref()).await)
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Answer<proto::ListSnapshotsResponse> {
        answer(self.list_snapshots(request.get_ref()))
    }

    async fn get_flavor(
        &self,
        request: Request<proto::GetFlavorRequest>,
    ) -> Answer<proto::GetFlavorResponse> {
        let get = async {
            let id = read_id::<FlavorId>("flavor_id", &request.get_ref().flavor_id)?;
            self.flavors.get(&id).await
        };
        answer(get.await.map(|flavor| proto::GetFlavorResponse { flavor: Some(flavor) }))
    }

    async fn list_flavors(
        &self,
        request: Request<proto::ListFlavorsRequest>,
    ) -> Answer<proto::ListFlavorsResponse> {
        let list = || {
            let limit = page_size(request.get_ref().page_size)?;
            let after = read_after::<FlavorId>("flavors", &request.get_ref().page_token)?;
            let (entries, more) = self.flavors.page(after.as_ref(), limit);
            let next_page_token = next_token("flavors", &entries, more);
            let flavors = entries.iter().map(|(_, entry)| pb::Flavor::clone(&entry.record)).collect();
            Ok(proto::ListFlavorsResponse { flavors, next_page_token })
        };
        answer(list())
    }

    async fn get_image(&self, request: Request<proto::GetImageRequest>) -> Answer<proto::GetImageResponse> {
        let get = async {
            let id = read_id::<ImageId>("image_id", &request.get_ref().image_id)?;
            self.images.get(&id).await
        };
        answer(get.await.map(|image| proto::GetImageResponse { image: Some(image) }))
    }

    async fn list_images(
        &self,
        request: Request<proto::ListImagesRequest>,
    ) -> Answer<proto::ListImagesResponse> {
        let list = || {
            let limit = page_size(request.get_ref().page_size)?;
            let after = read_after::<ImageId>("images", &request.get_ref().page_token)?;
            let (entries, more) = self.images.page(after.as_ref(), limit);
            let next_page_token = next_token("images", &entries, more);
            let images = entries.iter().map(|(_, entry)| pb::Image::clone(&entry.record)).collect();
            Ok(proto::ListImagesResponse { images, next_page_token })
        };
        answer(list())
    }

    async fn get_server_group(
        &self,
        request: Request<proto::GetServerGroupRequest>,
    ) -> Answer<proto::GetServerGroupResponse> {
        answer(self.get_server_group(request.get_ref()).await)
    }

    async fn list_server_groups(
        &self,
        request: Request<proto::ListServerGroupsRequest>,
    ) -> Answer<proto::ListServerGroupsResponse> {
        answer(self.list_server_groups(request.get_ref()))
    }

    async fn get_host(&self, request: Request<proto::GetHostRequest>) -> Answer<proto::GetHostResponse> {
        let get = async {
            let request = request.get_ref();
            let id = super::tasks::host_id(request.service(), &request.host)?;
            self.hosts.get(&id).await
        };
        answer(get.await.map(|host| proto::GetHostResponse { host: Some(host) }))
    }

    async fn list_hosts(
        &self,
        request: Request<proto::ListHostsRequest>,
    ) -> Answer<proto::ListHostsResponse> {
        answer(self.list_hosts(request.into_inner()).await)
    }

    async fn list_services(
        &self,
        request: Request<proto::ListServicesRequest>,
    ) -> Answer<proto::ListServicesResponse> {
        answer(self.list_services(request.get_ref()))
    }

    async fn get_quota(&self, request: Request<proto::GetQuotaRequest>) -> Answer<proto::GetQuotaResponse> {
        let get = async {
            let project = accept::project(&request.get_ref().project_id)?;
            catalogue::quota(&self.acceptor, &project).await
        };
        answer(get.await.map(|quota| proto::GetQuotaResponse { quota: Some(quota) }))
    }
}
