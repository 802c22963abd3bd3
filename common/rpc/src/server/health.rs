//! `grpc.health.v1.Health` as its specification has it: a service nobody knows is watched, not refused, and
//! nothing is serving before it is.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthRpc;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Whether the services of a server are to be called. All of them share one answer, and `""` is the server's own.
#[derive(Clone, Debug)]
pub struct Health {
    serving: watch::Sender<bool>,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { serving: watch::Sender::new(false) }
    }

    /// Says SERVING or NOT_SERVING to whoever asks or watches.
    pub fn set_serving(&self, serving: bool) {
        self.serving.send_if_modified(|now| std::mem::replace(now, serving) != serving);
    }

    /// What is being said.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }
}

/// Answers for the names of the services that are served.
#[derive(Clone)]
pub(super) struct HealthService {
    health: Health,
    names: Arc<HashSet<String>>,
}

impl HealthService {
    pub fn new(health: Health, names: impl IntoIterator<Item = String>) -> Self {
        let names = names.into_iter().chain([String::new()]).collect();
        Self { health, names: Arc::new(names) }
    }

    /// The health of every service.
    pub fn list(&self) -> HashMap<String, HealthCheckResponse> {
        let now = answer(status(self.health.is_serving()));
        self.names.iter().map(|name| (name.clone(), now)).collect()
    }
}

#[tonic::async_trait]
impl HealthRpc for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        if self.names.contains(name) {
            return Ok(Response::new(answer(status(self.health.is_serving()))));
        }
        // The specification wants NOT_FOUND here, for which there is no reason among ours: nothing of ours is missing.
        Err(Status::not_found(format!("this server does not serve {name}")))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if self.names.contains(&request.get_ref().service) {
            let changes = WatchStream::new(self.health.serving.subscribe());
            return Ok(Response::new(changes.map(|serving| Ok(answer(status(serving)))).boxed()));
        }
        // Which services are served never changes while a process runs, so this is the last word.
        let unknown = stream::once(async { Ok(answer(ServingStatus::ServiceUnknown)) });
        Ok(Response::new(unknown.chain(stream::pending()).boxed()))
    }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
