//! Who is still there, and what goes on when somebody is not.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kilonova_model::{Reason, ServiceKind, Version};
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event as Wire;
use kilonova_proto::capability::v1::{WatchCapabilitiesRequest, WatchCapabilitiesResponse};
use kilonova_rpc::backoff::BackoffPolicy;
use kilonova_rpc::peers::Channel;
use kilonova_rpc::subscribe::{Classified, Event, Lost, SubscribeOptions, Subscription, subscribe};
use kilonova_tests::Backing;
use kilonova_tests::waiting::{PATIENCE, at_this_pace, until};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::fake::{ping, work};
use crate::links::Links;
use crate::world::{World, in_time, ready, to, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;
/// At once, on a busy machine.
const SOON: Duration = Duration::from_secs(3);
const MINUTE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

over_both_stores!(
    a_stream_outlives_the_deadlines_of_calls,
    a_peer_that_is_silent_is_found_while_a_call_waits,
    a_call_ends_at_its_deadline_though_its_peer_lives,
    a_stream_without_heartbeats_is_given_up,
    a_change_is_finished_though_its_caller_has_gone,
    nothing_goes_on_after_a_refusal,
    an_answer_nobody_takes_leaves_the_server_as_it_was,
);

async fn watch(
    channel: &Channel,
    token: &str,
    beat: Duration,
) -> Result<Streaming<WatchCapabilitiesResponse>, Status> {
    let heartbeat_interval = Some(beat.try_into().unwrap());
    let request = WatchCapabilitiesRequest { resume_token: token.to_owned(), heartbeat_interval };
    let answer = CapabilityServiceClient::new(channel.clone()).watch_capabilities(request).await?;
    Ok(answer.into_inner())
}

/// 13: and its progress is watched for as long as it takes.
async fn a_stream_outlives_the_deadlines_of_calls(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let limit = Duration::from_millis(200);
    let began = Instant::now();
    let stream = watch(&channel.within(limit), "", Duration::from_millis(20)).await.unwrap();
    let beats = in_time("beats", stream.take(40).collect::<Vec<_>>()).await;
    assert!(beats.iter().all(Result::is_ok));
    assert!(began.elapsed() > limit * 3);
}

/// 14: nothing is heard of it, so the call fails long before its deadline.
async fn a_peer_that_is_silent_is_found_while_a_call_waits(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let links = Links::default();
    let peers = world.peers_with(|options| {
        options.transport = Arc::new(links.clone());
        options.keep_alive_interval = Duration::from_millis(100);
        options.keep_alive_timeout = Duration::from_millis(100);
        options.connect_timeout = Duration::from_millis(200);
    });
    let channel = to(&peers, &member).within(MINUTE);
    ping(&channel, "x").await.unwrap();
    let began = Instant::now();
    let silence = async {
        member.fake.until_began(2).await;
        links.silence(&member.addr);
    };
    let (lost, ()) = tokio::join!(ping(&channel, "hold"), silence);
    assert_eq!(verdict(lost), ("perhaps executed", Some(Reason::ConnectionLost)));
    assert!(began.elapsed() < at_this_pace(SOON), "{:?}", began.elapsed());
}

/// 14: pings are answered all the time, and the deadline still counts.
async fn a_call_ends_at_its_deadline_though_its_peer_lives(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers_with(|options| options.keep_alive_interval = Duration::from_millis(50));
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let began = Instant::now();
    let late = ping(&channel.within(SHORT), "hold").await;
    assert_eq!(verdict(late), ("perhaps executed", Some(Reason::DeadlineExceeded)));
    assert!((SHORT..at_this_pace(SOON)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

struct Listener {
    channel: Channel,
    token: &'static str,
    beats: usize,
    lost: Option<Lost>,
    enough: CancellationToken,
}

const BEAT: Duration = Duration::from_millis(60);

impl Subscription for Listener {
    type Message = WatchCapabilitiesResponse;
    type Item = ();

    async fn open(&mut self, _: &str) -> Result<Streaming<Self::Message>, Status> {
        watch(&self.channel, self.token, BEAT).await
    }

    fn classify(&self, message: Self::Message) -> Option<Classified<()>> {
        let event = match message.event? {
            Wire::SnapshotEnd(_) => Event::SnapshotEnd,
            Wire::Heartbeat(_) => Event::Heartbeat,
            Wire::Snapshot(_) | Wire::Update(_) => Event::Item(()),
        };
        Some(Classified { event, resume_token: String::new() })
    }

    fn on_connected(&mut self, _: bool) {}

    fn on_event(&mut self, event: Event<()>) {
        self.beats += usize::from(event == Event::Heartbeat);
        if self.beats == 10 {
            self.enough.cancel();
        }
    }

    fn on_lost(&mut self, lost: &Lost) {
        self.lost = Some(lost.clone());
        self.enough.cancel();
    }
}

/// 14: a stream that is silent for three heartbeats is dead; one that is not lives on.
async fn a_stream_without_heartbeats_is_given_up(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let options =
        |heartbeat_interval| SubscribeOptions { heartbeat_interval, backoff: BackoffPolicy::reconnect() };
    let listen = async |token, interval| {
        let enough = CancellationToken::new();
        let mut listener =
            Listener { channel: channel.clone(), token, beats: 0, lost: None, enough: enough.clone() };
        in_time("the end of listening", subscribe(&mut listener, options(interval), &enough)).await;
        listener
    };
    let silent = listen("silent", BEAT).await;
    assert!(matches!(silent.lost, Some(Lost::Silent(_))), "{:?}", silent.lost);
    // Ten beats take longer than three missed ones would be waited for.
    let lively = listen("", BEAT * 3).await;
    assert!(lively.lost.is_none() && lively.beats == 10, "{:?}", lively.lost);
}

/// 15.
async fn a_change_is_finished_though_its_caller_has_gone(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let links = Links::default();
    let peers = world.peers_with(|options| options.transport = Arc::new(links.clone()));
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    {
        let call = work(&channel, "hold");
        let arrived = member.fake.until_began(2);
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = arrived => {}
        }
    }
    links.cut(&member.addr);
    drop((channel, peers));
    member.fake.release_all();
    member.fake.until_executed(2).await;
    assert_eq!(member.fake.executed(), ["x", "hold"]);
}

/// 16.
async fn nothing_goes_on_after_a_refusal(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let spec = crate::world::Spec { compute_only: Some(&["GetInstanceState"]), ..Default::default() };
    let member = world.member_with(SERVICE, "a", spec).await;
    let peers = world.peers();
    ready(&peers, SERVICE, 1).await;
    let before = member.load.calls();
    for _ in 0..3 {
        let unserved = work(&to(&peers, &member), "x").await;
        assert_eq!(verdict(unserved), ("refused", Some(Reason::MethodNotImplemented)));
        let newer = work(&to(&peers, &member).needs(Version::v1(9)), "x").await;
        assert_eq!(verdict(newer).1, Some(Reason::UnsupportedVersion));
    }
    // What stays are the streams on which each connection hears of the member's health.
    until("only health is watched", || async { (member.load.calls() <= before + 1).then_some(()) }).await;
    assert!(peers.states().iter().all(|peer| peer.in_flight == 0));
    assert!(member.fake.began().is_empty());
}

/// 19.
async fn an_answer_nobody_takes_leaves_the_server_as_it_was(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let links = Links::default();
    let peers = world.peers_with(|options| options.transport = Arc::new(links.clone()));
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let cut = async {
        member.fake.until_began(11).await;
        links.cut(&member.addr);
        member.fake.release_all();
    };
    let orders: Vec<_> = (0..10).map(|number| format!("hold {number}")).collect();
    let calls = futures::future::join_all(orders.iter().map(|order| ping(&channel, order)));
    let (answers, ()) = tokio::join!(calls, cut);
    assert!(answers.len() == 10);
    ping(&channel.within(PATIENCE).wait_for_ready(), "after").await.unwrap();
    until("no call is left", || async { (member.load.calls() <= 1).then_some(()) }).await;
}
