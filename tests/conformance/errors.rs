//! How failures are told, what comes with a request, and what goes over the wire.

use std::time::Duration;

use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::base::v1::PingRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::{AttachVolumeRequest, InstanceCommand};
use kilonova_rpc::caller::{CALLER_HOST, CALLER_SERVICE, CELL, Caller, TARGET_HOST};
use kilonova_rpc::status::from_status;
use kilonova_tests::Backing;
use kilonova_tests::waiting::until;
use tonic::{Code, Request};

use crate::fake::{ping, refusal, work};
use crate::logs;
use crate::scripted::{Act, Script, Scripted};
use crate::world::{Member, World, caller, host, ready, to, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    a_handler_that_fails_is_a_typed_error_and_a_line_in_the_log,
    an_expected_refusal_arrives_whole_and_is_no_error_in_the_log,
    what_nobody_expected_is_told_plainly_and_without_a_trace,
    an_error_passed_on_keeps_its_type,
    the_request_and_what_comes_with_it_arrive_once_and_whole,
    the_wire_is_that_of_the_protos,
);

async fn one_named(world: &World, name: &str, backing: Backing) -> (Member, String) {
    logs::keep();
    let name = format!("{name}-{backing:?}").to_lowercase();
    (world.member(SERVICE, &name).await, name)
}

/// 43.
async fn a_handler_that_fails_is_a_typed_error_and_a_line_in_the_log(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let (member, name) = one_named(&world, "failing", backing).await;
    let peers = world.peers();
    let order = format!("panic at {name}");
    assert_eq!(
        verdict(work(&to(&peers, &member), &order).await),
        ("perhaps executed", Some(Reason::Internal))
    );
    let lines =
        until("it is logged", || async { Some(logs::lines_with(&order)).filter(|lines| !lines.is_empty()) })
            .await;
    assert!(lines.len() == 1 && lines[0].contains("ERROR") && lines[0].contains("AttachVolume"), "{lines:?}");
    assert_eq!(work(&to(&peers, &member), "x").await.unwrap(), "x", "nobody else is hurt");
}

/// 44.
async fn an_expected_refusal_arrives_whole_and_is_no_error_in_the_log(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let (member, name) = one_named(&world, "refusing", backing).await;
    let peers = world.peers();
    let status = work(&to(&peers, &member), "refuse").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(from_status(&status), Some(refusal()));
    work(&to(&peers, &member), "after").await.unwrap();
    // Both calls have their line, and neither is more than information.
    let calls = |lines: &[String]| lines.iter().filter(|line| line.contains("AttachVolume")).count();
    let lines = until("both calls are logged", || async {
        Some(logs::lines_with(&name)).filter(|lines| calls(lines) == 2)
    })
    .await;
    assert!(lines.iter().all(|line| line.contains(" INFO ")), "{lines:?}");
}

/// 45.
async fn what_nobody_expected_is_told_plainly_and_without_a_trace(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let (member, name) = one_named(&world, "unexpected", backing).await;
    let peers = world.peers();
    let status = ping(&to(&peers, &member), &format!("panic {name} secret")).await.unwrap_err();
    let error = from_status(&status).unwrap();
    assert_eq!((status.code(), error.reason), (Code::Internal, Reason::Internal));
    let told = format!("{status:?} {error:?}");
    for trace in [&name, "secret", ".rs", "backtrace", "panicked"] {
        assert!(!told.contains(trace), "{trace:?} in {told}");
    }
    let foreign = ping(&to(&peers, &member), "foreign").await.unwrap_err();
    assert_eq!((foreign.code(), foreign.message()), (Code::Unknown, "what others say"));
    assert_eq!(verdict::<()>(Err(foreign)), ("perhaps executed", None));
}

/// 46: from the third member through the second.
async fn an_error_passed_on_keeps_its_type(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let (middle, far) = (world.member(SERVICE, "middle").await, world.member(SERVICE, "far").await);
    let peers = world.peers();
    middle.fake.relay_to(to(&peers, &far));
    let status = ping(&to(&peers, &middle), "relay").await.unwrap_err();
    assert_eq!(from_status(&status), Some(refusal()));
    assert_eq!((middle.fake.began(), far.fake.began()), (vec!["relay".into()], vec!["refuse".into()]));
}

