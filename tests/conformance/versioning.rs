//! Which versions and which methods go together.

use std::time::Duration;

use kilonova_model::version::compatible;
use kilonova_model::{HostName, Reason, ServiceKind, Version};
use kilonova_proto::base::v1::PingRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::{GetInstanceStateRequest, TerminateInstanceRequest};
use kilonova_rpc::caller::VERSION;
use kilonova_rpc::server::{BuildError, Identity, Served, ServerBuilder};
use kilonova_runtime::service::{Launch, LaunchOptions, StartError};
use kilonova_tests::waiting::until;
use kilonova_tests::{Backing, Cluster, Plan};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::client::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::fake::{Fake, ping, work};
use crate::world::{BASE, COMPUTE, Spec, World, dead_addr, host, ready, to, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    the_cases_of_compatibility_hold_on_the_wire,
    the_oldest_member_caps_what_is_asked_of_any,
    malformed_versions_are_refused,
    a_server_takes_its_version_and_its_package_and_no_other,
    only_the_method_that_is_served_is_reached,
    a_service_that_cannot_be_served_is_refused_at_construction,
    every_service_answers_ping,
    options_override_and_compose,
    a_fan_out_has_one_result_for_each_member,
    who_has_no_name_or_address_does_not_start,
);

/// 33.
async fn the_cases_of_compatibility_hold_on_the_wire(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    // What who implements the first does about a request of the second; revisions are told apart too.
    let cases = [
        ("1.23", "1.23", true),
        ("1.24", "1.23", true),
        ("1.22", "1.23", false),
        ("2.23", "1.23", false),
        ("1.23", "2.23", false),
        ("1.23.1", "1.23", true),
        ("1.23", "1.23.0", true),
        ("1.23.2", "1.23.1", true),
        ("1.23", "1.23.1", false),
        ("1.24", "1.23.9", true),
    ];
    for (implemented, requested, expected) in cases {
        let (implemented, requested): (Version, Version) =
            (implemented.parse().unwrap(), requested.parse().unwrap());
        assert_eq!(compatible(Some(implemented), Some(requested)), expected);
        if implemented != Version::v1(implemented.minor) {
            continue;
        }
        let spec = Spec { minor: implemented.minor, ..Spec::default() };
        let name = format!("v{}-{}", implemented.minor, dashed(requested));
        let member = world.member_with(SERVICE, &name, spec).await;
        let mut request = Request::new(PingRequest::default());
        // Past the cap that the caller keeps: here it is the server that decides.
        request.metadata_mut().insert(VERSION, requested.to_string().parse().unwrap());
        let answer = BaseServiceClient::new(to(&world.peers(), &member)).ping(request).await;
        match expected {
            true => drop(answer.unwrap()),
            false => assert_eq!(verdict(answer), ("refused", Some(Reason::UnsupportedVersion))),
        }
        member.stop(Duration::from_secs(5)).await;
    }
}

/// As part of a name.
fn dashed(version: Version) -> String {
    version.to_string().replace('.', "-")
}

/// 34, for calls and casts: the cap is that of the members alive, and moves with them.
async fn the_oldest_member_caps_what_is_asked_of_any(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let nobody = work(&peers.call(SERVICE).needs(Version::v1(9)), "x").await;
    assert_eq!(verdict(nobody).1, Some(Reason::NoEndpoint), "no member, no cap");
    let old = world.member_with(SERVICE, "old", Spec { minor: 3, ..Spec::default() }).await;
    let new = world.member_with(SERVICE, "new", Spec { minor: 5, ..Spec::default() }).await;
    ready(&peers, SERVICE, 2).await;
    for channel in [peers.call(SERVICE), peers.cast(SERVICE)] {
        for (needed, goes) in [("1.0", true), ("1.3", true), ("1.4", false), ("1.5", false), ("2.0", false)] {
            let answer = work(&channel.clone().needs(needed.parse().unwrap()), needed).await;
            match goes {
                true => drop(answer.unwrap()),
                false => assert_eq!(verdict(answer), ("not executed", Some(Reason::UnsupportedVersion))),
            }
        }
        work(&channel, "no version").await.unwrap();
    }
    assert_eq!(old.fake.began().len() + new.fake.began().len(), 6, "what is over the cap is not sent");
    old.stop(Duration::from_secs(5)).await;
    let needy = peers.call(SERVICE).needs(Version::v1(5));
    until("the cap rises", || async { work(&needy, "x").await.ok() }).await;
}

