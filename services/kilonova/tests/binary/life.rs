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
    let (cloud, banner) = up_with_banner();
    let address = address(&banner, "api ", 2);
    (cloud, address)
}

fn up_with_banner() -> (Running, String) {
    let mut cloud = Running::start(&mut kilonova(&["up", "--ephemeral-ports", "--log-level", "info"]));
    let banner = cloud.read_until("Ctrl-C");
    (cloud, banner)
}

fn address(banner: &str, service: &str, column: usize) -> String {
    let line = banner.lines().find(|line| line.trim_start().starts_with(service)).expect("it is listed");
    line.split_whitespace().nth(column).expect("with its address").to_owned()
}

#[test]
fn who_is_no_api_is_named() {
    let (_cloud, banner) = up_with_banner();
    let listed = |endpoint: &str| run(&mut kilonova(&["instance", "list", "--endpoint", endpoint]));
    let conductor = listed(&address(&banner, "conductor ", 2));
    assert_eq!(conductor.code, Some(6), "{}", conductor.stderr);
    assert!(conductor.stderr.contains("conductor conductor-1 listens there"), "{}", conductor.stderr);
    let http = listed(&address(&banner, "api ", 3));
    assert_eq!(http.code, Some(6), "{}", http.stderr);
    assert!(http.stderr.contains("what listens there does not speak its gRPC"), "{}", http.stderr);
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
fn hangup_reads_the_level_of_the_log_again_and_reports_come_at_any() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.toml");
    std::fs::write(&path, "[log]\nlevel = \"error\"\n").unwrap();
    let arguments = ["up", "--ephemeral-ports", "--hosts", "1", "--backends", "1", "--config"];
    let mut cloud = Running::start(kilonova(&arguments).arg(&path));
    cloud.read_until("Ctrl-C");
    cloud.signal("USR2");
    cloud.read_stderr_until("section=\"tasks\"");
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
fn a_watch_tells_that_its_api_is_gone_and_ends() {
    let (cloud, address) = up();
    let mut watch = Running::start(&mut kilonova(&["instance", "watch", "--endpoint", &address]));
    watch.read_until("changes from here");
    cloud.signal("KILL");
    watch.read_stderr_until("connection lost, trying again");
    let (status, stderr) = watch.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(6), "{stderr}");
    assert!(stderr.starts_with("error: UNREACHABLE: no answer from the api at"), "{stderr}");
}

#[test]
fn nothing_is_deleted_where_one_name_is_wrong() {
    let (_cloud, address) = up();
    let operate =
        |line: &str| run(kilonova(&line.split(' ').collect::<Vec<_>>()).env("KILONOVA_ENDPOINT", &address));
    let made = operate("instance create web --flavor m1.tiny --image cirros --wait");
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let refused = operate("instance delete web missing");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(3), ""), "{}", refused.stderr);
    assert!(operate("instance list").stdout.contains("ACTIVE"));
    assert_eq!(operate("flavor delete m1.large missing").code, Some(3));
    assert_eq!(operate("flavor show m1.large").code, Some(0));

    let nothing = operate("instance delete missing --allow-missing");
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(0), "Nothing was there to delete.\n"));
    let create = "instance create other --flavor m1.tiny --image cirros";
    let checked = operate(&format!("{create} --validate-only --different-host web"));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(checked.stdout.contains("Nothing was created"), "{}", checked.stdout);
    let nowhere = operate(&format!("{create} --host nosuch"));
    assert_eq!(nowhere.code, Some(3), "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("no compute host is named `nosuch`"), "{}", nowhere.stderr);
}

#[test]
fn the_demo_tells_its_story_and_ends_well() {
    let ended = run(&mut kilonova(&["demo"]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    for part in ["DRIVER_FAILED", "NO_VALID_HOST", "The drivers' journals agree", "Done in"] {
        assert!(ended.stdout.contains(part), "{part} is missing:\n{}", ended.stdout);
    }
}
