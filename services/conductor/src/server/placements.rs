//! `PlacementService`: where something would go, and why it went where it is.

use kilonova_model::check::{self, Checker};
use kilonova_model::{Error, FlavorId, ImageId, InstanceId};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::placement_service_server::PlacementService;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::CallError;
use kilonova_rpc::status::to_status;
use tonic::{Request, Response};

use super::{Answer, Conductor, answer, checked};
use crate::accept;
use crate::agents::{GroupWish, step_id};
use crate::groups::rule;
use crate::reach::Standing;
use crate::requests::{self, read_id};

#[tonic::async_trait]
impl PlacementService for Conductor {
    async fn evaluate_instance_placement(
        &self,
        request: Request<proto::EvaluateInstancePlacementRequest>,
    ) -> Answer<proto::EvaluateInstancePlacementResponse> {
        let request = request.into_inner();
        let (count, alternates) = (request.count, request.alternates);
        let (record, group) = self.unplaced_instance(request).await.map_err(|error| to_status(&error))?;
        let bare = self.callers.hosts_request(evaluation(), &record, alternates, &group);
        let request = scheduler::SelectHostsRequest { count, dry_run: true, ..bare };
        let answer = self.callers.select_hosts(request).await.map_err(CallError::into_status)?;
        let selections = answer.selections.into_iter().map(|one| selection(one.host, one.alternates));
        Ok(Response::new(proto::EvaluateInstancePlacementResponse {
            selections: selections.collect(),
            explanation: answer.explanation,
        }))
    }

    async fn evaluate_volume_placement(
        &self,
        request: Request<proto::EvaluateVolumePlacementRequest>,
    ) -> Answer<proto::EvaluateVolumePlacementResponse> {
        let request = request.into_inner();
        let (count, alternates) = (request.count, request.alternates);
        let record = self.unplaced_volume(request).await.map_err(|error| to_status(&error))?;
        let bare = self.callers.backends_request(evaluation(), &record, alternates).await;
        let bare = bare.map_err(CallError::into_status)?;
        let request = scheduler::SelectBackendsRequest { count, dry_run: true, ..bare };
        let answer = self.callers.select_backends(request).await.map_err(CallError::into_status)?;
        let selections = answer.selections.into_iter().map(|one| selection(one.backend, one.alternates));
        Ok(Response::new(proto::EvaluateVolumePlacementResponse {
            selections: selections.collect(),
            explanation: answer.explanation,
        }))
    }

    async fn get_instance_placement(
        &self,
        request: Request<proto::GetInstancePlacementRequest>,
    ) -> Answer<proto::GetInstancePlacementResponse> {
        let request = request.get_ref();
        let entry = self.instance(&request.instance_id, &request.project_id).await;
        answer(
            entry.map(|entry| proto::GetInstancePlacementResponse {
                placement: entry.record.placement.clone(),
            }),
        )
    }

    async fn get_volume_placement(
        &self,
        request: Request<proto::GetVolumePlacementRequest>,
    ) -> Answer<proto::GetVolumePlacementResponse> {
        let request = request.get_ref();
        let entry = self.volume(&request.volume_id, &request.project_id).await;
        answer(
            entry
                .map(|entry| proto::GetVolumePlacementResponse { placement: entry.record.placement.clone() }),
        )
    }
}

impl Conductor {
    /// The record of an instance that is only thought of, and what its server group asks of a place.
    async fn unplaced_instance(
        &self,
        request: proto::EvaluateInstancePlacementRequest,
    ) -> Result<(InstanceRecord, GroupWish), Error> {
        let spec = request.instance.unwrap_or_default();
        let group_id = spec.hints.as_ref().map_or("", |hints| &hints.server_group_id);
        checked("", &request.project_id, |check| {
            check::instance_demands(check, "instance", &spec);
            check::places(check, request.count, request.alternates);
            let alone = group_id.is_empty() || request.count <= 1;
            check.ensure(alone, "count", "members of a server group are placed one by one: ask for 1");
        })?;
        let project = accept::project(&request.project_id)?;
        let group = match group_id {
            "" => GroupWish::default(),
            id => {
                let id = read_id("instance.hints.server_group_id", id)?;
                let group = self.groups.stored(id, project.as_str()).await?;
                GroupWish {
                    hosts: Some(rule::hosts(&group.record, "", &|host| {
                        self.reach.standing(host) != Standing::Registered
                    })),
                    broken: Vec::new(),
                }
            }
        };
        let flavor = self.flavors.get(&read_id::<FlavorId>("instance.flavor_id", &spec.flavor_id)?).await?;
        let image = match spec.image_id.as_str() {
            "" => None,
            id => Some(self.images.get(&read_id::<ImageId>("instance.image_id", id)?).await?),
        };
        if let Some(image) = &image {
            requests::check_fit("instance.flavor_id", &flavor, image)?;
        }
        let instance = pb::Instance {
            project_id: project.to_string(),
            spec: Some(spec),
            flavor: Some(flavor),
            ..Default::default()
        };
        Ok((InstanceRecord { instance: Some(instance), image, ..Default::default() }, group))
    }

    /// The record of a volume that is only thought of.
    async fn unplaced_volume(
        &self,
        request: proto::EvaluateVolumePlacementRequest,
    ) -> Result<VolumeRecord, Error> {
        let spec = request.volume.unwrap_or_default();
        checked("", &request.project_id, |check: &mut Checker| {
            check::volume_spec(check, "volume", &spec);
            check::places(check, request.count, request.alternates);
        })?;
        let project_id = accept::project(&request.project_id)?.to_string();
        self.check_named(&spec, &project_id).await?;
        let volume = pb::Volume { project_id, spec: Some(spec), ..Default::default() };
        Ok(VolumeRecord { volume: Some(volume), ..Default::default() })
    }
}

/// Names a decision that is of no record.
fn evaluation() -> String {
    step_id(InstanceId::generate(), 0, 0, "evaluate")
}

fn selection(
    best: Option<scheduler::SelectedHost>,
    alternates: Vec<scheduler::SelectedHost>,
) -> pb::Selection {
    let place = |selected: scheduler::SelectedHost| pb::SelectedPlace {
        host: selected.host,
        availability_zone: selected.availability_zone,
        pool: selected.pool,
    };
    pb::Selection { place: best.map(place), alternates: alternates.into_iter().map(place).collect() }
}
