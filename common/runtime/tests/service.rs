//! The life of services, several in one process, over real connections and the embedded store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, Reason, ServiceKind, ZoneName};
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::{GetDiagnosticsRequest, GetServiceInfoRequest, PingRequest};
use kilonova_rpc::registry::{Registry, RegistryOptions};
use kilonova_rpc::status::from_status;
use kilonova_runtime::{Context, Launch, LaunchOptions, Running, StartError};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};

const SOON: Duration = Duration::from_secs(120);

fn store() -> SharedStore {
    Arc::new(EmbeddedStore::open_temporary().unwrap())
}

fn cell() -> CellName {
    CellName::parse("test").unwrap()
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

async fn launch(store: &SharedStore, service: ServiceKind, name: &str) -> Launch {
    let registry = RegistryOptions { ttl: Duration::from_secs(2) };
    let config = serde_json::json!({ "driver": "simulated", "api_token": "hunter2" });
    Launch {
        service,
        host: host(name),
        cell: cell(),
        zone: ZoneName::parse("a").unwrap(),
        store: store.clone(),
        listener: bind().await,
        http: Some(bind().await),
        advertise: None,
        options: LaunchOptions { registry, config, ..LaunchOptions::default() },
    }
}

async fn context(store: &SharedStore, service: ServiceKind, name: &str) -> Context {
    launch(store, service, name).await.register().await.unwrap()
}

async fn serve(context: Context) -> Running {
    let server = context.server();
    context.serve(server).await.unwrap()
}

fn client(running: &Running) -> BaseServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc_addr)).unwrap();
    BaseServiceClient::new(endpoint.timeout(SOON).connect_lazy())
}

async fn http(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_service_answers_for_itself() {
    let store = store();
    let running = serve(context(&store, ServiceKind::Compute, "node1").await).await;
    let mut client = client(&running);

    let ping = client.ping(PingRequest { payload: "hello".into() }).await.unwrap().into_inner();
    assert_eq!((ping.payload.as_str(), ping.host.as_str()), ("hello", "node1"));

    let info = client.get_service_info(GetServiceInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.service(), kilonova_proto::types::v1::ServiceKind::Compute);
    assert_eq!((info.host.as_str(), info.cell.as_str()), ("node1", "test"));
    assert_eq!(info.epoch, running.epoch().0);
    assert!(info.ready && info.not_ready_reasons.is_empty());

    let report = client.get_diagnostics(GetDiagnosticsRequest::default()).await.unwrap().into_inner();
    let section = |name: &str| {
        let found = report.sections.iter().find(|section| section.name == name);
        found.unwrap_or_else(|| panic!("no section {name}")).json.clone()
    };
    assert!(section("config").contains("simulated") && !section("config").contains("hunter2"));
    assert!(section("tasks").contains("http side port"));
    for name in ["peers", "readiness", "registration", "server"] {
        section(name);
    }
    let unknown = GetDiagnosticsRequest { sections: vec!["weather".into()] };
    let error = from_status(&client.get_diagnostics(unknown).await.unwrap_err()).unwrap();
    assert_eq!(error.reason, Reason::ValidationFailed);
    assert!(error.message.contains("tasks"), "{}", error.message);

    let metrics = http(running.http_addr.unwrap(), "/metrics").await;
    let counted = "grpc_server_handled_total{grpc_type=\"unary\",grpc_service=\"kilonova.base.v1.BaseService\",\
                   grpc_method=\"Ping\",grpc_code=\"OK\"}";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("grpc_server_handling_seconds_bucket"), "{metrics}");
    running.stop().await;
}

#[tokio::test]
async fn health_and_probes_follow_readiness() {
    let store = store();
    let context = context(&store, ServiceKind::Conductor, "c1").await;
    context.readiness.not("shards", "none owned yet");
    let readiness = context.readiness.clone();
    let running = serve(context).await;
    let mut client = client(&running);

    let info = client.get_service_info(GetServiceInfoRequest {}).await.unwrap().into_inner();
    assert!(!info.ready);
    assert_eq!(info.not_ready_reasons, ["shards: none owned yet"]);
    let probed = http(running.http_addr.unwrap(), "/readyz").await;
    assert!(probed.starts_with("HTTP/1.1 503") && probed.contains("[-] shards: none owned yet"), "{probed}");

    // Members are called once their health says SERVING.
    let channel = running.peers().call(ServiceKind::Conductor);
    let waiting = channel.wait_ready(Instant::now() + Duration::from_millis(100)).await;
    assert!(waiting.is_err());
    readiness.ok("shards");
    channel.wait_ready(Instant::now() + SOON).await.unwrap();
    assert!(http(running.http_addr.unwrap(), "/readyz").await.starts_with("HTTP/1.1 200"));
    running.stop().await;
}

#[tokio::test]
async fn a_stop_drains_in_order_and_in_time() {
    let store = store();
    let running = serve(context(&store, ServiceKind::Scheduler, "s1").await).await;
    let (address, port) = (running.grpc_addr, running.http_addr.unwrap());
    let observer = Registry::new(store.clone(), cell());
    let mut members = observer.members(ServiceKind::Scheduler).subscribe();
    let me = host("s1");
    members.wait_for(|set| set.get(&me).is_some_and(|member| !member.draining)).await.unwrap();
    // Another service's channel holds a health stream open.
    let other = serve(context(&store, ServiceKind::Api, "a1").await).await;
    other.peers().call(ServiceKind::Scheduler).wait_ready(Instant::now() + SOON).await.unwrap();

    let begun = Instant::now();
    let (seen, ()) = tokio::join!(
        async {
            let draining = members.wait_for(|set| set.get(&me).is_none_or(|member| member.draining)).await;
            let draining = draining.unwrap().get(&me).is_some();
            members.wait_for(|set| set.get(&me).is_none()).await.unwrap();
            draining
        },
        running.stop()
    );
    assert!(seen, "draining is said before the record goes");
    assert!(begun.elapsed() < Duration::from_secs(30), "took {:?}", begun.elapsed());
    assert!(TcpStream::connect(address).await.is_err());
    assert!(TcpStream::connect(port).await.is_err());
    other.stop().await;
}

