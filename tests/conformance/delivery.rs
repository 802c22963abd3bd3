//! What is tried again, what is refused, what waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::flavor_service_client::FlavorServiceClient;
use kilonova_rpc::peers::Peers;
use kilonova_rpc::registry::Registration;
use kilonova_rpc::server::{AdmissionLimits, Limits};
use kilonova_tests::Backing;
use kilonova_tests::waiting::{at_this_pace, until};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Status;

use crate::fake::{ping, work};
use crate::links::Links;
use crate::scripted::{Act, Script, Scripted};
use crate::world::{Spec, World, dead_addr, host, ready, to, until_ready, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    a_call_is_tried_three_times_and_one_that_has_no_policy_once,
    two_lost_links_are_survived_and_three_are_not,
    only_what_certainly_was_not_done_is_repeated,
    a_refusal_is_told_as_one_and_silence_as_a_timeout,
    more_calls_than_places_wait_and_none_is_lost,
    an_idle_connection_is_closed_and_made_again,
    a_full_server_refuses_at_once_and_does_what_it_took,
    a_command_for_an_earlier_incarnation_is_refused,
);

/// Peers that play a script, as members of one service.
struct Stage {
    script: Script,
    peers: Peers,
    _players: Vec<(Scripted, Registration)>,
}

impl Stage {
    async fn with(world: &World, names: &[&str]) -> Self {
        let script = Script::default();
        let mut players = Vec::new();
        for name in names {
            let player = Scripted::start(&script).await;
            let registration = world.register(SERVICE, name, &player.addr, 0).await;
            players.push((player, registration));
        }
        let peers = world.peers();
        ready(&peers, SERVICE, names.len()).await;
        Self { script, peers, _players: players }
    }

    /// How idempotent work ends after these answers, and how often it was sent.
    async fn work(&self, acts: &[Act]) -> (Result<String, Status>, usize) {
        self.script.set(acts.iter().copied());
        let answer = work(&self.peers.call(SERVICE), "x").await;
        (answer, self.script.seen().len())
    }

    /// The same for work that is not to be repeated.
    async fn create(&self, acts: &[Act]) -> (Result<(), Status>, usize) {
        self.script.set(acts.iter().copied());
        let mut client = FlavorServiceClient::new(self.peers.call(SERVICE));
        let answer = client.create_flavor(api::CreateFlavorRequest::default()).await;
        (answer.map(drop), self.script.seen().len())
    }
}

const UNAVAILABLE: Act = Act::Code(14);

/// 20: the service config says how often; nothing is tried for ever.
async fn a_call_is_tried_three_times_and_one_that_has_no_policy_once(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let stage = Stage::with(&world, &["a"]).await;
    let (answer, sent) = stage.work(&[UNAVAILABLE; 9]).await;
    assert_eq!((verdict(answer).0, sent), ("perhaps executed", 3));
    let previous = stage.script.seen();
    let previous = previous.iter().map(|seen| seen.headers.get("grpc-previous-rpc-attempts"));
    let previous: Vec<_> = previous.map(|value| value.map(|text| text.to_str().unwrap())).collect();
    assert_eq!(previous, [None, Some("1"), Some("2")]);
    let (answer, sent) = stage.create(&[UNAVAILABLE; 9]).await;
    assert_eq!((verdict(answer).0, sent), ("perhaps executed", 1));
}

/// 21.
async fn two_lost_links_are_survived_and_three_are_not(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let stage = Stage::with(&world, &["a", "b", "c", "d"]).await;
    let (answer, sent) = stage.work(&[Act::Cut, Act::Cut]).await;
    assert_eq!((answer.is_ok(), sent), (true, 3), "{answer:?}");
    ready(&stage.peers, SERVICE, 4).await;
    let (answer, sent) = stage.work(&[Act::Cut, Act::Cut, Act::Cut]).await;
    assert_eq!((verdict(answer), sent), (("perhaps executed", Some(Reason::ConnectionLost)), 3));
}

/// 22: a refused stream was not processed, whatever the method; a lost one may have been; a decision stands.
async fn only_what_certainly_was_not_done_is_repeated(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let stage = Stage::with(&world, &["a", "b", "c"]).await;
    let (answer, sent) = stage.work(&[Act::Refuse, Act::Refuse]).await;
    assert_eq!((answer.is_ok(), sent), (true, 3), "{answer:?}");
    let (answer, _) = stage.create(&[Act::Refuse, Act::Refuse, Act::Refuse]).await;
    assert_eq!(verdict(answer), ("not executed", Some(Reason::ConnectFailed)));

    // Perhaps committed: it is asked again, and what is known at last is the answer.
    let unsure = Act::Error(Reason::StoreOutcomeUnknown);
    let (answer, sent) = stage.work(&[unsure]).await;
    assert_eq!((answer.is_ok(), sent), (true, 2), "{answer:?}");
    let (answer, sent) =
        stage.work(&[unsure, Act::Error(Reason::Draining), Act::Error(Reason::Draining)]).await;
    assert_eq!((verdict(answer), sent), (("perhaps executed", Some(Reason::StoreOutcomeUnknown)), 3));

    // Not idempotent, and perhaps done: never sent again.
    for act in [Act::Cut, UNAVAILABLE, unsure, Act::Code(2), Act::Code(13)] {
        ready(&stage.peers, SERVICE, 3).await;
        let (answer, sent) = stage.create(&[act]).await;
        let said = format!("{act:?}: {answer:?}");
        assert_eq!((verdict(answer).0, sent), ("perhaps executed", 1), "{said}");
    }
    ready(&stage.peers, SERVICE, 3).await;
    // Decided: INVALID_ARGUMENT, PERMISSION_DENIED, FAILED_PRECONDITION, ABORTED.
    for code in [3, 7, 9, 10] {
        let (answer, sent) = stage.work(&[Act::Code(code)]).await;
        assert_eq!((verdict(answer).0, sent), ("refused", 1), "{code}");
    }
}

