//! `AggregateService`: aggregates of compute hosts.

use kilonova_model::page::page_size;
use kilonova_model::{AggregateId, Error, HostName, ServiceKind, aggregate, check::Checker};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::aggregate_service_server::AggregateService;
use tonic::Request;

use super::hosts::sorted;
use super::pages::{next_token, read_after};
use super::{Answer, Conductor, answer, checked};
use crate::accept::Request as Accepted;
use crate::aggregates::{Changed, shown};
use crate::requests::read_id;

impl Conductor {
    async fn create_aggregate(
        &self,
        request: proto::CreateAggregateRequest,
    ) -> Result<proto::CreateAggregateResponse, Error> {
        let new = request.aggregate.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| {
            aggregate::check(check, "aggregate", &new.id, &new.metadata);
            check.ensure(new.hosts.is_empty(), "aggregate.hosts", "hosts are added by AddAggregateHosts");
        })?;
        let id = read_id::<AggregateId>("aggregate.id", &new.id)?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateAggregateRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateAggregate", "", &request_id, &bare)?;
        let aggregates = &self.hosts.aggregates;
        let created = aggregates.create(&self.acceptor, &accepted, &id, new, validate_only).await?;
        Ok(proto::CreateAggregateResponse { aggregate: Some(created) })
    }

    fn list_aggregates(
        &self,
        request: &proto::ListAggregatesRequest,
    ) -> Result<proto::ListAggregatesResponse, Error> {
        let limit = page_size(request.page_size)?;
        let after = read_after::<AggregateId>("aggregates", &request.page_token)?;
        let (entries, more) = self.hosts.aggregates.page(after.as_ref(), limit);
        let next_page_token = next_token("aggregates", &entries, more);
        let aggregates = entries.iter().map(|(_, entry)| shown(entry)).collect();
        Ok(proto::ListAggregatesResponse { aggregates, next_page_token })
    }

    async fn update_aggregate(
        &self,
        request: &proto::UpdateAggregateRequest,
    ) -> Result<proto::UpdateAggregateResponse, Error> {
        let new = request.aggregate.clone().unwrap_or_default();
        checked(&request.request_id, "", |check| {
            let paths = request.update_mask.as_ref().map(|mask| mask.paths.as_slice()).unwrap_or_default();
            check.ensure(paths == ["metadata"], "update_mask", "`metadata` is what can be changed");
            aggregate::check_metadata(check, "aggregate.metadata", &new.metadata);
        })?;
        let id = read_id::<AggregateId>("aggregate_id", &request.aggregate_id)?;
        let bare = proto::UpdateAggregateRequest { request_id: String::new(), ..request.clone() };
        let once = self.once("UpdateAggregate", &request.request_id, &bare)?;
        let change = self.hosts.aggregates.change(&once, &id, &request.etag, |aggregate| {
            aggregate.metadata.clone_from(&new.metadata);
            Ok(())
        });
        let aggregate = Some(self.told(&id, change.await?, &[]));
        Ok(proto::UpdateAggregateResponse { aggregate })
    }

    async fn delete_aggregate(
        &self,
        request: proto::DeleteAggregateRequest,
    ) -> Result<proto::DeleteAggregateResponse, Error> {
        checked(&request.request_id, "", |_| {})?;
        let id = read_id::<AggregateId>("aggregate_id", &request.aggregate_id)?;
        let (request_id, allow_missing) = (request.request_id.clone(), request.allow_missing);
        let bare = proto::DeleteAggregateRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("DeleteAggregate", "", &request_id, &bare)?;
        self.hosts.aggregates.delete(&self.acceptor, &accepted, &id, allow_missing).await?;
        Ok(proto::DeleteAggregateResponse {})
    }

    async fn add_aggregate_hosts(
        &self,
        request: &proto::AddAggregateHostsRequest,
    ) -> Result<proto::AddAggregateHostsResponse, Error> {
        let id = named(&request.request_id, &request.aggregate_id, &request.hosts)?;
        for host in &request.hosts {
            let host = (ServiceKind::Compute, read_id::<HostName>("hosts", host)?);
            self.hosts.known(&host).await?;
        }
        let bare = proto::AddAggregateHostsRequest { request_id: String::new(), ..request.clone() };
        let once = self.once("AddAggregateHosts", &request.request_id, &bare)?;
        let change = self.hosts.aggregates.change(&once, &id, "", |aggregate| {
            let hosts = [aggregate.hosts.as_slice(), &request.hosts].concat();
            aggregate.hosts = sorted(&hosts);
            let mut check = Checker::new();
            aggregate::check_size(&mut check, "hosts", aggregate.hosts.len());
            check.finish()
        });
        let aggregate = Some(self.told(&id, change.await?, &request.hosts));
        Ok(proto::AddAggregateHostsResponse { aggregate })
    }

    async fn remove_aggregate_hosts(
        &self,
        request: &proto::RemoveAggregateHostsRequest,
    ) -> Result<proto::RemoveAggregateHostsResponse, Error> {
        let id = named(&request.request_id, &request.aggregate_id, &request.hosts)?;
        let bare = proto::RemoveAggregateHostsRequest { request_id: String::new(), ..request.clone() };
        let once = self.once("RemoveAggregateHosts", &request.request_id, &bare)?;
        let change = self.hosts.aggregates.change(&once, &id, "", |aggregate| {
            aggregate.hosts.retain(|host| !request.hosts.contains(host));
            Ok(())
        });
        let aggregate = Some(self.told(&id, change.await?, &request.hosts));
        Ok(proto::RemoveAggregateHostsResponse { aggregate })
    }

    /// Has the hosts told that something changed for, and those named: the same request may have been carried out before, by a
    /// conductor that stopped before it told them.
    fn told(
        &self,
        id: &AggregateId,
        changed: Changed,
        named: &[String],
    ) -> kilonova_proto::types::v1::Aggregate {
        let hosts = sorted(&[changed.hosts.as_slice(), named].concat());
        self.hosts.tell_members(id, changed.revision, hosts);
        changed.aggregate
    }
}

