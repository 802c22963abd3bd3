//! Starting, stopping, keeping to bounds, being counted.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::compute::v1::GetConsoleOutputRequest;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_rpc::server::{AdmissionLimits, Limits, Stopped};
use kilonova_runtime::telemetry::Metrics;
use kilonova_tests::Backing;
use kilonova_tests::waiting::{PATIENCE, until};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::fake::{ping, work};
use crate::world::{Spec, World, to, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    a_member_stops_and_starts_again_in_its_place,
    a_stop_waits_for_calls_but_not_for_ever,
    limits_hold_a_server_and_not_its_calls_to_others,
    connections_to_hosts_keep_to_their_bound,
    every_call_is_counted_once_at_both_ends_failed_ones_too,
);

/// 49: there is no order to get wrong, as a stop consumes the server; the same address can be served again at once.
async fn a_member_stops_and_starts_again_in_its_place(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let mut member = world.member(SERVICE, "a").await;
    let addr = member.addr.clone();
    for round in 1..=3 {
        let channel = to(&peers, &member).wait_for_ready();
        until("it answers", || async { ping(&channel, "x").await.ok() }).await;
        let began = Instant::now();
        assert_eq!(member.stop(PATIENCE).await, Stopped::Drained, "round {round}");
        assert!(began.elapsed() < PATIENCE / 4, "{:?}", began.elapsed());
        let listener = until("the port is free", || async { TcpListener::bind(&addr).await.ok() }).await;
        member = world.member_on(listener, SERVICE, "a", Spec::default()).await;
    }
}

/// 50.
async fn a_stop_waits_for_calls_but_not_for_ever(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let patient = world.member(SERVICE, "a").await;
    let (fake, channel) = (patient.fake.clone(), to(&peers, &patient));
    ping(&channel, "x").await.unwrap();
    let stopping = async {
        fake.until_began(2).await;
        let release = async {
            until("it takes no new calls", || async { ping(&channel, "new").await.err() }).await;
            fake.release_all();
        };
        tokio::join!(patient.stop(PATIENCE), release).0
    };
    let (answer, stopped) = tokio::join!(work(&channel, "hold"), stopping);
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(stopped, Stopped::Drained);

    let stuck = world.member(SERVICE, "b").await;
    let (fake, channel) = (stuck.fake.clone(), to(&peers, &stuck));
    ping(&channel, "x").await.unwrap();
    let bound = Duration::from_millis(200);
    let stopping = async {
        fake.until_began(2).await;
        let began = Instant::now();
        (stuck.stop(bound).await, began.elapsed())
    };
    let (answer, (stopped, took)) = tokio::join!(work(&channel, "hold"), stopping);
    assert!(matches!(stopped, Stopped::Cut { calls: 1.. }), "{stopped:?}");
    assert!(took >= bound && took < bound + Duration::from_secs(3), "{took:?}");
    assert_eq!(verdict(answer), ("perhaps executed", Some(Reason::ConnectionLost)));
    assert_eq!(fake.executed(), ["x"]);
}

/// 54.
async fn limits_hold_a_server_and_not_its_calls_to_others(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let admission = AdmissionLimits { calls: 3, ..AdmissionLimits::default() };
    let limits = Limits { admission, ..Limits::default() };
    let small = world.member_with(SERVICE, "small", Spec { limits, ..Spec::default() }).await;
    let large = world.member(SERVICE, "large").await;
    let peers = world.peers();
    // Both are asked by the same process, which the limits of the one are nothing to.
    let (to_small, to_large) = (to(&peers, &small), to(&peers, &large));
    let orders: Vec<_> = (0..10).map(|number| format!("hold {number}")).collect();
    let release = async {
        large.fake.until_began(10).await;
        small.fake.until_began(2).await;
        let refused = work(&to_small, "one more").await;
        assert_eq!(verdict(refused), ("not executed", Some(Reason::Overloaded)));
        assert_eq!(small.fake.began().len(), 2);
        small.fake.release_all();
        large.fake.release_all();
    };
    let (at_small, at_large, ()) = tokio::join!(
        join_all(orders[..2].iter().map(|order| work(&to_small, order))),
        join_all(orders.iter().map(|order| work(&to_large, order))),
        release
    );
    assert!(at_small.iter().chain(&at_large).all(Result::is_ok), "{at_small:?} {at_large:?}");
}

