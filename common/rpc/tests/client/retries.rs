//! What is called again, what is not, and what the callee learns of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use kilonova_model::{Epoch, Error, Reason, ServiceKind, Version};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_rpc::registry::{Endpoint, RegistryOptions};
use kilonova_rpc::status::{reason_of, to_status};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Request, Status};

use crate::support::{Cell, PATIENCE, Server, endpoint, host, ping, soon};

const SERVICE: ServiceKind = ServiceKind::Compute;

/// What a scripted server does with one call.
#[derive(Clone)]
enum Act {
    Refuse(Status, Option<&'static str>),
    Answer,
}

/// Does as its script says, call by call, then answers; keeps the headers of every call.
#[derive(Clone, Default)]
struct Script<const COMPUTE: bool> {
    acts: Arc<Mutex<VecDeque<Act>>>,
    calls: Arc<Mutex<Vec<HeaderMap>>>,
}

impl NamedService for Script<false> {
    const NAME: &'static str = "kilonova.base.v1.BaseService";
}

impl NamedService for Script<true> {
    const NAME: &'static str = "kilonova.compute.v1.ComputeService";
}

impl<const COMPUTE: bool> tower::Service<http::Request<Body>> for Script<COMPUTE> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.calls.lock().push(request.headers().clone());
        let act = self.acts.lock().pop_front().unwrap_or(Act::Answer);
        let response = match act {
            Act::Refuse(status, pushback) => {
                let mut response = status.into_http();
                if let Some(pushback) = pushback {
                    response.headers_mut().insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
                }
                response
            }
            Act::Answer => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames = [Frame::data(Bytes::from_static(&[0, 0, 0, 0, 0])), Frame::trailers(trailers)]
                    .map(Ok::<_, Status>);
                let mut response =
                    http::Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                response
            }
        };
        Box::pin(async { Ok(response) })
    }
}

/// One scripted member, and a channel to it.
struct Stage {
    script: Script<false>,
    work: Script<true>,
    channel: Channel,
    cell: Cell,
    _server: Server,
    _registration: kilonova_rpc::registry::Registration,
}

impl Stage {
    async fn new() -> Self {
        let (script, work) = (Script::<false>::default(), Script::<true>::default());
        let routes = Routes::new(script.clone()).add_service(work.clone());
        let server = Server::start(routes, true).await;
        server.set_serving(true).await;
        let cell = Cell::new();
        let _registration = cell.register(SERVICE, "s", &server.addr).await;
        let channel = cell.peers().call(SERVICE);
        channel.wait_ready(soon()).await.unwrap();
        Self { script, work, channel, cell, _server: server, _registration }
    }

    /// Ping's result when the server first acts like this, and how many calls it saw.
    async fn ping(&self, acts: impl IntoIterator<Item = Act>) -> (Result<String, Status>, usize) {
        *self.script.acts.lock() = acts.into_iter().collect();
        self.script.calls.lock().clear();
        let result = ping(&self.channel).await;
        (result, self.script.calls.lock().len())
    }

    fn header(&self, call: usize, name: &str) -> Option<String> {
        Some(self.script.calls.lock()[call].get(name)?.to_str().unwrap().to_owned())
    }
}

fn ours(reason: Reason) -> Act {
    Act::Refuse(to_status(&Error::new(reason, "on purpose")), None)
}

#[tokio::test]
async fn unavailable_is_tried_three_times_and_the_callee_is_told() {
    let stage = Stage::new().await;
    let (result, calls) = stage.ping([ours(Reason::Draining), ours(Reason::NotReady)]).await;
    assert!(result.is_ok());
    assert_eq!(calls, 3);
    let previous = |call| stage.header(call, "grpc-previous-rpc-attempts");
    assert_eq!([previous(0), previous(1), previous(2)], [None, Some("1".into()), Some("2".into())]);

    let (result, calls) = stage.ping((0..5).map(|_| ours(Reason::Draining))).await;
    assert_eq!(reason_of(&result.unwrap_err()), Some(Reason::Draining));
    assert_eq!(calls, 3);
}

