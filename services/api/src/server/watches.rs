//! The two watches, as the relay sees them.

use std::time::Duration;

use kilonova_model::time::to_duration;
use kilonova_proto::conductor::v1::{
    WatchInstancesRequest, WatchInstancesResponse, WatchVolumesRequest, WatchVolumesResponse,
    watch_instances_response, watch_volumes_response,
};
use tonic::{Status, Streaming};

use crate::check::DEFAULT_HEARTBEAT;
use crate::conductor::Conductor;
use crate::relay::{Kind, Mark, Watch};

/// A watch by the request that opens it.
pub(super) fn of<Q>(request: Q) -> By<Q> {
    By(request)
}

/// A watch by the request that opens it.
#[derive(Debug, Clone)]
pub(super) struct By<Q>(Q);

macro_rules! watch {
    ($request:ident, $response:ident, $module:ident, $method:ident) => {
        impl Watch for By<$request> {
            type Message = $response;

            async fn open(&self, conductor: &Conductor, token: &str) -> Result<Streaming<$response>, Status> {
                let request = $request { resume_token: token.to_owned(), ..self.0.clone() };
                Ok(conductor.watches().$method(request).await?.into_inner())
            }

            fn resume_token(&self) -> &str {
                &self.0.resume_token
            }

            fn heartbeat(&self) -> Duration {
                self.0.heartbeat_interval.as_ref().map_or(DEFAULT_HEARTBEAT, to_duration)
            }

            fn read(message: &$response) -> Mark<'_> {
                let kind = match &message.event {
                    Some($module::Event::Snapshot(resource)) => Kind::Snapshot(&resource.id),
                    Some($module::Event::SnapshotEnd(_)) => Kind::SnapshotEnd,
                    Some(
                        $module::Event::Update(_) | $module::Event::Delete(_) | $module::Event::Heartbeat(_),
                    )
                    | None => Kind::Other,
                };
                Mark { kind, token: &message.resume_token }
            }

            fn gone(id: String) -> $response {
                $response { event: Some($module::Event::Delete(id)), resume_token: String::new() }
            }
        }
    };
}

watch!(WatchInstancesRequest, WatchInstancesResponse, watch_instances_response, watch_instances);
watch!(WatchVolumesRequest, WatchVolumesResponse, watch_volumes_response, watch_volumes);