#[tokio::test]
async fn services_share_a_process_and_nothing_else() {
    let store = store();
    let one = serve(context(&store, ServiceKind::Compute, "n1").await).await;
    let two = serve(context(&store, ServiceKind::Compute, "n2").await).await;
    assert!(two.epoch() > one.epoch());
    one.stop().await;
    let info = client(&two).get_service_info(GetServiceInfoRequest {}).await.unwrap().into_inner();
    assert!(info.ready);
    two.stop().await;
}

#[tokio::test]
async fn a_crash_ends_tasks_and_leaves_the_record_to_its_lease() {
    let store = store();
    let context = context(&store, ServiceKind::Volume, "v1").await;
    let work = context.tasks.spawn("work", std::future::pending::<()>());
    let running = serve(context).await;
    let address = running.grpc_addr;
    let observer = Registry::new(store.clone(), cell());
    let members = observer.members(ServiceKind::Volume);
    assert!(timeout(SOON, members.known()).await.unwrap().get(&host("v1")).is_some());

    drop(running);
    assert!(timeout(SOON, work).await.unwrap().is_err());
    assert!(members.current().get(&host("v1")).is_some());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_fatal_reaches_whoever_runs_the_service() {
    let store = store();
    let context = context(&store, ServiceKind::Compute, "n1").await;
    let fatal = context.fatal.clone();
    let running = serve(context).await;
    fatal.report("the driver is gone");
    fatal.report("and so is everything else");
    assert_eq!(timeout(SOON, running.wait()).await.unwrap(), "the driver is gone");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_built_leaves_no_record() {
    use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
    struct Other;
    #[tonic::async_trait]
    impl BaseService for Other {}

    let store = store();
    let context = context(&store, ServiceKind::Api, "a1").await;
    let served = kilonova_rpc::server::Served::only("kilonova.base.v1.BaseService", &["Pong"]);
    let server = context.server().add(BaseServiceServer::new(Other), served);
    let refused = context.serve(server).await;
    assert!(matches!(refused, Err(StartError::Server(_))));
    let observer = Registry::new(store, cell());
    let known = timeout(SOON, observer.members(ServiceKind::Api).known()).await.unwrap();
    assert!(known.is_known() && known.members.is_empty());
}

#[tokio::test]
async fn a_start_that_fails_after_the_registration_takes_it_back_and_ends_its_tasks() {
    let store = store();
    let context = context(&store, ServiceKind::Compute, "node1").await;
    let tasks = context.tasks.clone();
    tasks.spawn("forever", std::future::pending::<()>());
    let key = kilonova_store::keys::Keys::new(&cell()).endpoint(ServiceKind::Compute, &host("node1"));
    assert!(store.get(&key).await.unwrap().0.is_some());
    let error = context.serve_built(Err(StartError::service("the driver is gone"))).await.unwrap_err();
    assert_eq!(error.to_string(), "the driver is gone");
    assert!(store.get(&key).await.unwrap().0.is_none());
    assert!(tasks.list().is_empty());
}

/// A service that is started again while the store is away.
async fn launched_without_the_store(service: ServiceKind, snapshot: &std::path::Path) -> Running {
    let options = kilonova_store::EtcdOptions {
        endpoints: vec!["127.0.0.1:1".to_owned()],
        call_deadline: Duration::from_millis(300),
        ..Default::default()
    };
    let away: SharedStore = Arc::new(kilonova_store::EtcdStore::connect_lazily(options).await.unwrap());
    let mut launch = launch(&away, service, "s1").await;
    launch.options.snapshot = Some(snapshot.to_owned());
    serve(launch.register().await.unwrap()).await
}

#[tokio::test]
async fn starts_without_the_store_when_it_remembers_its_peers() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("members.json");
    let mut before = launch(&store(), ServiceKind::Scheduler, "s1").await;
    before.options.snapshot = Some(snapshot.clone());
    let before = before.register().await.unwrap();
    let mut members = before.registry.members(ServiceKind::Scheduler).subscribe();
    drop(timeout(SOON, members.wait_for(|set| set.get(&host("s1")).is_some())).await.unwrap().unwrap());
    let written = async {
        while !std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("s1")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, written).await.unwrap();
    drop(before);

    let scheduler = launched_without_the_store(ServiceKind::Scheduler, &snapshot).await;
    timeout(SOON, scheduler.readiness.wait_ready()).await.unwrap();
    assert_eq!(scheduler.epoch(), kilonova_model::Epoch(0));
    assert_eq!(scheduler.diagnostics.collect()["registration"]["registered"], false);
    let volume = launched_without_the_store(ServiceKind::Volume, &snapshot).await;
    assert_eq!(volume.readiness.current().summary(), "registry: the store cannot be reached");
    scheduler.stop().await;
    volume.stop().await;
}
