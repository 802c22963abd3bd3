//! What a server refuses before any work: calls meant for others, and calls it has no room for; and what it does not
//! break off.

use std::time::Duration;

use kilonova_model::Reason;
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_server::{ComputeService, ComputeServiceServer};
use kilonova_rpc::server::{AdmissionLimits, Limits, Served, Server, Stopped};
use kilonova_rpc::status::{from_status, reason_of};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use crate::setup::*;

const PING: &str = "/kilonova.base.v1.BaseService/Ping";
const START: &str = "/kilonova.compute.v1.ComputeService/StartInstance";
const STATE: &str = "/kilonova.compute.v1.ComputeService/GetInstanceState";
const SOON: Duration = Duration::from_secs(60);

/// Work that waits until it is let go, and counts.
#[derive(Clone)]
struct Work {
    begun: watch::Sender<usize>,
    done: watch::Sender<usize>,
    go: watch::Sender<bool>,
}

impl Work {
    async fn run(&self) {
        self.begun.send_modify(|n| *n += 1);
        let _ = self.go.subscribe().wait_for(|go| *go).await;
        self.done.send_modify(|n| *n += 1);
    }

    async fn has_begun(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        drop(timeout(SOON, begun.wait_for(|n| *n == count)).await.unwrap().unwrap());
    }

    async fn is_done(&self, count: usize) {
        let mut done = self.done.subscribe();
        drop(timeout(SOON, done.wait_for(|n| *n == count)).await.unwrap().unwrap());
    }
}

#[tonic::async_trait]
impl ComputeService for Work {
    async fn start_instance(
        &self,
        _: Request<compute::StartInstanceRequest>,
    ) -> Result<Response<compute::StartInstanceResponse>, Status> {
        self.run().await;
        Ok(Response::new(compute::StartInstanceResponse::default()))
    }

    async fn get_instance_state(
        &self,
        _: Request<compute::GetInstanceStateRequest>,
    ) -> Result<Response<compute::GetInstanceStateResponse>, Status> {
        self.run().await;
        Ok(Response::new(compute::GetInstanceStateResponse::default()))
    }
}

async fn at_work(admission: AdmissionLimits) -> (Server, Work) {
    let work =
        Work { begun: watch::Sender::new(0), done: watch::Sender::new(0), go: watch::Sender::new(false) };
    let served = Served::only("kilonova.compute.v1.ComputeService", &["StartInstance", "GetInstanceState"]);
    let builder = builder(&Echo::default())
        .add(ComputeServiceServer::new(work.clone()), served)
        .limits(Limits { admission, ..Limits::default() });
    (serve(builder).await, work)
}

#[tokio::test]
async fn calls_for_others_are_refused_before_the_work() {
    let (server, echo) = start().await;
    let mut raw = Raw::connect(&server).await;
    for (header, value, reason) in [
        ("kilonova-cell", "other", Reason::WrongHost),
        ("kilonova-target-host", "other", Reason::WrongHost),
        ("kilonova-target-epoch", "6", Reason::StaleEpoch),
        ("kilonova-version", "1.1", Reason::UnsupportedVersion),
    ] {
        let status = raw.call(PING, &[(header, value)], &ping("stuck")).await.status();
        assert_eq!(reason_of(&status), Some(reason), "{header}");
    }
    assert_eq!(*echo.stuck.borrow(), 0);
    let meant = [("kilonova-cell", "test"), ("kilonova-target-host", "h"), ("kilonova-target-epoch", "7")];
    assert_eq!(raw.call(PING, &meant, &ping("x")).await.status().code(), Code::Ok);
}

#[tokio::test]
async fn work_goes_on_when_its_caller_has_gone_and_questions_do_not() {
    let (server, work) = at_work(AdmissionLimits::default()).await;
    let mut raw = Raw::connect(&server).await;
    let late = raw.call(START, &[("grpc-timeout", "100m")], &compute::StartInstanceRequest::default()).await;
    assert_eq!(reason_of(&late.status()), Some(Reason::DeadlineExceeded));
    let asked =
        raw.call(STATE, &[("grpc-timeout", "100m")], &compute::GetInstanceStateRequest::default()).await;
    assert_eq!(reason_of(&asked.status()), Some(Reason::DeadlineExceeded));

    let mut gone = Raw::connect(&server).await;
    let request = compute::StartInstanceRequest::default();
    let call = gone.call(START, &[], &request);
    tokio::select! {
        _ = call => panic!("it waits to be let go"),
        () = work.has_begun(3) => {}
    }
    drop(gone);
    work.go.send_replace(true);
    work.is_done(2).await;
    assert_eq!(server.stop(SOON).await, Stopped::Drained);
    assert_eq!(*work.done.borrow(), 2, "the question was dropped with its caller");
}

#[tokio::test]
async fn work_without_a_caller_is_waited_for_and_cut_in_the_end() {
    let (server, work) = at_work(AdmissionLimits::default()).await;
    let mut raw = Raw::connect(&server).await;
    let request = compute::StartInstanceRequest::default();
    raw.call(START, &[("grpc-timeout", "50m")], &request).await;
    work.has_begun(1).await;
    assert_eq!(server.stop(Duration::from_millis(200)).await, Stopped::Cut { calls: 1 });
    work.go.send_replace(true);
    assert_eq!(*work.done.borrow(), 0);
}

#[tokio::test]
async fn what_is_over_the_limit_hears_when_to_come_back_and_health_is_answered() {
    let admission = AdmissionLimits { calls: 5, calls_per_peer: 3, ..AdmissionLimits::default() };
    let (server, work) = at_work(admission).await;
    let request = compute::StartInstanceRequest::default();
    let (mut noisy, mut other) = (Raw::connect(&server).await, Raw::connect(&server).await);
    for begun in 1..=3 {
        noisy.call(START, &[("grpc-timeout", "50m")], &request).await;
        work.has_begun(begun).await;
    }
    let refused = noisy.call(START, &[], &request).await;
    let error = from_status(&refused.status()).unwrap();
    assert_eq!((error.reason, error.metadata["limit_of"].as_str()), (Reason::Overloaded, "peer"));
    let pause = error.retry_after.expect("RetryInfo").as_millis().to_string();
    assert_eq!(refused.headers["grpc-retry-pushback-ms"], pause.as_str());

    other.call(START, &[("grpc-timeout", "50m")], &request).await;
    work.has_begun(4).await;
    let full = other.call(START, &[], &request).await;
    assert_eq!(from_status(&full.status()).unwrap().metadata["limit_of"], "server");
    assert_eq!(noisy.call(PING, &[], &ping("x")).await.status().code(), Code::Ok, "control is let in");

    work.go.send_replace(true);
    work.is_done(4).await;
    let again = noisy.call(START, &[], &request);
    assert_eq!(timeout(SOON, again).await.unwrap().status().code(), Code::Ok);
}