/// 55: the surplus one is that which was idle for the longest time; a call on it still ends in peace.
async fn connections_to_hosts_keep_to_their_bound(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let mut members = Vec::new();
    for name in ["a", "b", "c"] {
        members.push(world.member(SERVICE, name).await);
    }
    let peers = world.peers_with(|options| options.max_directed = 2);
    let known = || peers.states().iter().map(|peer| peer.host.to_string()).collect::<Vec<_>>();
    for member in &members {
        ping(&to(&peers, member), "x").await.unwrap();
        assert!(known().len() <= 2);
    }
    assert_eq!(known(), ["b", "c"]);
    let (to_b, to_c) = (to(&peers, &members[1]), to(&peers, &members[2]));
    let surplus = async {
        members[1].fake.until_began(2).await;
        members[2].fake.until_began(2).await;
        ping(&to(&peers, &members[0]), "x").await.unwrap();
        assert_eq!(known().len(), 2);
        members.iter().for_each(|member| member.fake.release_all());
    };
    let (b, c, ()) = tokio::join!(work(&to_b, "hold"), work(&to_c, "hold"), surplus);
    assert!(b.is_ok() && c.is_ok(), "{b:?} {c:?}");
    ping(&to_b, "x").await.unwrap();
}

/// One of these at a time: they count the same.
static COUNTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Every counter of `GetConsoleOutput`, which nothing else here calls.
fn counted() -> BTreeMap<String, f64> {
    let text = Metrics::install().render();
    let lines = text.lines().filter(|line| line.contains("grpc_method=\"GetConsoleOutput\""));
    let of_compute = lines.filter(|line| line.contains("kilonova.compute.v1.ComputeService"));
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{')?;
        let code = labels.split_once("grpc_code=\"").map_or("", |(_, rest)| rest.split('"').next().unwrap());
        let kept = name.ends_with("_total") || name.ends_with("_count");
        kept.then_some((format!("{name} {code}").trim_end().to_owned(), value.parse().ok()?))
    };
    of_compute.filter_map(value).collect()
}

/// 58.
async fn every_call_is_counted_once_at_both_ends_failed_ones_too(backing: Backing) {
    let _alone = COUNTING.lock().await;
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let before = counted();
    for lines in [1, 1, 0] {
        let request = GetConsoleOutputRequest { lines, ..Default::default() };
        let answer = ComputeServiceClient::new(to(&peers, &member)).get_console_output(request).await;
        assert_eq!(answer.is_ok(), lines == 1);
    }
    let grown = || -> BTreeMap<String, f64> {
        let grown = counted().into_iter().map(|(name, value)| {
            let grown = value - before.get(&name).copied().unwrap_or_default();
            (name, grown)
        });
        grown.filter(|(_, by)| *by != 0.0).collect()
    };
    let mut expected = BTreeMap::new();
    for side in ["client", "server"] {
        expected.insert(format!("grpc_{side}_started_total"), 3.0);
        expected.insert(format!("grpc_{side}_handled_total OK"), 2.0);
        expected.insert(format!("grpc_{side}_handled_total FailedPrecondition"), 1.0);
        expected.insert(format!("grpc_{side}_handling_seconds_count"), 3.0);
    }
    // Messages sent and received are counted beside these.
    let calls = until("all is counted", || async {
        let mut grown = grown();
        grown.retain(|name, _| !name.contains("_msg_"));
        (grown.len() >= expected.len()).then_some(grown)
    })
    .await;
    assert_eq!(calls, expected);
}
