//! etcd away while members restart under it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::Revision;
use kilonova_rpc::registry::Registration;
use kilonova_rpc::server::Limits;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::echo::Order;
use kilonova_tests::process::Process;
use kilonova_tests::waiting::{at_this_pace, until};
use tokio::time::{Instant, sleep};

use crate::load::{Calls, Load};
use crate::support::{Cell, Member, SERVICE, ready, start};

const MEMBERS: usize = 8;
const TTL: Duration = Duration::from_secs(2);

/// How long etcd is away: two minutes where there is time for it.
fn outage() -> Duration {
    Duration::from_secs(if std::env::var_os("KILONOVA_LONG").is_some() { 120 } else { 6 })
}

const PROCESS: &str = "process";

fn name(number: usize) -> String {
    format!("member-{number}")
}

async fn revision(cell: &Cell) -> Revision {
    until("etcd answers", || async { cell.store.get("nothing").await.ok() }).await.1
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_while_etcd_is_away_and_members_restart_under_it() {
    let Some(mut etcd) = EtcdProcess::start().await.unwrap() else { return };
    let second = Duration::from_secs(1);
    let options = EtcdOptions {
        endpoints: vec![etcd.endpoint()],
        keep_alive_interval: second,
        keep_alive_timeout: second,
        call_deadline: second,
        reconnect_pause: second,
        ..Default::default()
    };
    let cell = Cell::over(Arc::new(EtcdStore::connect(options).await.unwrap()));
    let (mut members, mut registrations) = (Vec::new(), Vec::new());
    for number in 0..MEMBERS {
        let member = Member::start(&name(number)).await;
        registrations.push(cell.register_for(&name(number), &member.addr, TTL).await);
        members.push(Some(member));
    }
    let dir = tempfile::Builder::new().prefix("kilonova-outage-").tempdir().unwrap();
    let mut process = process(&etcd, dir.path(), "127.0.0.1:0").await;
    let known = cell.registry.members(SERVICE);
    let peers = cell.peers();
    let load = Load::start(8, &peers.call(SERVICE), Calls::Idempotent, Order::Wait(Duration::from_millis(2)));
    ready(&peers, MEMBERS + 1).await;
    until("the process knows itself", || async { dir.path().join("snapshot").is_file().then_some(()) }).await;
    let before = revision(&cell).await;

    etcd.kill().unwrap();
    let killed = Instant::now();
    until("the outage shows", || async { (!known.stale_for().is_zero()).then_some(()) }).await;
    let addr = process.addr().to_owned();
    process.kill().await.unwrap();
    process = self::process(&etcd, dir.path(), &addr).await;
    load.more_of(PROCESS, 20).await;
    println!("a process was killed and answers again after {:?}", killed.elapsed());
    let mut number = 0;
    // Each at least once, however slow the machine is.
    while killed.elapsed() < outage() || number < MEMBERS {
        restart(&mut members[number % MEMBERS], &name(number % MEMBERS), number % 2 == 0).await;
        load.more_of(&name(number % MEMBERS), 20).await;
        number += 1;
    }
    println!("{number} restarts while etcd was away for {:?}", killed.elapsed());
    let stale = known.stale_for();
    assert!(
        stale + at_this_pace(Duration::from_secs(4)) > killed.elapsed(),
        "{stale:?} of {:?}",
        killed.elapsed()
    );
    assert_eq!(known.current().members.len(), MEMBERS + 1);
    etcd.restart().await.unwrap();
    let back = Instant::now();
    until("the registry is followed again", || async { known.stale_for().is_zero().then_some(()) }).await;
    println!("followed {:?} after etcd came back", back.elapsed());
    settled(&cell, &registrations, before).await;

    // Frozen for longer than leases live: every member has to register again.
    let (before, epochs) = (revision(&cell).await, epochs(&registrations));
    etcd.pause().unwrap();
    sleep(TTL * 2).await;
    etcd.resume().unwrap();
    until("every member has registered again", || async {
        let now = self::epochs(&registrations);
        now.iter().zip(&epochs).all(|(now, then)| now > then).then_some(())
    })
    .await;
    settled(&cell, &registrations, before).await;
    ready(&peers, MEMBERS + 1).await;
    load.more_of(PROCESS, 20).await;
    assert_eq!(process.addr(), addr);
    for number in 0..MEMBERS {
        load.more_of(&name(number), 20).await;
    }
    load.stop().await.nothing_failed();
}

/// A member that keeps what it knows, so that it can start while etcd is away.
async fn process(etcd: &EtcdProcess, dir: &Path, listen: &str) -> Process {
    let (etcd, snapshot) = (etcd.endpoint(), dir.join("snapshot"));
    let place = ["--service", SERVICE.as_str(), "--host", PROCESS, "--listen", listen, "--etcd", &etcd];
    start(&[&place[..], &["--snapshot", snapshot.to_str().unwrap(), "--echo"]].concat()).await
}

fn epochs(registrations: &[Registration]) -> Vec<u64> {
    registrations.iter().map(|registration| registration.epoch().0).collect()
}

/// Waits until the registry is whole and nobody writes any more; that took few writes.
async fn settled(cell: &Cell, registrations: &[Registration], before: Revision) {
    let known = cell.registry.members(SERVICE);
    until("every member is registered as what it is", || async {
        let set = known.current();
        let as_said = |(number, registration): (usize, &Registration)| {
            set.get(&crate::support::host(&name(number)))
                .is_some_and(|member| member.epoch == registration.epoch())
        };
        registrations.iter().enumerate().all(as_said).then_some(())
    })
    .await;
    // A whole renewal by each.
    sleep(TTL / 2).await;
    let writes = revision(cell).await.0 - before.0;
    println!("{writes} writes");
    // A lease that ended and a put, of each; the process puts what became of it.
    assert!(writes <= 2 * (MEMBERS as u64 + 1), "{writes} writes of {MEMBERS} members and a process");
}

/// One member again on the port it had, after a stop in good order or a crash.
async fn restart(slot: &mut Option<Member>, name: &str, in_good_order: bool) {
    let Member { addr, server, .. } = slot.take().unwrap();
    if in_good_order {
        server.stop(Duration::from_secs(5)).await;
    } else {
        drop(server);
    }
    let again = until("the port is free", || async {
        let free = tokio::net::TcpListener::bind(&addr).await;
        free.ok().map(drop)
    });
    again.await;
    *slot = Some(Member::limited(name, &addr, Limits::default()).await);
}