/// 23.
async fn a_refusal_is_told_as_one_and_silence_as_a_timeout(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let stage = Stage::with(&world, &["a"]).await;
    let _dead = world.register(SERVICE, "dead", &dead_addr().await, 0).await;
    let began = Instant::now();
    let nobody = work(&stage.peers.call_host(SERVICE, &host("dead")), "x").await;
    assert_eq!(verdict(nobody), ("not executed", Some(Reason::ConnectFailed)));
    assert!(began.elapsed() < at_this_pace(Duration::from_secs(3)), "{:?}", began.elapsed());
    stage.script.set([Act::Hang]);
    let silent = stage.peers.call_host(SERVICE, &host("a")).within(Duration::from_millis(300));
    assert_eq!(verdict(work(&silent, "x").await), ("perhaps executed", Some(Reason::DeadlineExceeded)));
    assert_eq!(stage.script.seen().len(), 1);
}

/// 27.
async fn more_calls_than_places_wait_and_none_is_lost(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    // One place is taken for as long as the connection lives, by the stream that tells of the member's health.
    let limits = Limits { max_concurrent_streams: 2, ..Limits::default() };
    let member = world.member_with(SERVICE, "a", Spec { limits, ..Spec::default() }).await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    let orders = ["hold 1", "hold 2", "hold 3", "hold 4"];
    let release = async {
        for done in 1..=4 {
            member.fake.until_began(done).await;
            assert_eq!(member.fake.began().len(), done, "one at a time");
            member.fake.release(&member.fake.began()[done - 1]);
        }
    };
    let (answers, ()) = tokio::join!(join_all(orders.map(|order| work(&channel, order))), release);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let done: BTreeSet<_> = member.fake.executed().into_iter().collect();
    assert_eq!(done, orders.map(str::to_owned).into());
}

/// 28.
async fn an_idle_connection_is_closed_and_made_again(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let links = Links::default();
    let peers = world.peers_with(|options| {
        options.idle_timeout = Duration::from_millis(40);
        options.transport = Arc::new(links.clone());
    });
    let channel = to(&peers, &member);
    for made in 1..=2 {
        ping(&channel, "x").await.unwrap();
        assert_eq!(links.made(&member.addr), made);
        until("it is closed", || async {
            (peers.states().is_empty() && member.load.connections() == 0).then_some(())
        })
        .await;
    }
}

/// 29: 200 orders for 52 places.
async fn a_full_server_refuses_at_once_and_does_what_it_took(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    // Work may take eight places of ten: the rest are for reports and control.
    let admission = AdmissionLimits { calls: 65, ..AdmissionLimits::default() };
    let limits = Limits { admission, ..Limits::default() };
    let member = world.member_with(SERVICE, "a", Spec { limits, ..Spec::default() }).await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    ping(&channel, "x").await.unwrap();
    let orders: Vec<_> = (0..200).map(|number| format!("hold {number}")).collect();
    let refused = AtomicUsize::new(0);
    let order = async |order| {
        let answer = work(&channel, order).await;
        refused.fetch_add(usize::from(answer.is_err()), Ordering::Relaxed);
        answer
    };
    // Not before all who are refused know it is there a free place again.
    let release = async {
        until("the rest are refused", || async { (refused.load(Ordering::Relaxed) == 148).then_some(()) })
            .await;
        member.fake.release_all();
    };
    let (answers, ()) = tokio::join!(join_all(orders.iter().map(|text| order(text))), release);
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((accepted.len(), refused.len()), (52, 148));
    for answer in refused {
        assert_eq!(verdict(answer), ("not executed", Some(Reason::Overloaded)));
    }
    let done: BTreeSet<_> = member.fake.executed().into_iter().filter(|order| order != "x").collect();
    assert_eq!(done.len(), 52, "each once");
}

/// 30.
async fn a_command_for_an_earlier_incarnation_is_refused(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let first = world.member(SERVICE, "a").await;
    let (old, addr) = (first.registration.epoch(), first.addr.clone());
    work(&to(&peers, &first).at(old), "x").await.unwrap();
    first.kill();
    let listener = until("the port is free", || async { TcpListener::bind(&addr).await.ok() }).await;
    let second = world.member_on(listener, SERVICE, "a", Spec::default()).await;
    let new = second.registration.epoch();
    assert!(new > old);
    let channel = to(&peers, &second).wait_for_ready();
    until("it is called again", || async { ping(&channel, "x").await.ok() }).await;
    let before = second.fake.began().len();
    assert_eq!(verdict(work(&channel.clone().at(old), "stale").await), ("refused", Some(Reason::StaleEpoch)));
    assert_eq!(second.fake.began().len(), before);
    work(&channel.at(new), "fresh").await.unwrap();
    until_ready(&peers, &second.host, true).await;
}