#[tokio::test]
async fn what_was_decided_is_not_tried_again() {
    let stage = Stage::new().await;
    for reason in [Reason::InstanceNotFound, Reason::QuotaExceeded, Reason::Internal, Reason::StaleEpoch] {
        let (result, calls) = stage.ping([ours(reason)]).await;
        assert_eq!((reason_of(&result.unwrap_err()), calls), (Some(reason), 1));
    }
    let (result, calls) = stage.ping([Act::Refuse(Status::cancelled("by a proxy"), None)]).await;
    assert_eq!((result.unwrap_err().code(), calls), (Code::Cancelled, 1));
}

#[tokio::test]
async fn pushback_is_obeyed() {
    let stage = Stage::new().await;
    let overloaded = |pushback| Act::Refuse(to_status(&Error::new(Reason::Overloaded, "x")), Some(pushback));
    let (result, calls) = stage.ping([overloaded("-1")]).await;
    assert_eq!((reason_of(&result.unwrap_err()), calls), (Some(Reason::Overloaded), 1));
    let start = Instant::now();
    let (result, calls) = stage.ping([overloaded("300")]).await;
    assert!(result.is_ok());
    assert_eq!(calls, 2);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn every_attempt_is_told_what_is_left_of_the_deadline() {
    let stage = Stage::new().await;
    let pushed = Act::Refuse(to_status(&Error::new(Reason::Draining, "x")), Some("200"));
    let (result, _) = stage.ping([pushed]).await;
    assert!(result.is_ok());
    let told =
        |call| -> u64 { stage.header(call, "grpc-timeout").unwrap().trim_end_matches('m').parse().unwrap() };
    assert!(told(0) <= 10_000, "{}", told(0));
    assert!(told(1) + 200 <= told(0), "{} after {}", told(1), told(0));
}

#[tokio::test]
async fn a_channel_may_wait_for_somebody_to_call() {
    let cell = Cell::new();
    let peers = cell.peers();
    let waiting = peers.call(SERVICE).wait_for_ready();
    let server = Server::echo("late").await;
    let call = ping(&waiting);
    let register = async {
        // Refused at once without waiting: so the call above had nobody to go to.
        let status = ping(&peers.call(SERVICE)).await.unwrap_err();
        assert_eq!(reason_of(&status), Some(Reason::NoEndpoint));
        cell.register(SERVICE, "late", &server.addr).await
    };
    let (answer, _registration) = tokio::join!(call, register);
    assert_eq!(answer.unwrap(), "late");

    let nobody = peers.call(ServiceKind::Volume).wait_for_ready().within(Duration::from_millis(200));
    let status = ping(&nobody).await.unwrap_err();
    assert!(matches!(classify(status), CallError::NotExecuted(_)));
}

#[tokio::test]
async fn calls_say_who_is_meant_and_which_version_they_need() {
    let stage = Stage::new().await;
    let peers = stage.cell.peers();
    let channel = peers.cast_host(SERVICE, &host("s")).at(Epoch(42)).needs(Version::v1(0));
    let request = compute::StartInstanceRequest::default();
    ComputeServiceClient::new(channel).start_instance(request).await.unwrap();
    let headers = stage.work.calls.lock()[0].clone();
    let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(said("kilonova-cell").as_deref(), Some("test"));
    assert_eq!(said("kilonova-target-host").as_deref(), Some("s"));
    assert_eq!(said("kilonova-target-epoch").as_deref(), Some("42"));
    assert_eq!(said("kilonova-version").as_deref(), Some("1.0"));
    assert_eq!(said("kilonova-caller-service").as_deref(), Some("api"));
}

#[tokio::test]
async fn a_newer_version_waits_until_every_member_has_it() {
    let cell = Cell::new();
    let (old, new) = (Server::echo("old").await, Server::echo("new").await);
    let member = |name, addr: &str, minor| {
        let registry = cell.registry.clone();
        let endpoint = Endpoint { minor, ..endpoint(SERVICE, name, addr) };
        async move { registry.register(endpoint, RegistryOptions::default()).await.unwrap() }
    };
    let old_member = member("old", &old.addr, 3).await;
    let _new_member = member("new", &new.addr, 4).await;
    let peers = cell.peers();
    let members = cell.registry.members(SERVICE);
    let mut sets = members.subscribe();
    drop(timeout(PATIENCE, sets.wait_for(|set| set.members.len() == 2)).await.unwrap().unwrap());
    assert_eq!(members.cap(), Some(3));

    let newer = peers.call(SERVICE).needs(Version::v1(4));
    let status = ping(&newer).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::Unimplemented, Some(Reason::UnsupportedVersion)));
    assert!(
        status.message().contains("needs version 1.4; any compute implements 1.3"),
        "{}",
        status.message()
    );
    assert!(old.callers.lock().is_empty() && new.callers.lock().is_empty(), "nobody was asked");
    assert!(ping(&peers.call(SERVICE).needs(Version::v1(3))).await.is_ok());

    old_member.deregister().await.unwrap();
    drop(timeout(PATIENCE, sets.wait_for(|set| set.members.len() == 1)).await.unwrap().unwrap());
    assert_eq!(members.cap(), Some(4), "it follows who lives");
    assert!(ping(&newer).await.is_ok());
}