/// Reads which aggregate is meant, and checks the hosts that are named.
fn named(request_id: &str, aggregate_id: &str, hosts: &[String]) -> Result<AggregateId, Error> {
    checked(request_id, "", |check| aggregate::check_members(check, "hosts", hosts))?;
    read_id::<AggregateId>("aggregate_id", aggregate_id)
}

#[tonic::async_trait]
impl AggregateService for Conductor {
    async fn create_aggregate(
        &self,
        request: Request<proto::CreateAggregateRequest>,
    ) -> Answer<proto::CreateAggregateResponse> {
        answer(self.create_aggregate(request.into_inner()).await)
    }

    async fn get_aggregate(
        &self,
        request: Request<proto::GetAggregateRequest>,
    ) -> Answer<proto::GetAggregateResponse> {
        let found = async {
            let id = read_id::<AggregateId>("aggregate_id", &request.get_ref().aggregate_id)?;
            self.hosts.aggregates.get(&id).await
        };
        answer(found.await.map(|found| proto::GetAggregateResponse { aggregate: Some(found) }))
    }

    async fn list_aggregates(
        &self,
        request: Request<proto::ListAggregatesRequest>,
    ) -> Answer<proto::ListAggregatesResponse> {
        answer(self.list_aggregates(request.get_ref()))
    }

    async fn update_aggregate(
        &self,
        request: Request<proto::UpdateAggregateRequest>,
    ) -> Answer<proto::UpdateAggregateResponse> {
        answer(self.update_aggregate(request.get_ref()).await)
    }

    async fn delete_aggregate(
        &self,
        request: Request<proto::DeleteAggregateRequest>,
    ) -> Answer<proto::DeleteAggregateResponse> {
        answer(self.delete_aggregate(request.into_inner()).await)
    }

    async fn add_aggregate_hosts(
        &self,
        request: Request<proto::AddAggregateHostsRequest>,
    ) -> Answer<proto::AddAggregateHostsResponse> {
        answer(self.add_aggregate_hosts(request.get_ref()).await)
    }

    async fn remove_aggregate_hosts(
        &self,
        request: Request<proto::RemoveAggregateHostsRequest>,
    ) -> Answer<proto::RemoveAggregateHostsResponse> {
        answer(self.remove_aggregate_hosts(request.get_ref()).await)
    }
}
