//! How long a call may take, and what is said at once.

use std::time::Duration;

use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::base::v1::PingRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_rpc::peers::Channel;
use kilonova_tests::Backing;
use kilonova_tests::waiting::at_this_pace;
use tokio::time::Instant;
use tonic::Request;

use crate::fake::{ping, work};
use crate::world::{World, dead_addr, host, to, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;
/// At once, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

over_both_stores!(
    nobody_to_call_is_said_at_once_and_waited_for_on_request,
    a_slow_call_holds_up_no_other,
    a_missing_host_is_said_at_once_whatever_the_deadline,
    long_work_outlives_the_call_that_began_it,
    the_nearest_deadline_counts_and_zero_is_one,
    an_answer_that_comes_too_late_harms_no_other_call,
);

/// 10.
async fn nobody_to_call_is_said_at_once_and_waited_for_on_request(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let began = Instant::now();
    let patient = peers.call(SERVICE).within(MINUTE);
    assert_eq!(verdict(ping(&patient, "x").await), ("not executed", Some(Reason::NoEndpoint)));
    assert!(began.elapsed() < at_this_pace(SOON), "{:?}", began.elapsed());

    let began = Instant::now();
    let waiting = peers.call(SERVICE).within(SHORT).wait_for_ready();
    assert_eq!(verdict(ping(&waiting, "x").await).0, "not executed");
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
}

/// 11.
async fn a_slow_call_holds_up_no_other(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    ping(&channel, "first").await.unwrap();
    let slow_channel = channel.clone().within(Duration::from_secs(1));
    let slow = ping(&slow_channel, "hold");
    let quick = async {
        member.fake.until_began(2).await;
        for number in 0..10 {
            ping(&channel, &number.to_string()).await.unwrap();
        }
        member.fake.executed().len()
    };
    let (slow, done) = tokio::join!(slow, quick);
    assert_eq!(done, 11);
    assert_eq!(verdict(slow), ("perhaps executed", Some(Reason::DeadlineExceeded)));
}

/// 12.
async fn a_missing_host_is_said_at_once_whatever_the_deadline(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let _gone = world.register(SERVICE, "gone", &dead_addr().await, 0).await;
    let peers = world.peers();
    let began = Instant::now();
    for (name, reason) in [("nobody", Reason::NoSuchHost), ("gone", Reason::ConnectFailed)] {
        for channel in [peers.call_host(SERVICE, &host(name)), peers.cast_host(SERVICE, &host(name))] {
            let answer = work(&channel.within(MINUTE), "x").await;
            assert_eq!(verdict(answer), ("not executed", Some(reason)), "{name}");
        }
    }
    assert!(began.elapsed() < at_this_pace(SOON), "{:?}", began.elapsed());
}

/// 13: what takes long is accepted, done without its caller, and asked about.
async fn long_work_outlives_the_call_that_began_it(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    let too_long = work(&channel.clone().within(SHORT), "hold").await;
    assert_eq!(verdict(too_long), ("perhaps executed", Some(Reason::DeadlineExceeded)));
    assert!(member.fake.executed().is_empty());
    member.fake.release_all();
    member.fake.until_executed(1).await;
    assert_eq!(work(&channel, "!").await.unwrap(), "hold!");
}

/// 17: what the request says comes before what its channel says, that before the default; none exceeds the method's.
async fn the_nearest_deadline_counts_and_zero_is_one(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers_with(|options| options.default_deadline = Duration::from_secs(7));
    let channel = to(&peers, &member);
    let asked = async |channel: &Channel, limit: Option<Duration>| {
        let mut request = Request::new(PingRequest::default());
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        BaseServiceClient::new(channel.clone()).ping(request).await
    };
    asked(&channel, None).await.unwrap();
    asked(&channel.clone().within(Duration::from_secs(5)), None).await.unwrap();
    asked(&channel.clone().within(Duration::from_secs(5)), Some(Duration::from_secs(3))).await.unwrap();
    asked(&channel.clone().within(MINUTE), None).await.unwrap();
    let told = member.fake.heard(|heard| heard.left.unwrap());
    for (told, limit) in told.iter().zip([7, 5, 3, 10]) {
        let limit = Duration::from_secs(limit);
        assert!(
            *told <= limit && *told > limit.saturating_sub(Duration::from_secs(2)),
            "{told:?} of {limit:?}"
        );
    }
    let zero = asked(&channel, Some(Duration::ZERO)).await;
    assert_eq!(verdict(zero), ("not executed", Some(Reason::DeadlineExceeded)));
    let zero = ping(&channel.within(Duration::ZERO), "x").await;
    assert_eq!(verdict(zero), ("not executed", Some(Reason::DeadlineExceeded)));
    assert_eq!(member.fake.began().len(), 4);
}

/// 18.
async fn an_answer_that_comes_too_late_harms_no_other_call(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let late = work(&channel.clone().within(SHORT), "hold").await;
    assert_eq!(verdict(late), ("perhaps executed", Some(Reason::DeadlineExceeded)));
    member.fake.release_all();
    member.fake.until_executed(2).await;
    for number in 0..5 {
        assert_eq!(ping(&channel, &number.to_string()).await.unwrap().payload, number.to_string());
    }
}
