//! From start to stop: a whole cloud, an open watch, signals.

use std::time::Duration;

use kilonova_proto::api::v1::WatchInstancesRequest;
use kilonova_proto::api::v1::instance_service_client::InstanceServiceClient;
use kilonova_proto::api::v1::watch_instances_response::Event;
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::process::{Running, kilonova, run};

const STOP: Duration = Duration::from_secs(10);

fn up() -> (Running, String) {
    let mut cloud = Running::start(&mut kilonova(&["up", "--ephemeral-ports", "--log-level", "info"]));
    let banner = cloud.read_until("Ctrl-C");
    let api = banner.lines().find(|line| line.trim_start().starts_with("api ")).expect("it lists the api");
    let address = api.split_whitespace().nth(2).expect("with its address").to_owned();
    (cloud, address)
}

#[tokio::test]
async fn terminate_ends_it_within_ten_seconds_although_a_watch_is_open() {
    let (cloud, address) = up();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut client = InstanceServiceClient::new(channel);
    let mut watch = client.watch_instances(WatchInstancesRequest::default()).await.unwrap().into_inner();
    while !matches!(watch.message().await.unwrap().unwrap().event, Some(Event::SnapshotEnd(_))) {}

    let began = Instant::now();
    cloud.signal("TERM");
    let (status, stderr) = cloud.wait(STOP);
    assert!(status.success(), "{status}: {stderr}");
    assert!(began.elapsed() < STOP);
    let end = watch.message().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end}");
}

#[test]
fn hangup_reads_the_level_of_the_log_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.toml");
    std::fs::write(&path, "[log]\nlevel = \"error\"\n").unwrap();
    let arguments = ["up", "--ephemeral-ports", "--hosts", "1", "--backends", "1", "--config"];
    let mut cloud = Running::start(kilonova(&arguments).arg(&path));
    cloud.read_until("Ctrl-C");
    std::fs::write(&path, "[log]\nlevel = \"info\"\n").unwrap();
    cloud.signal("HUP");
    cloud.read_stderr_until("the level of the log was read again level=\"info\"");
    cloud.signal("USR2");
    cloud.read_stderr_until("section=\"tasks\"");
    cloud.signal("INT");
    let (status, stderr) = cloud.wait(STOP);
    assert!(status.success(), "{status}: {stderr}");
}

#[test]
fn the_demo_tells_its_story_and_ends_well() {
    let ended = run(&mut kilonova(&["demo"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    for part in ["DRIVER_FAILED", "NO_VALID_HOST", "The drivers' journals agree", "Done in"] {
        assert!(ended.stdout.contains(part), "{part} is missing:\n{}", ended.stdout);
    }
}
