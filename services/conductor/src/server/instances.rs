//! Instances: created, described, deleted and read.

use std::time::SystemTime;

use kilonova_model::check::{self, MAX_COUNT};
use kilonova_model::{Error, FlavorId, HostName, ImageId, InstanceId, ProjectId, ServerGroupId, ServiceKind};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1 as pb;

use super::pages::{Filter, page};
use super::{Conductor, checked, shown};
use crate::accept::{self, Request as Accepted};
use crate::cache::Entry;
use crate::placed::Placed;
use crate::requests::{self, Acceptance, Description, Named, Unguarded, read_id};

impl Conductor {
    pub(super) async fn build_instances(
        &self,
        request: proto::BuildInstancesRequest,
    ) -> Result<proto::BuildInstancesResponse, Error> {
        let arrived = SystemTime::now();
        let spec = request.instance.clone().unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::instance_spec(check, "instance", &spec);
            check.ensure(request.count <= MAX_COUNT, "count", format!("at most {MAX_COUNT}"));
        })?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let project = accept::project(&request.project_id)?;
        let count = request.count;
        let bare = proto::BuildInstancesRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("BuildInstances", project.as_str(), &request_id, &bare)?;
        let prepared = self.prepare(&spec, count, &project, self.acceptance(&request_id, arrived)).await;
        let (new, group) = match prepared {
            Ok(prepared) => prepared,
            // What was accepted stays accepted, whatever became of its flavor and image.
            Err(error) => match self.acceptor.earlier(&accepted, &self.instances).await? {
                Some(entries) => {
                    return Ok(proto::BuildInstancesResponse {
                        instances: entries.iter().map(shown).collect(),
                    });
                }
                None => return Err(error),
            },
        };
        let group = group.map(|id| (&self.groups, id));
        let entries = self.acceptor.create_in(&accepted, &self.instances, new, group, validate_only).await?;
        Ok(proto::BuildInstancesResponse { instances: entries.iter().map(shown).collect() })
    }

    /// The records of new instances, and the server group they join.
    async fn prepare(
        &self,
        spec: &pb::InstanceSpec,
        count: u32,
        project: &ProjectId,
        acceptance: Acceptance<'_>,
    ) -> Result<(Vec<(InstanceId, InstanceRecord)>, Option<ServerGroupId>), Error> {
        let flavor = self.flavors.get(&read_id::<FlavorId>("instance.flavor_id", &spec.flavor_id)?).await?;
        let image = self.images.get(&read_id::<ImageId>("instance.image_id", &spec.image_id)?).await?;
        requests::check_fit("instance.flavor_id", &flavor, &image)?;
        let group =
            spec.hints.as_ref().map(|hints| hints.server_group_id.as_str()).filter(|id| !id.is_empty());
        let group = group.map(|id| read_id("instance.hints.server_group_id", id)).transpose()?;
        let new = requests::new_instances(spec, count, project.as_str(), &flavor, &image, acceptance);
        Ok((new, group))
    }

    pub(super) async fn update_instance(
        &self,
        request: proto::UpdateInstanceRequest,
    ) -> Result<proto::UpdateInstanceResponse, Error> {
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("instance_id", &request.instance_id)?;
        let bare = proto::UpdateInstanceRequest { request_id: String::new(), ..request.clone() };
        let accepted = Accepted::new("UpdateInstance", &request.project_id, &request.request_id, &bare)?;
        let spec = request.instance.unwrap_or_default();
        let mask = request.update_mask.as_ref();
        let new = Description::read("instance", mask, &spec.name, &spec.metadata, true)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let (acceptor, instances) = (&self.acceptor, &self.instances);
        let entry =
            requests::describe(acceptor, &accepted, instances, named, &new, |record: &mut InstanceRecord| {
                let instance = record.instance.get_or_insert_default();
                let spec = instance.spec.get_or_insert_default();
                (&mut spec.name, &mut spec.metadata, &mut instance.update_time)
            })
            .await?;
        Ok(proto::UpdateInstanceResponse { instance: Some(shown(&entry)) })
    }

    pub(super) async fn delete_instance(
        &self,
        request: proto::DeleteInstanceRequest,
    ) -> Result<proto::DeleteInstanceResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("instance_id", &request.instance_id)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.delete_timeout.get();
        let acceptance = self.acceptance(&request.request_id, arrived);
        let missing = request.allow_missing;
        let entry =
            requests::delete(&self.instances, named, missing, timeout, acceptance, &Unguarded).await?;
        Ok(proto::DeleteInstanceResponse { instance: entry.as_ref().map(shown) })
    }

    pub(super) async fn instance(&self, id: &str, project: &str) -> Result<Entry<InstanceRecord>, Error> {
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

    pub(super) async fn get_instance(
        &self,
        request: &proto::GetInstanceRequest,
    ) -> Result<proto::GetInstanceResponse, Error> {
        let entry = self.instance(&request.instance_id, &request.project_id).await?;
        let mut instance = shown(&entry);
        self.set_host_states([&mut instance]);
        Ok(proto::GetInstanceResponse { instance: Some(instance) })
    }

    pub(super) fn list_instances(
        &self,
        request: proto::ListInstancesRequest,
    ) -> Result<proto::ListInstancesResponse, Error> {
        let (project, host) = (request.project_id, request.host);
        let filter = Filter { project, states: request.states, host, ids: Vec::new() };
        let (size, token) = (request.page_size, request.page_token.as_str());
        let (mut instances, next_page_token) =
            page(&self.instances.cache, size, token, &filter, |record| filter.instance(record))?;
        self.set_host_states(&mut instances);
        Ok(proto::ListInstancesResponse { instances, next_page_token })
    }

    pub(super) async fn list_instance_actions(
        &self,
        request: &proto::ListInstanceActionsRequest,
    ) -> Result<proto::ListInstanceActionsResponse, Error> {
        let entry = self.instance(&request.instance_id, &request.project_id).await?;
        Ok(proto::ListInstanceActionsResponse { actions: entry.record.actions().to_vec() })
    }
}
