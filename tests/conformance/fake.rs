//! A member that does what it is told and keeps a log of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kilonova_model::{Error, FieldViolation, Reason};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::BaseService;
use kilonova_proto::capability::v1 as capability;
use kilonova_proto::capability::v1::capability_service_server::CapabilityService;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::compute_service_server::ComputeService;
use kilonova_rpc::deadline::Deadline;
use kilonova_rpc::peers::Channel;
use kilonova_rpc::status::to_status;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_stream::wrappers::IntervalStream;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::world::in_time;

/// What came with a request.
pub struct Heard {
    pub metadata: MetadataMap,
    pub left: Option<Duration>,
}

/// Orders are texts: what begins with `hold` waits for its release, `panic` panics, `refuse` is refused with a
/// typed error, `foreign` fails with a status of no reason, `relay` asks the next member. All else is just done.
#[derive(Clone)]
pub struct Fake(Arc<Inner>);

struct Inner {
    name: String,
    began: watch::Sender<Vec<String>>,
    executed: watch::Sender<Vec<String>>,
    released: watch::Sender<BTreeSet<String>>,
    heard: Mutex<Vec<Heard>>,
    next: Mutex<Option<Channel>>,
}

const ALL: &str = "";

impl Fake {
    pub fn new(name: &str) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            began: watch::Sender::default(),
            executed: watch::Sender::default(),
            released: watch::Sender::default(),
            heard: Mutex::default(),
            next: Mutex::default(),
        }))
    }

    /// The orders that came in.
    pub fn began(&self) -> Vec<String> {
        self.0.began.borrow().clone()
    }

    /// The orders that were done.
    pub fn executed(&self) -> Vec<String> {
        self.0.executed.borrow().clone()
    }

    pub async fn until_began(&self, count: usize) {
        let mut began = self.0.began.subscribe();
        in_time("orders come in", began.wait_for(|all| all.len() >= count)).await.unwrap();
    }

    pub async fn until_executed(&self, count: usize) {
        let mut executed = self.0.executed.subscribe();
        in_time("orders are done", executed.wait_for(|all| all.len() >= count)).await.unwrap();
    }

    pub fn release(&self, order: &str) {
        self.0.released.send_modify(|released| released.extend([order.to_owned()]));
    }

    pub fn release_all(&self) {
        self.release(ALL);
    }

    /// What came with each request, in order.
    pub fn heard<T>(&self, look: impl Fn(&Heard) -> T) -> Vec<T> {
        self.0.heard.lock().iter().map(look).collect()
    }

    pub fn relay_to(&self, next: Channel) {
        *self.0.next.lock() = Some(next);
    }

    async fn run<T>(&self, request: &Request<T>, order: &str) -> Result<(), Status> {
        let left = Deadline::of(request).map(Deadline::remaining);
        self.0.heard.lock().push(Heard { metadata: request.metadata().clone(), left });
        self.0.began.send_modify(|began| began.push(order.to_owned()));
        let word = order.split(' ').next().unwrap_or_default();
        match word {
            "hold" => {
                let mut released = self.0.released.subscribe();
                let is_free = |free: &BTreeSet<String>| free.contains(order) || free.contains(ALL);
                released.wait_for(is_free).await.expect("the sender lives here");
            }
            "panic" => panic!("{order}"),
            "refuse" => return Err(to_status(&refusal())),
            "foreign" => return Err(Status::unknown("what others say")),
            "relay" => {
                let next = self.0.next.lock().clone().expect("there is a next");
                ping(&next, "refuse").await?;
            }
            _ => {}
        }
        self.0.executed.send_modify(|executed| executed.push(order.to_owned()));
        Ok(())
    }
}

/// The typed error of a refusal.
pub fn refusal() -> Error {
    let violation = FieldViolation { field: "instance.name".into(), description: "is taken".into() };
    let mut error = Error::new(Reason::InvalidState, "not in this state").with("state", "BUILDING");
    error.violations.push(violation);
    error
}

#[tonic::async_trait]
impl BaseService for Fake {
    async fn ping(
        &self,
        request: Request<base::PingRequest>,
    ) -> Result<Response<base::PingResponse>, Status> {
        let payload = request.get_ref().payload.clone();
        self.run(&request, &payload).await?;
        Ok(Response::new(base::PingResponse { payload, host: self.0.name.clone() }))
    }
}

#[tonic::async_trait]
impl ComputeService for Fake {
    /// Work: adds to the state, and answers with all of it.
    async fn attach_volume(
        &self,
        request: Request<compute::AttachVolumeRequest>,
    ) -> Result<Response<compute::AttachVolumeResponse>, Status> {
        let order = request.get_ref().volume_id.clone();
        self.run(&request, &order).await?;
        Ok(Response::new(compute::AttachVolumeResponse { device: self.executed().concat() }))
    }

    async fn get_instance_state(
        &self,
        _: Request<compute::GetInstanceStateRequest>,
    ) -> Result<Response<compute::GetInstanceStateResponse>, Status> {
        Ok(Response::new(compute::GetInstanceStateResponse::default()))
    }

    async fn get_console_output(
        &self,
        request: Request<compute::GetConsoleOutputRequest>,
    ) -> Result<Response<compute::GetConsoleOutputResponse>, Status> {
        match request.get_ref().lines {
            0 => Err(to_status(&refusal())),
            _ => Ok(Response::new(compute::GetConsoleOutputResponse::default())),
        }
    }
}

#[tonic::async_trait]
impl CapabilityService for Fake {
    /// One message, then a heartbeat as often as asked; nothing more with the token `silent`.
    async fn watch_capabilities(
        &self,
        request: Request<capability::WatchCapabilitiesRequest>,
    ) -> Result<Response<BoxStream<capability::WatchCapabilitiesResponse>>, Status> {
        let request = request.into_inner();
        let say =
            |event| Ok(capability::WatchCapabilitiesResponse { event: Some(event), ..Default::default() });
        let period = request.heartbeat_interval.and_then(|period| Duration::try_from(period).ok());
        let ticks = tokio::time::interval(period.unwrap_or(Duration::from_millis(20)));
        let first = futures::stream::once(async move { say(Event::SnapshotEnd(capability::SnapshotEnd {})) });
        Ok(Response::new(match request.resume_token.as_str() {
            "silent" => first.chain(futures::stream::pending()).boxed(),
            _ => {
                let beats = IntervalStream::new(ticks);
                first.chain(beats.map(move |_| say(Event::Heartbeat(capability::Heartbeat {})))).boxed()
            }
        }))
    }
}

/// Asks for an echo; says who answered and what.
pub async fn ping(channel: &Channel, payload: &str) -> Result<base::PingResponse, Status> {
    let request = base::PingRequest { payload: payload.to_owned() };
    BaseServiceClient::new(channel.clone()).ping(request).await.map(Response::into_inner)
}

/// Asks for work; gives the state after it.
pub async fn work(channel: &Channel, order: &str) -> Result<String, Status> {
    let request = compute::AttachVolumeRequest { volume_id: order.to_owned(), ..Default::default() };
    let answer = ComputeServiceClient::new(channel.clone()).attach_volume(request).await?;
    Ok(answer.into_inner().device)
}