/// 47: every field, who calls, for which cell and host, what is left of the deadline, and metadata of others.
async fn the_request_and_what_comes_with_it_arrive_once_and_whole(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(PingRequest { payload: "all of it".into() });
    request.metadata_mut().insert("traceparent", trace.parse().unwrap());
    request.set_timeout(Duration::from_secs(4));
    let answer = BaseServiceClient::new(to(&peers, &member)).ping(request).await.unwrap().into_inner();
    assert_eq!((answer.payload.as_str(), answer.host.as_str()), ("all of it", "a"));
    assert_eq!(member.fake.began(), ["all of it"]);
    let heard = member.fake.heard(|heard| {
        let all = |key| heard.metadata.get_all(key).iter().map(|value| value.to_str().unwrap().to_owned());
        let keys = ["traceparent", CELL, TARGET_HOST, CALLER_SERVICE, CALLER_HOST];
        (keys.map(|key| all(key).collect::<Vec<_>>()), Caller::from_metadata(&heard.metadata), heard.left)
    });
    let [(values, who, left)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(*values, [trace, world.cell.as_str(), "a", "api", "api-1"].map(|one| vec![one.to_owned()]));
    assert_eq!(*who, Some(caller()));
    assert!(
        left.is_some_and(|left| left > Duration::from_secs(2) && left < Duration::from_secs(4)),
        "{left:?}"
    );

    // A call made while another is handled has no more time than that one.
    let next = world.member(SERVICE, "b").await;
    member.fake.relay_to(to(&peers, &next));
    let short = to(&peers, &member).within(Duration::from_secs(2));
    ping(&short, "relay").await.unwrap_err();
    let passed = next.fake.heard(|heard| heard.left.unwrap());
    assert!(passed[0] < Duration::from_secs(2), "{passed:?}");
}

/// 48: plain gRPC, without compression; the fields are those the protos number.
async fn the_wire_is_that_of_the_protos(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let script = Script::default();
    let player = Scripted::start(&script).await;
    let _registration = world.register(SERVICE, "a", &player.addr, 0).await;
    let peers = world.peers();
    ready(&peers, SERVICE, 1).await;
    let command = InstanceCommand { instance_id: "i".into(), generation: 300, ..Default::default() };
    let full = AttachVolumeRequest {
        command: Some(command),
        volume_id: "v".into(),
        device: String::new(),
        connection: [("k".to_owned(), "w".to_owned())].into(),
    };
    let bytes: [(AttachVolumeRequest, &[u8]); 3] = [
        (AttachVolumeRequest::default(), b""),
        (AttachVolumeRequest { volume_id: "x".into(), ..Default::default() }, b"\x12\x01x"),
        (full, b"\x0a\x06\x0a\x01i\x10\xac\x02\x12\x01v\x22\x06\x0a\x01k\x12\x01w"),
    ];
    let group = peers.call(SERVICE);
    let named = peers.call_host(SERVICE, &host("a"));
    for (request, message) in bytes {
        for channel in [&group, &named] {
            script.set([Act::Answer]);
            ComputeServiceClient::new(channel.clone()).attach_volume(request.clone()).await.unwrap();
            let seen = script.seen();
            let [seen] = &seen[..] else { panic!("{seen:?}") };
            let frame = [&[0, 0, 0, 0, message.len() as u8], message].concat();
            assert_eq!(seen.body, frame);
            assert_eq!(seen.path, "/kilonova.compute.v1.ComputeService/AttachVolume");
            let header = |name| seen.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("content-type"), Some("application/grpc"));
            assert_eq!(header("te"), Some("trailers"));
            assert_eq!(header("grpc-encoding"), None);
            assert_eq!(header(CELL), Some(world.cell.as_str()));
            assert!(header("grpc-timeout").is_some_and(|timeout| timeout.ends_with(['m', 'u', 'S'])));
        }
    }
}
