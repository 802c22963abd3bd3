//! Server groups, as users ask for them.

use kilonova_model::page::page_size;
use kilonova_model::{Error, ServerGroupId, check};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::types::v1 as pb;
use prost::Message;

use super::pages::{cut, next_token, read_after};
use super::{Conductor, checked};
use crate::accept::{self, Request as Accepted};
use crate::groups::{is_in, shown};
use crate::requests::read_id;

impl Conductor {
    pub(super) async fn create_server_group(
        &self,
        request: proto::CreateServerGroupRequest,
    ) -> Result<proto::CreateServerGroupResponse, Error> {
        let group = request.server_group.clone().unwrap_or_default();
        let project = accept::project(&request.project_id)?;
        checked(&request.request_id, &request.project_id, |check| {
            check::server_group(check, "server_group", &group);
            let is_its_own = group.project_id.is_empty() || group.project_id == project.as_str();
            check.ensure(is_its_own, "server_group.project_id", "is not the project of the request");
        })?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let bare = proto::CreateServerGroupRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateServerGroup", project.as_str(), &request_id, &bare)?;
        let group = self.groups.create(&self.acceptor, &accepted, group, validate_only).await?;
        Ok(proto::CreateServerGroupResponse { server_group: Some(group) })
    }

    pub(super) async fn delete_server_group(
        &self,
        request: proto::DeleteServerGroupRequest,
    ) -> Result<proto::DeleteServerGroupResponse, Error> {
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("server_group_id", &request.server_group_id)?;
        let (request_id, allow_missing) = (request.request_id.clone(), request.allow_missing);
        let bare = proto::DeleteServerGroupRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("DeleteServerGroup", &bare.project_id, &request_id, &bare)?;
        self.groups.delete(&self.acceptor, &accepted, id, &bare.project_id, allow_missing).await?;
        Ok(proto::DeleteServerGroupResponse {})
    }

    pub(super) async fn get_server_group(
        &self,
        request: &proto::GetServerGroupRequest,
    ) -> Result<proto::GetServerGroupResponse, Error> {
        let id = read_id("server_group_id", &request.server_group_id)?;
        let group = self.groups.get(id, &request.project_id).await?;
        Ok(proto::GetServerGroupResponse { server_group: Some(group) })
    }

    pub(super) fn list_server_groups(
        &self,
        request: &proto::ListServerGroupsRequest,
    ) -> Result<proto::ListServerGroupsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let filter = format!("server groups of {:?}", request.project_id);
        let after = read_after::<ServerGroupId>(&filter, &request.page_token)?;
        let pass = |_: &ServerGroupId, record: &proto::ServerGroupRecord| is_in(record, &request.project_id);
        let (mut entries, mut more) = self.groups.cache.page(after.as_ref(), limit, pass);
        more |=
            cut(&mut entries, |record| record.server_group.as_ref().map_or(0, pb::ServerGroup::encoded_len));
        let next_page_token = next_token(&filter, &entries, more);
        let groups = entries.iter().map(|(_, entry)| shown(proto::ServerGroupRecord::clone(&entry.record)));
        Ok(proto::ListServerGroupsResponse { server_groups: groups.collect(), next_page_token })
    }
}
