//! Hosts: enabled, disabled and read, and the members of all services.

use std::collections::BTreeSet;

use kilonova_model::check::{self, Checker};
use kilonova_model::page::{decode_token, encode_token, page_size};
use kilonova_model::{Error, HostName, Reason, ServiceKind, ZoneName};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::types::v1 as pb;
use prost::Message;

use super::{Conductor, checked};
use crate::accept::Request as Accepted;
use crate::history::service_kind;
use crate::hosts::{HostChange, HostId, Once};
use crate::placed::Placed;
use crate::records::Records;

impl Conductor {
    pub(super) async fn set_host_enabled(
        &self,
        method: &'static str,
        request: &proto::DisableHostRequest,
        enabled: bool,
    ) -> Result<pb::Host, Error> {
        checked(&request.request_id, "", |check| {
            if !enabled {
                check::name(check, "reason", &request.reason, true);
            }
        })?;
        let id = host_id(request.service(), &request.host)?;
        let bare = proto::DisableHostRequest { request_id: String::new(), ..request.clone() };
        let once = self.once(method, &request.request_id, &bare)?;
        self.hosts.set_enabled(&once, &id, enabled, &request.reason).await
    }

    pub(super) async fn set_host_fenced(
        &self,
        method: &'static str,
        request: &proto::FenceHostRequest,
        fenced: bool,
    ) -> Result<pb::Host, Error> {
        checked(&request.request_id, "", |_| {})?;
        let id = host_id(request.service(), &request.host)?;
        let bare = proto::FenceHostRequest { request_id: String::new(), ..request.clone() };
        let once = self.once(method, &request.request_id, &bare)?;
        self.hosts.set_fenced(&once, &id, fenced).await
    }

    /// A change of what belongs to no project, as one that is done once for its request id.
    pub(super) fn once(
        &self,
        method: &'static str,
        request_id: &str,
        bare: &impl Message,
    ) -> Result<Once<'_>, Error> {
        Ok(Once { acceptor: &self.acceptor, request: Accepted::new(method, "", request_id, bare)? })
    }

    pub(super) async fn update_host(&self, request: &proto::UpdateHostRequest) -> Result<pb::Host, Error> {
        let mut change = HostChange::default();
        checked(&request.request_id, "", |check| {
            let paths = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
            check.ensure(!paths.is_empty(), "update_mask", "is required: assigned_zone, traits, or both");
            for path in paths {
                match path.as_str() {
                    "assigned_zone" => {
                        check.optional_id::<ZoneName>("assigned_zone", &request.assigned_zone);
                        change.assigned_zone = Some(request.assigned_zone.clone());
                    }
                    "traits" => {
                        check::traits(check, "traits", &request.traits);
                        change.traits = Some(sorted(&request.traits));
                    }
                    other => check.ensure(false, "update_mask", format!("{other:?} cannot be changed")),
                }
            }
        })?;
        let id = host_id(request.service(), &request.host)?;
        if change.assigned_zone.is_some() {
            self.instances.brought_up_to_date().await?;
            self.volumes.brought_up_to_date().await?;
        }
        let host = id.1.as_str();
        let bound = |zone: &str| match id.0 {
            ServiceKind::Compute => count_on(&self.instances, host, |record| {
                record.resource().spec.as_ref().is_some_and(|spec| spec.availability_zone == zone)
            }),
            _ => count_on(&self.volumes, host, |record| {
                record.resource().spec.as_ref().is_some_and(|spec| spec.availability_zone == zone)
            }),
        };
        let bare = proto::UpdateHostRequest { request_id: String::new(), ..request.clone() };
        let once = self.once("UpdateHost", &request.request_id, &bare)?;
        self.hosts.update(&once, &id, &change, bound).await
    }

    pub(super) async fn get_host(
        &self,
        request: &proto::GetHostRequest,
    ) -> Result<proto::GetHostResponse, Error> {
        let host = self.hosts.get(&host_id(request.service(), &request.host)?).await?;
        Ok(proto::GetHostResponse { host: Some(host) })
    }

    pub(super) async fn list_hosts(
        &self,
        request: proto::ListHostsRequest,
    ) -> Result<proto::ListHostsResponse, Error> {
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

    pub(super) fn list_services(
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

/// How many of those on a host pass.
fn count_on<P: Placed>(records: &Records<P>, host: &str, pass: impl Fn(&P) -> bool) -> usize {
    let is_there = |record: &P| record.receipts().iter().any(|receipt| receipt.host == host);
    records.cache.ids(|_, record| is_there(record) && pass(record)).len()
}

/// The same names in their order, each once.
pub(super) fn sorted(names: &[String]) -> Vec<String> {
    names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Reads which host is meant.
pub(super) fn host_id(service: pb::ServiceKind, host: &str) -> Result<HostId, Error> {
    let mut check = Checker::new();
    let kind = match service {
        pb::ServiceKind::Compute => Some(ServiceKind::Compute),
        pb::ServiceKind::Volume => Some(ServiceKind::Volume),
        _ => None,
    };
    check.ensure(kind.is_some(), "service", "SERVICE_KIND_COMPUTE or SERVICE_KIND_VOLUME");
    let host = check.id::<HostName>("host", host);
    check.finish()?;
    kind.zip(host).ok_or_else(|| Error::new(Reason::Internal, "a checked host is missing"))
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
