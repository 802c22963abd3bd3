//! Our half of `make bench-peers`: a server that echoes and a client that calls it, each a process of its own.
//!
//! ```text
//!   echo_peer serve ETCD LEVEL     registers as a scheduler, says READY, serves until its input ends
//!   echo_peer call  ETCD LEVEL     finds it in etcd, says READY, then for each line of input
//!                                  {"payload":"flat","in_flight":64,"seconds":4} calls that long and answers
//!                                  {"calls":…,"seconds":…,"p50_us":…,"p99_us":…}
//! ```
//!
//! Both have what a service has: discovery, pool, deadlines, health, metrics, and a log at this level. A failed
//! call ends the process: a figure must not hide it.

mod messages;

use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_proto::base::v1::{PingRequest, PingResponse};
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::scheduler::v1::scheduler_service_server::{SchedulerService, SchedulerServiceServer};
use kilonova_proto::scheduler::v1::{SelectHostsRequest, SelectHostsResponse};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::{Endpoint, Registry, RegistryOptions};
use kilonova_rpc::server::{Identity, Served, ServerBuilder};
use kilonova_runtime::telemetry::{FOLD_EVERY, Log, LogConfig, Metrics};
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

/// How long anything at the start may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Payload {
    Flat,
    Nested,
}

#[derive(Clone, Copy, Deserialize)]
struct Window {
    payload: Payload,
    in_flight: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Measured {
    calls: usize,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, etcd, level] = arguments.as_slice() else {
        panic!("usage: echo_peer serve|call ETCD LEVEL");
    };
    let log = LogConfig { level: level.clone(), ..LogConfig::default() };
    Log::start(&log).expect("a log");
    let metrics = Metrics::install();
    // One thread in each of two processes, on two cores; a process of the peer's uses no more than one at a time either.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut folding = JoinSet::new();
    let fold = async move {
        loop {
            tokio::time::sleep(FOLD_EVERY).await;
            metrics.fold();
        }
    };
    folding.spawn_on(fold, runtime.handle());
    match verb.as_str() {
        "serve" => serve(&runtime, etcd),
        "call" => call(&runtime, etcd),
        _ => panic!("{verb} is neither serve nor call"),
    }
}

async fn registry(etcd: &str) -> Registry {
    let options = EtcdOptions { endpoints: vec![etcd.to_owned()], ..EtcdOptions::default() };
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    Registry::new(Arc::new(store), CellName::parse("bench").expect("a cell name"))
}

fn host(name: &str) -> HostName {
    HostName::parse(name).expect("a host name")
}

/// Lines of input, read where nothing of the runtime is held up.
fn lines() -> impl Iterator<Item = String> {
    std::io::stdin().lines().map(|line| line.expect("readable input"))
}

fn serve(runtime: &Runtime, etcd: &str) {
    let (server, registration) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let cell = CellName::parse("bench").expect("a cell name");
        let identity = Identity::unregistered(ServiceKind::Scheduler, host("echo"), cell);
        let endpoint = Endpoint {
            service: identity.service,
            host: identity.host.clone(),
            addr: listener.local_addr().expect("an address").to_string(),
            zone: ZoneName::parse("zone-1").expect("a zone name"),
            minor: 0,
            authority: None,
        };
        let echo = Arc::new(Echo { nested: messages::nested_response() });
        let builder = ServerBuilder::new(identity)
            .add(
                BaseServiceServer::from_arc(echo.clone()),
                Served::only("kilonova.base.v1.BaseService", &["Ping"]),
            )
            .add(
                SchedulerServiceServer::from_arc(echo),
                Served::only("kilonova.scheduler.v1.SchedulerService", &["SelectHosts"]),
            );
        builder.health().set_serving(true);
        let server = builder.serve(listener).expect("a server");
        let registration = registry(etcd).await.register(endpoint, RegistryOptions::default()).await;
        (server, registration.expect("registered"))
    });
    println!("READY");
    lines().for_each(drop);
    runtime.block_on(registration.deregister()).expect("deregistered");
    drop(server);
}

fn call(runtime: &Runtime, etcd: &str) {
    let channel = runtime.block_on(async {
        let caller = Caller::new(ServiceKind::Conductor, host("caller"));
        let peers = Peers::new(registry(etcd).await, caller, PeersOptions::default());
        let channel = peers.call(ServiceKind::Scheduler);
        channel.wait_ready(Instant::now() + PATIENCE).await.expect("the server is found");
        channel
    });
    println!("READY");
    for line in lines() {
        let window: Window = serde_json::from_str(&line).expect("a window");
        let measured = runtime.block_on(measure(&channel, window));
        println!("{}", serde_json::to_string(&measured).expect("JSON"));
    }
}

/// So many callers, each with its next call as soon as its last is answered.
async fn measure(channel: &Channel, window: Window) -> Measured {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(window.seconds);
    let mut callers = JoinSet::new();
    for _ in 0..window.in_flight {
        let channel = channel.clone();
        callers.spawn(async move {
            match window.payload {
                Payload::Flat => flat(channel, end).await,
                Payload::Nested => nested(channel, end).await,
            }
        });
    }
    let mut times = callers.join_all().await.concat();
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Measured { calls: times.len(), seconds, p50_us: quantile(0.5), p99_us: quantile(0.99) }
}

async fn flat(channel: Channel, end: Instant) -> Vec<Duration> {
    let mut client = BaseServiceClient::new(channel);
    let request = messages::flat();
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let answer = client.ping(request.clone()).await.expect("an answer");
        times.push(start.elapsed());
        assert_eq!(answer.get_ref().payload, request.payload);
    }
    times
}

async fn nested(channel: Channel, end: Instant) -> Vec<Duration> {
    let mut client = SchedulerServiceClient::new(channel);
    let request = messages::nested_request();
    let mut times = Vec::new();
    while Instant::now() < end {
        let start = Instant::now();
        let answer = client.select_hosts(request.clone()).await.expect("an answer");
        times.push(start.elapsed());
        assert_eq!(answer.get_ref().selections.len(), 1);
    }
    times
}

struct Echo {
    nested: SelectHostsResponse,
}

#[tonic::async_trait]
impl BaseService for Echo {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let payload = request.into_inner().payload;
        Ok(Response::new(PingResponse { payload, host: String::new() }))
    }
}

#[tonic::async_trait]
impl SchedulerService for Echo {
    /// Reads all of the request, as any handler does, and answers with as much.
    async fn select_hosts(
        &self,
        request: Request<SelectHostsRequest>,
    ) -> Result<Response<SelectHostsResponse>, Status> {
        let request = request.into_inner();
        if request.flavor.is_none() || request.image.is_none() {
            return Err(Status::invalid_argument("not the request of this benchmark"));
        }
        Ok(Response::new(self.nested.clone()))
    }
}