#[tokio::test]
async fn one_call_to_every_member_has_one_result_for_each() {
    let cell = Cell::new();
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let _a = cell.register(SERVICE, "a", &a.addr).await;
    let _b = cell.register(SERVICE, "b", &b.addr).await;
    let _dead = cell.register(SERVICE, "dead", &crate::support::dead_addr().await).await;
    let peers = cell.peers();
    let members = cell.registry.members(SERVICE);
    let mut sets = members.subscribe();
    let all = timeout(PATIENCE, sets.wait_for(|set| set.members.len() == 3)).await.unwrap().unwrap().clone();
    let fanned = peers
        .fan_out(SERVICE, 2, |channel, member| async move {
            let request = base::PingRequest { payload: member.addr.clone() };
            BaseServiceClient::new(channel).ping(request).await.map(|answer| answer.into_inner().host)
        })
        .await;
    assert_eq!(fanned.revision, all.revision);
    let answers: Vec<_> =
        fanned.results.iter().map(|(host, answer)| (host.as_str(), answer.is_ok())).collect();
    assert_eq!(answers, [("a", true), ("b", true), ("dead", false)]);
    let dead = fanned.results[&host("dead")].as_ref().unwrap_err();
    assert!(matches!(dead, CallError::NotExecuted(_)), "{dead}");
    assert_eq!((a.callers.lock().len(), b.callers.lock().len()), (1, 1));
}

#[tokio::test]
async fn a_member_that_no_longer_answers_is_let_go_after_one_late_call() {
    let cell = Cell::new();
    let (stuck, live) = (Server::echo("stuck").await, Server::echo("live").await);
    let _stuck = cell.register(SERVICE, "stuck", &stuck.addr).await;
    let peers = cell.peers_with(|options| options.probe_timeout = Duration::from_millis(200));
    let channel = peers.call(SERVICE);
    assert_eq!(ping(&channel).await.unwrap(), "stuck");
    // The connection stays open, and nobody behind it moves.
    let frozen = stuck.freeze();
    let mut request = Request::new(base::PingRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let late = BaseServiceClient::new(channel.clone()).ping(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    let _live = cell.register(SERVICE, "live", &live.addr).await;
    crate::support::peer_until(&peers, "stuck", |ready, _| !ready).await;
    crate::support::peer_until(&peers, "live", |ready, _| ready).await;
    for _ in 0..20 {
        assert_eq!(ping(&channel).await.unwrap(), "live");
    }
    frozen.thaw();
    crate::support::ping_until(&channel, |answers| answers.contains_key("stuck")).await;
}
