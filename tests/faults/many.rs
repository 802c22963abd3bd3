//! A thousand members that appear at once.

use std::time::Duration;

use kilonova_rpc::registry::Registry;
use kilonova_store::Txn;
use kilonova_tests::echo::Order;
use kilonova_tests::waiting::{at_this_pace, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::load::{Calls, Load};
use crate::support::{Cell, Member, SERVICE};

const MEMBERS: usize = 1000;
const SERVERS: usize = 4;

/// Both ends of every connection are in this process.
fn allow_many_files() {
    let allowed = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: allowed.maximum, ..allowed }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_members_at_once_are_seen_soon_and_hold_up_no_call() {
    allow_many_files();
    let cell = Cell::new();
    let mut servers = Vec::new();
    for number in 0..SERVERS {
        servers.push(Member::start(&format!("server-{number}")).await);
    }
    let _first = cell.register("server-0", &servers[0].addr).await;
    let peers = cell.peers();
    let another = Registry::new(cell.store.clone(), cell.registry.cell().clone());
    let follower = another.members(SERVICE);
    follower.known().await;
    let load = Load::start(8, &peers.call(SERVICE), Calls::Idempotent, Order::Answer);
    load.more(100).await;

    let keys = kilonova_store::Keys::new(cell.registry.cell());
    let start = Instant::now();
    for batch in 0..MEMBERS / 100 {
        let mut txn = Txn::new();
        for number in batch * 100..(batch + 1) * 100 {
            let (name, addr) = (format!("m{number:04}"), &servers[number % SERVERS].addr);
            let key = keys.endpoint(SERVICE, &crate::support::host(&name));
            txn = txn
                .put(key, format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":{{"host":"{name}","epoch":1}}}}"#));
        }
        cell.store.txn(txn).await.unwrap();
    }
    let written = start.elapsed();
    until("the follower sees them all", || async {
        (follower.current().members.len() == MEMBERS + 1).then_some(())
    })
    .await;
    let seen = start.elapsed();
    let ready = || peers.states().iter().filter(|peer| peer.ready).count();
    until("all are ready", || async { (ready() == MEMBERS + 1).then_some(()) }).await;
    println!("written after {written:?}, seen after {seen:?}, ready after {:?}", start.elapsed());
    assert!(seen - written < at_this_pace(Duration::from_secs(2)), "{:?}", seen - written);

    load.more(1000).await;
    let tally = load.stop().await;
    tally.nothing_failed();
    println!("slowest call: {:?}", tally.slowest);
    assert!((0..SERVERS).all(|number| tally.of(&format!("server-{number}")) > 0), "{:?}", tally.answers);
}
