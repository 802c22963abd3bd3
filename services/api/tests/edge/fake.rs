//! A conductor that shares one small world with its peers, writes down what it is asked, and fails on demand.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use kilonova_model::time::to_duration;
use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::record_service_server::RecordService;
use kilonova_proto::conductor::v1::task_service_server::TaskService;
use kilonova_proto::conductor::v1::watch_instances_response::Event;
use kilonova_proto::conductor::v1::{
    BuildInstancesRequest, BuildInstancesResponse, GetInstanceRequest, GetInstanceResponse, Heartbeat,
    SnapshotEnd, WatchInstancesRequest, WatchInstancesResponse,
};
use kilonova_proto::types::v1::Instance;
use kilonova_rpc::deadline::Deadline;
use kilonova_rpc::status::to_status;
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

/// What every conductor of one test knows.
#[derive(Default)]
pub struct World {
    /// The ids a snapshot shows.
    pub instances: Mutex<Vec<String>>,
    /// What happened since the beginning; a token is how much of it was sent.
    pub log: watch::Sender<Vec<Event>>,
    /// How many instances of a snapshot are sent before it stands still; all of it when `None`.
    pub stall_after: Mutex<Option<usize>>,
    /// How many of the next watches are never opened.
    pub frozen_opens: Mutex<u32>,
    /// What the next builds answer.
    pub failures: Mutex<VecDeque<Error>>,
    /// Whether builds never end.
    pub hang: Mutex<bool>,
    /// What was asked of whom.
    pub asked: watch::Sender<Vec<Asked>>,
}

/// One request as a conductor got it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub conductor: String,
    pub method: &'static str,
    pub request_id: String,
    pub project_id: String,
    pub resume_token: String,
    pub heartbeat: Duration,
    pub time_left: Option<Duration>,
}

impl World {
    pub fn happen(&self, event: Event) {
        self.log.send_modify(|log| log.push(event));
    }

    /// Waits until `count` requests came in.
    pub async fn asked(&self, count: usize) -> Vec<Asked> {
        let mut changes = self.asked.subscribe();
        let wait = changes.wait_for(|asked| asked.len() >= count);
        tokio::time::timeout(crate::setup::SOON, wait).await.unwrap().unwrap().clone()
    }
}

#[derive(Clone)]
pub struct FakeConductor {
    pub name: String,
    pub world: Arc<World>,
}

impl FakeConductor {
    fn note(&self, asked: Asked) {
        self.world.asked.send_modify(|all| all.push(asked));
    }
}

#[tonic::async_trait]
impl TaskService for FakeConductor {
    async fn build_instances(
        &self,
        request: Request<BuildInstancesRequest>,
    ) -> Result<Response<BuildInstancesResponse>, Status> {
        let time_left = Deadline::of(&request).map(Deadline::remaining);
        let request = request.into_inner();
        self.note(Asked {
            conductor: self.name.clone(),
            method: "BuildInstances",
            request_id: request.request_id.clone(),
            project_id: request.project_id.clone(),
            resume_token: String::new(),
            heartbeat: Duration::ZERO,
            time_left,
        });
        if *self.world.hang.lock() {
            std::future::pending::<()>().await;
        }
        if let Some(error) = self.world.failures.lock().pop_front() {
            return Err(to_status(&error));
        }
        let instance = Instance {
            id: "0192d3a4-5b6c-7d8e-9f01-23456789abcd".into(),
            project_id: request.project_id,
            spec: request.instance,
            ..Default::default()
        };
        Ok(Response::new(BuildInstancesResponse { instances: vec![instance] }))
    }
}

#[tonic::async_trait]
impl RecordService for FakeConductor {
    async fn get_instance(
        &self,
        request: Request<GetInstanceRequest>,
    ) -> Result<Response<GetInstanceResponse>, Status> {
        let id = request.into_inner().instance_id;
        let error = Error::new(Reason::InstanceNotFound, format!("instance {id} does not exist"));
        Err(to_status(&error.with("instance_id", id).retry_after(Duration::from_secs(7))))
    }

    async fn watch_instances(
        &self,
        request: Request<WatchInstancesRequest>,
    ) -> Result<Response<BoxStream<WatchInstancesResponse>>, Status> {
        let request = request.into_inner();
        self.note(Asked {
            conductor: self.name.clone(),
            method: "WatchInstances",
            request_id: String::new(),
            project_id: request.project_id,
            resume_token: request.resume_token.clone(),
            heartbeat: request.heartbeat_interval.as_ref().map_or(Duration::ZERO, to_duration),
            time_left: None,
        });
        let frozen = {
            let mut left = self.world.frozen_opens.lock();
            let before = *left;
            *left = before.saturating_sub(1);
            before > 0
        };
        if frozen {
            std::future::pending::<()>().await;
        }
        let changes = |from: usize| {
            stream::unfold((self.world.log.subscribe(), from), |(mut log, sent)| async move {
                let event = log.wait_for(|log| log.len() > sent).await.ok()?[sent].clone();
                let message =
                    WatchInstancesResponse { event: Some(event), resume_token: (sent + 1).to_string() };
                Some((Ok(message), (log, sent + 1)))
            })
        };
        if request.resume_token.is_empty() {
            let now = self.world.log.borrow().len();
            let ids = self.world.instances.lock().clone();
            let part = |id: &String| Event::Snapshot(Instance { id: id.clone(), ..Default::default() });
            let message =
                move |event| WatchInstancesResponse { event: Some(event), resume_token: now.to_string() };
            let snapshot: Vec<Result<_, Status>> = ids.iter().map(|id| Ok(message(part(id)))).collect();
            if let Some(count) = *self.world.stall_after.lock() {
                let some = stream::iter(snapshot.into_iter().take(count));
                return Ok(Response::new(Box::pin(some.chain(stream::pending()))));
            }
            let end = stream::iter([Ok(message(Event::SnapshotEnd(SnapshotEnd {})))]);
            return Ok(Response::new(Box::pin(stream::iter(snapshot).chain(end).chain(changes(now)))));
        }
        match request.resume_token.parse() {
            Ok(from) => Ok(Response::new(Box::pin(changes(from)))),
            Err(_) => Err(to_status(&Error::new(Reason::ResumeTokenExpired, "too old"))),
        }
    }
}

pub fn heartbeat() -> Event {
    Event::Heartbeat(Heartbeat {})
}

pub fn update(id: &str) -> Event {
    Event::Update(Instance { id: id.into(), ..Default::default() })
}
