//! The watches of `RecordService`.

use std::sync::Arc;

use kilonova_model::Error;
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::record_service_server::RecordServiceServer;
use kilonova_proto::conductor::v1::{InstanceRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::publish::{Event, Framed, Frames};
use kilonova_rpc::status::to_status;

use super::Conductor;
use super::pages::Filter;
use crate::watch::token::Tokens;
use crate::watch::{self, Ask};

/// The service, its watches as frames.
pub fn with_watches(conductor: &Arc<Conductor>) -> Framed<RecordServiceServer<Conductor>> {
    let [instances, volumes] = [(); 2].map(|()| conductor.clone());
    Framed::new(RecordServiceServer::from_arc(conductor.clone()))
        .stream("WatchInstances", move |request: tonic::Request<_>| {
            let conductor = instances.clone();
            async move {
                let frames = conductor.watch_instances(request.into_inner()).await;
                frames.map_err(|error| to_status(&error))
            }
        })
        .stream("WatchVolumes", move |request: tonic::Request<_>| {
            let conductor = volumes.clone();
            async move {
                let frames = conductor.watch_volumes(request.into_inner()).await;
                frames.map_err(|error| to_status(&error))
            }
        })
}

impl Conductor {
    async fn watch_instances(&self, request: proto::WatchInstancesRequest) -> Result<Frames, Error> {
        let (project, host, ids) = (request.project_id, request.host, request.instance_ids);
        let filter = Filter { project, states: request.states, host, ids };
        let ask = Ask {
            token: request.resume_token,
            tokens: Tokens::of(&self.identity.known().await?),
            heartbeat: request.heartbeat_interval,
            pass: Arc::new(move |record: &InstanceRecord| filter.instance(record)),
        };
        let end = self.streams_end.clone();
        watch::open(&self.instances, ask, &self.tasks, end, instance_message).await
    }

    async fn watch_volumes(&self, request: proto::WatchVolumesRequest) -> Result<Frames, Error> {
        let (project, host, ids) = (request.project_id, request.host, request.volume_ids);
        let filter = Filter { project, states: request.states, host, ids };
        let ask = Ask {
            token: request.resume_token,
            tokens: Tokens::of(&self.identity.known().await?),
            heartbeat: request.heartbeat_interval,
            pass: Arc::new(move |record: &VolumeRecord| filter.volume(record)),
        };
        let end = self.streams_end.clone();
        watch::open(&self.volumes, ask, &self.tasks, end, volume_message).await
    }
}

fn instance_message(event: Event<pb::Instance>, resume_token: String) -> proto::WatchInstancesResponse {
    use proto::watch_instances_response::Event as Out;
    let event = Some(match event {
        Event::Snapshot(instance) => Out::Snapshot(instance),
        Event::SnapshotEnd => Out::SnapshotEnd(proto::SnapshotEnd {}),
        Event::Update(instance) => Out::Update(instance),
        Event::Delete(id) => Out::Delete(id),
        Event::Heartbeat => Out::Heartbeat(proto::Heartbeat {}),
    });
    proto::WatchInstancesResponse { event, resume_token }
}

fn volume_message(event: Event<pb::Volume>, resume_token: String) -> proto::WatchVolumesResponse {
    use proto::watch_volumes_response::Event as Out;
    let event = Some(match event {
        Event::Snapshot(volume) => Out::Snapshot(volume),
        Event::SnapshotEnd => Out::SnapshotEnd(proto::SnapshotEnd {}),
        Event::Update(volume) => Out::Update(volume),
        Event::Delete(id) => Out::Delete(id),
        Event::Heartbeat => Out::Heartbeat(proto::Heartbeat {}),
    });
    proto::WatchVolumesResponse { event, resume_token }
}