/// 35.
async fn malformed_versions_are_refused(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    for bad in ["5", "5.a", "5.5.a", "1.2.3.4", "-1.2", "1."] {
        assert!(bad.parse::<Version>().is_err(), "{bad}");
        let mut request = Request::new(PingRequest::default());
        request.metadata_mut().insert(VERSION, bad.parse().unwrap());
        let answer = BaseServiceClient::new(to(&peers, &member)).ping(request).await;
        assert_eq!(verdict(answer), ("refused", Some(Reason::ValidationFailed)), "{bad}");
    }
    assert!(member.fake.began().is_empty());
}

/// Calls any method by its path.
async fn call_path(channel: &kilonova_rpc::peers::Channel, path: &'static str) -> Result<(), Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<PingRequest, PingRequest>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    client.unary(Request::new(PingRequest::default()), path, codec).await.map(drop)
}

/// 36.
async fn a_server_takes_its_version_and_its_package_and_no_other(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member_with(SERVICE, "a", Spec { minor: 5, ..Spec::default() }).await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    work(&channel.clone().needs(Version::v1(5)), "x").await.unwrap();
    for newer in [Version::v1(6), "2.0".parse().unwrap()] {
        let answer = work(&channel.clone().needs(newer), "x").await;
        assert_eq!(verdict(answer).1, Some(Reason::UnsupportedVersion));
    }
    for path in ["/kilonova.base.v2.BaseService/Ping", "/BaseService/Ping", "/other.v1.BaseService/Ping"] {
        let answer = call_path(&channel, path).await;
        assert_eq!(verdict(answer), ("refused", Some(Reason::MethodNotImplemented)), "{path}");
    }
    assert_eq!(member.fake.began(), ["x"]);
}

/// 37: a service is exposed as far as it is said to be, and nothing beside it.
async fn only_the_method_that_is_served_is_reached(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let some = Spec { compute_only: Some(&["AttachVolume"]), ..Spec::default() };
    let (all, some) = (world.member(SERVICE, "all").await, world.member_with(SERVICE, "some", some).await);
    let peers = world.peers();
    let state = async |channel| {
        let mut client = ComputeServiceClient::new(channel);
        client.get_instance_state(GetInstanceStateRequest::default()).await.map(Response::into_inner)
    };
    state(to(&peers, &all)).await.unwrap();
    let unserved = ("refused", Some(Reason::MethodNotImplemented));
    assert_eq!(verdict(state(to(&peers, &some)).await), unserved);
    for member in [&all, &some] {
        let channel = to(&peers, member);
        assert_eq!(work(&channel, "once").await.unwrap(), "once");
        // No such method, no such service, a service of another member, a name of the implementation's.
        for path in [
            "/kilonova.compute.v1.ComputeService/Nothing",
            "/kilonova.compute.v1.NoService/AttachVolume",
            "/kilonova.volume.v1.VolumeService/CreateVolume",
            "/kilonova.compute.v1.ComputeService/attach_volume",
        ] {
            assert_eq!(verdict(call_path(&channel, path).await), unserved, "{path}");
        }
        assert_eq!(member.fake.began(), ["once"]);
    }
    // Served, and left out by who implements it.
    let left_out = ComputeServiceClient::new(to(&peers, &all))
        .terminate_instance(TerminateInstanceRequest::default())
        .await;
    assert_eq!(left_out.unwrap_err().code(), tonic::Code::Unimplemented);
}

