//! Members that die, or were never there, and members that leave in good order.

use std::time::Duration;

use kilonova_rpc::registry::Registration;
use kilonova_rpc::server::{Limits, Stopped};
use kilonova_tests::echo::Order;
use kilonova_tests::process::Process;

use crate::load::{Calls, Load};
use crate::support::{Cell, Member, SERVICE, member_until, process, ready};

const CALLERS: usize = 64;
const A_LITTLE_WORK: Order = Order::Wait(Duration::from_millis(5));

async fn three(cell: &Cell) -> (Vec<Process>, Vec<Registration>) {
    let (mut members, mut registrations) = (Vec::new(), Vec::new());
    for name in ["a", "b", "c"] {
        let member = process(name).await;
        registrations.push(cell.register(name, member.addr()).await);
        members.push(member);
    }
    (members, registrations)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_idempotent_call_fails_when_a_member_is_killed() {
    let cell = Cell::new();
    let (mut members, _registrations) = three(&cell).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ready(&peers, 3).await;
    let load = Load::start(CALLERS, &channel, Calls::Idempotent, A_LITTLE_WORK);
    load.more_of("b", 100).await;
    members.remove(1).kill().await.unwrap();
    member_until(&peers, "b", false).await;
    let at_the_others = load.so_far().of("b");
    load.more(1000).await;
    let tally = load.stop().await;
    tally.nothing_failed();
    assert!(tally.of("b") <= at_the_others + CALLERS as u64, "{tally:?}");
    assert!(tally.of("a") > 0 && tally.of("c") > 0, "{tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_calls_made_once_only_those_under_way_are_lost_with_a_member() {
    let cell = Cell::new();
    let (mut members, _registrations) = three(&cell).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ready(&peers, 3).await;
    let load = Load::start(CALLERS, &channel, Calls::Once, A_LITTLE_WORK);
    load.more_of("b", 100).await;
    members.remove(1).kill().await.unwrap();
    member_until(&peers, "b", false).await;
    load.more(CALLERS as u64).await;
    let noticed = load.so_far();
    assert!(noticed.failures.len() <= CALLERS, "{:?}", noticed.failures);
    load.more(1000).await;
    let tally = load.stop().await;
    assert_eq!(tally.failures.len(), noticed.failures.len(), "{:?}", tally.failures.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_nobody_listens_for_is_never_called() {
    let cell = Cell::new();
    let live = Member::start("live").await;
    let gone = Member::start("gone").await;
    gone.server.stop(Duration::ZERO).await;
    let _live = cell.register("live", &live.addr).await;
    let _gone = cell.register("gone", &gone.addr).await;
    let peers = cell.peers();
    let load = Load::start(8, &peers.call(SERVICE), Calls::Once, Order::Answer);
    load.more_of("live", 2000).await;
    load.stop().await.nothing_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_in_good_order_costs_no_call() {
    let cell = Cell::new();
    let stays = Member::start("stays").await;
    let _stays = cell.register("stays", &stays.addr).await;
    let mut goes = Member::start("goes").await;
    let _goes = cell.register("goes", &goes.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ready(&peers, 2).await;
    let idempotent = Load::start(CALLERS, &channel, Calls::Idempotent, A_LITTLE_WORK);
    let once = Load::start(CALLERS, &channel, Calls::Once, A_LITTLE_WORK);
    for _ in 0..5 {
        idempotent.more_of("goes", 100).await;
        let repeated = stays.seen.repeated();
        // Its registration stays: the connection's end is all that callers learn.
        assert_eq!(goes.server.stop(Duration::from_secs(5)).await, Stopped::Drained);
        idempotent.more_of("stays", 100).await;
        let repeated = stays.seen.repeated() - repeated;
        assert!(repeated <= 2 * CALLERS as u64, "one connection's calls at most: {repeated}");
        goes = Member::limited("goes", &goes.addr, Limits::default()).await;
    }
    idempotent.stop().await.nothing_failed();
    once.stop().await.nothing_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_asked_to_stop_costs_no_call() {
    let cell = Cell::new();
    let (mut members, _registrations) = three(&cell).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ready(&peers, 3).await;
    let load = Load::start(CALLERS, &channel, Calls::Once, A_LITTLE_WORK);
    for _ in 0..2 {
        load.more(500).await;
        assert!(members.remove(0).stop().await.unwrap().success());
    }
    load.more_of("c", 500).await;
    load.stop().await.nothing_failed();
}