/// 38.
async fn a_service_that_cannot_be_served_is_refused_at_construction(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let identity = || Identity {
        service: SERVICE,
        host: host("a"),
        cell: world.cell.clone(),
        version: Version::v1(0),
        epoch: watch::channel(kilonova_model::Epoch(1)).1,
    };
    let build = async |served: &[Served]| {
        let service = || BaseServiceServer::new(Fake::new("a"));
        let builder = served
            .iter()
            .fold(ServerBuilder::new(identity()), |builder, served| builder.add(service(), served.clone()));
        builder.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).map(drop)
    };
    build(&[Served::all(BASE)]).await.unwrap();
    assert!(matches!(build(&[Served::all(BASE), Served::all(BASE)]).await, Err(BuildError::Twice(_))));
    assert!(matches!(build(&[Served::all(COMPUTE)]).await, Err(BuildError::Mismatch { .. })));
    let unknown = build(&[Served::only(BASE, &["Pong"])]).await;
    assert!(matches!(unknown, Err(BuildError::NotDescribed(_))));
}

/// 39.
async fn every_service_answers_ping(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let plan = Plan { conductors: 1, schedulers: 1, computes: 1, volumes: 1, ..Plan::new(backing) };
    let cluster = Cluster::over(plan, world.store.clone(), world.cell.clone()).await;
    let peers = world.peers();
    let services = [
        ServiceKind::Api,
        ServiceKind::Conductor,
        ServiceKind::Scheduler,
        ServiceKind::Compute,
        ServiceKind::Volume,
    ];
    for service in services {
        let all = peers.fan_out(service, 8, |channel, _| async move { ping(&channel, "here?").await }).await;
        assert_eq!(all.results.len(), 1, "{service}");
        for (name, answer) in all.results {
            let answer = answer.unwrap();
            assert_eq!((answer.payload.as_str(), answer.host), ("here?", name.to_string()));
        }
    }
    cluster.shutdown().await;
}

/// 40: what is set last counts, what is not set stays, and the channel it was set on is as before.
async fn options_override_and_compose(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member_with(SERVICE, "a", Spec { minor: 2, ..Spec::default() }).await;
    let peers = world.peers();
    let plain = to(&peers, &member);
    let epoch = member.registration.epoch();
    let wrong = plain.clone().at(kilonova_model::Epoch(epoch.0 + 1)).needs(Version::v1(1));
    assert_eq!(verdict(work(&wrong, "x").await).1, Some(Reason::StaleEpoch));
    let right = wrong.clone().at(epoch).within(Duration::from_secs(2)).within(Duration::from_secs(5));
    work(&right, "x").await.unwrap();
    assert_eq!(verdict(work(&right.needs(Version::v1(3)), "x").await).1, Some(Reason::UnsupportedVersion));
    work(&plain, "x").await.unwrap();
    let said = member.fake.heard(|heard| {
        let version = heard.metadata.get(VERSION).map(|version| version.to_str().unwrap().to_owned());
        (version, heard.left.unwrap() > Duration::from_secs(5))
    });
    assert_eq!(said, [(Some("1.1".to_owned()), false), (None, true)]);
}

/// 41: a fan-out is no call with one answer; it says of each member what came of it.
async fn a_fan_out_has_one_result_for_each_member(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let _dead = world.register(SERVICE, "dead", &dead_addr().await, 0).await;
    let peers = world.peers();
    let all = peers.fan_out(SERVICE, 8, |channel, _| async move { work(&channel, "x").await }).await;
    let names: Vec<_> = all.results.keys().map(HostName::as_str).collect();
    assert_eq!(names, ["a", "dead"]);
    assert_eq!(all.results[&member.host].as_ref().unwrap(), "x");
    let dead = all.results[&host("dead")].as_ref().unwrap_err();
    assert_eq!(dead.reason(), Some(Reason::ConnectFailed));
}

/// 42.
async fn who_has_no_name_or_address_does_not_start(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    assert!(HostName::parse("").is_err());
    assert!("".parse::<ServiceKind>().is_err() && "nova".parse::<ServiceKind>().is_err());
    let launch = Launch {
        service: SERVICE,
        host: host("a"),
        cell: world.cell.clone(),
        zone: kilonova_model::ZoneName::parse("az1").unwrap(),
        store: world.store.clone(),
        listener: TcpListener::bind("0.0.0.0:0").await.unwrap(),
        http: None,
        advertise: None,
        options: LaunchOptions::default(),
    };
    assert!(matches!(launch.register().await, Err(StartError::NothingToAdvertise { .. })));
    let set = world.registry.members(SERVICE).known().await;
    assert!(set.members.is_empty(), "{set:?}");
}
