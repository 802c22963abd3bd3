//! Who is called: ready members only, wherever they are.

use std::time::Duration;

use kilonova_model::{Reason, ServiceKind};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::Channel;
use kilonova_rpc::status::reason_of;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};
use tonic::service::Routes;
use tonic::{Code, Status};

use crate::support::{
    Cell, PATIENCE, Server, dead_addr, host, peer_until, ping, ping_until, ping_with, soon,
};

const SERVICE: ServiceKind = ServiceKind::Conductor;

#[tokio::test]
async fn a_dead_member_costs_no_call() {
    let cell = Cell::new();
    let live = Server::echo("live").await;
    let _live = cell.register(SERVICE, "live", &live.addr).await;
    let _dead = cell.register(SERVICE, "dead", &dead_addr().await).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    channel.wait_ready(soon()).await.unwrap();
    for _ in 0..200 {
        assert_eq!(ping(&channel).await.unwrap(), "live");
    }
    peer_until(&peers, "dead", |ready, why| !ready && why.contains("refused")).await;
}

/// The failure of a call, which comes within 100 ms. The fastest of a few counts: the machine may be busy.
async fn fails_fast(channel: &Channel) -> Status {
    let mut fastest = PATIENCE;
    let mut last = None;
    for _ in 0..5 {
        let start = Instant::now();
        last = Some(ping(channel).await.unwrap_err());
        fastest = fastest.min(start.elapsed());
    }
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    last.unwrap()
}

#[tokio::test]
async fn nobody_to_call_is_said_at_once_and_why() {
    let cell = Cell::new();
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    let _ = cell.registry.members(SERVICE).known().await;
    let status = fails_fast(&channel).await;
    assert_eq!((status.code(), reason_of(&status)), (Code::Unavailable, Some(Reason::NoEndpoint)));
    assert_eq!(status.message(), "no ready conductor; 0 known");

    let addr = dead_addr().await;
    let _dead = cell.register(SERVICE, "dead", &addr).await;
    peer_until(&peers, "dead", |_, why| why.contains("refused")).await;
    let status = fails_fast(&channel).await;
    let expected = format!("no ready conductor; 1 known: dead ({addr}) cannot connect: Connection refused");
    assert!(status.message().starts_with(&expected), "{}", status.message());
    assert!(matches!(classify(status), CallError::NotExecuted(_)));
}

#[tokio::test]
async fn the_first_call_waits_for_the_first_connection() {
    let cell = Cell::new();
    let live = Server::echo("live").await;
    let _live = cell.register(SERVICE, "live", &live.addr).await;
    assert_eq!(ping(&cell.peers().call(SERVICE)).await.unwrap(), "live");
}

#[tokio::test]
async fn a_black_hole_delays_nobody() {
    let cell = Cell::new();
    let live = Server::echo("live").await;
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _hole = cell.register(SERVICE, "hole", &hole.local_addr().unwrap().to_string()).await;
    let _live = cell.register(SERVICE, "live", &live.addr).await;
    let peers = cell.peers_with(|options| options.connect_timeout = PATIENCE);
    let channel = peers.call(SERVICE);
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(ping(&channel).await.unwrap(), "live");
    }
    assert!(start.elapsed() < PATIENCE / 4, "{:?}", start.elapsed());
    peer_until(&peers, "hole", |ready, why| !ready && why == "connecting").await;
}

#[tokio::test]
async fn only_members_that_serve_get_calls() {
    let cell = Cell::new();
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    b.set_serving(false).await;
    let _a = cell.register(SERVICE, "a", &a.addr).await;
    let _b = cell.register(SERVICE, "b", &b.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    peer_until(&peers, "b", |_, why| why == "not serving").await;
    channel.wait_ready(soon()).await.unwrap();
    for _ in 0..50 {
        assert_eq!(ping(&channel).await.unwrap(), "a");
    }
    b.set_serving(true).await;
    ping_until(&channel, |answers| answers.contains_key("b")).await;
    a.set_serving(false).await;
    peer_until(&peers, "a", |_, why| why == "not serving").await;
    for _ in 0..50 {
        assert_eq!(ping(&channel).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn a_member_without_a_health_service_serves() {
    let cell = Cell::new();
    let server = Server::start(Routes::default(), false).await;
    let _server = cell.register(SERVICE, "plain", &server.addr).await;
    cell.peers().call(SERVICE).wait_ready(soon()).await.unwrap();
}

#[tokio::test]
async fn a_draining_member_gets_no_new_calls() {
    let cell = Cell::new();
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let a_registration = cell.register(SERVICE, "a", &a.addr).await;
    let _b = cell.register(SERVICE, "b", &b.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ping_until(&channel, |answers| answers.len() == 2).await;
    a_registration.set_draining().await.unwrap();
    peer_until(&peers, "a", |_, why| why == "draining").await;
    for _ in 0..50 {
        assert_eq!(ping(&channel).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn who_left_the_registry_is_called_only_while_it_serves() {
    let cell = Cell::new();
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let gone = cell.register(SERVICE, "a", &a.addr).await;
    let _b = cell.register(SERVICE, "b", &b.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ping_until(&channel, |answers| answers.len() == 2).await;
    gone.deregister().await.unwrap();
    let mut sets = cell.registry.members(SERVICE).subscribe();
    let left = sets.wait_for(|set| set.get(&host("a")).is_none());
    drop(timeout(PATIENCE, left).await.unwrap().unwrap());
    a.set_serving(false).await;
    let let_go = async {
        while peers.states().iter().any(|peer| peer.host == host("a")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, let_go).await.unwrap();
    assert_eq!(ping(&channel).await.unwrap(), "b");
}

#[tokio::test]
async fn a_killed_member_loses_its_calls_and_no_others() {
    let cell = Cell::new();
    let (a, b) = (Server::echo("a").await, Server::echo("b").await);
    let _a = cell.register(SERVICE, "a", &a.addr).await;
    let _b = cell.register(SERVICE, "b", &b.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ping_until(&channel, |answers| answers.len() == 2).await;
    let to_a = peers.call_host(SERVICE, &host("a"));
    assert_eq!(ping(&to_a).await.unwrap(), "a");
    let before = a.callers.lock().len();
    let hanging = ping_with(&to_a, "hang");
    let killer = async {
        while a.callers.lock().len() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        a.kill();
    };
    let (lost, ()) = tokio::join!(hanging, killer);
    let lost = lost.unwrap_err();
    assert_eq!(reason_of(&lost), Some(Reason::ConnectionLost), "{lost}");
    assert!(matches!(classify(lost), CallError::MaybeExecuted(_)));
    peer_until(&peers, "a", |ready, _| !ready).await;
    for _ in 0..50 {
        assert_eq!(ping(&channel).await.unwrap(), "b");
    }
}

#[tokio::test]
async fn a_directed_channel_follows_its_host() {
    let cell = Cell::new();
    let peers = cell.peers();
    let channel = peers.call_host(ServiceKind::Compute, &host("node-1"));
    let status = ping(&channel).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::NoSuchHost));
    assert_eq!(status.message(), "no compute is registered as node-1");

    let first = Server::echo("first").await;
    let registration = cell.register(ServiceKind::Compute, "node-1", &first.addr).await;
    channel.wait_ready(soon()).await.unwrap();
    assert_eq!(ping(&channel).await.unwrap(), "first");

    let second = Server::echo("second").await;
    let old_epoch = registration.epoch();
    registration.deregister().await.unwrap();
    let registration = cell.register(ServiceKind::Compute, "node-1", &second.addr).await;
    assert!(registration.epoch() > old_epoch);
    ping_until(&channel, |answers| answers.contains_key("second")).await;
    first.kill();
    for _ in 0..20 {
        assert_eq!(ping(&channel).await.unwrap(), "second");
    }
    second.kill();
    let failed = async {
        loop {
            if let Err(status) = ping(&channel).await
                && reason_of(&status) == Some(Reason::ConnectFailed)
            {
                return status;
            }
        }
    };
    let status = timeout(PATIENCE, failed).await.unwrap();
    assert!(matches!(classify(status), CallError::NotExecuted(_)));
}

#[tokio::test]
async fn idle_and_surplus_directed_connections_are_closed() {
    let cell = Cell::new();
    let server = Server::echo("one").await;
    let mut registrations = Vec::new();
    for name in ["n1", "n2", "n3"] {
        registrations.push(cell.register(ServiceKind::Compute, name, &server.addr).await);
    }
    let peers = cell.peers_with(|options| options.max_directed = 2);
    for name in ["n1", "n2", "n3"] {
        ping(&peers.call_host(ServiceKind::Compute, &host(name))).await.unwrap();
    }
    let kept: Vec<_> = peers.states().into_iter().map(|peer| peer.host).collect();
    assert_eq!(kept, [host("n2"), host("n3")]);

    let peers = cell.peers_with(|options| options.idle_timeout = Duration::from_millis(40));
    ping(&peers.call_host(ServiceKind::Compute, &host("n1"))).await.unwrap();
    let closed = async {
        while !peers.states().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, closed).await.unwrap();
    ping(&peers.call_host(ServiceKind::Compute, &host("n1"))).await.unwrap();
}

#[tokio::test]
async fn the_callee_learns_who_calls() {
    let cell = Cell::new();
    let server = Server::echo("s").await;
    let _s = cell.register(SERVICE, "s", &server.addr).await;
    ping(&cell.peers().call(SERVICE)).await.unwrap();
    assert_eq!(*server.callers.lock(), [Some(Caller::new(ServiceKind::Api, host("api-1")))]);
}

#[tokio::test]
async fn malformed_records_are_skipped() {
    let cell = Cell::new();
    let server = Server::echo("s").await;
    let key = "kilonova/v1/test/endpoints/conductor/broken";
    cell.store.txn(kilonova_store::Txn::new().put(key, "10.0.0.1:1")).await.unwrap();
    let _s = cell.register(SERVICE, "s", &server.addr).await;
    assert_eq!(ping(&cell.peers().call(SERVICE)).await.unwrap(), "s");
    let set = cell.registry.members(SERVICE).current();
    assert_eq!(set.members.keys().collect::<Vec<_>>(), [&host("s")]);
}

#[tokio::test]
async fn one_of_many_callers_uses_a_few_members_and_a_stand_in_only_while_it_must() {
    let cell = Cell::new();
    let mut servers = Vec::new();
    let mut registrations = Vec::new();
    for name in ["c1", "c2", "c3", "c4"] {
        let server = Server::echo(name).await;
        registrations.push(cell.register(SERVICE, name, &server.addr).await);
        servers.push((name, server));
    }
    let peers = cell.peers_with(|options| {
        let _ = options.subset.insert(SERVICE, 2);
    });
    let channel = peers.call(SERVICE);
    ping_until(&channel, |answers| answers.len() == 2).await;
    let used = || peers.states().into_iter().map(|peer| peer.host.to_string()).collect::<Vec<_>>();
    let until = async |wanted: &dyn Fn(&[String]) -> bool| {
        let look = async {
            while !wanted(&used()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(timeout(PATIENCE, look).await.is_ok(), "{:?}", used());
    };
    let first = used();
    assert_eq!(first.len(), 2);
    let (_, down) = servers.iter().find(|(name, _)| *name == first[0]).unwrap();
    down.set_serving(false).await;
    until(&|used| used.len() == 3 && used.contains(&first[0])).await;
    ping_until(&channel, |answers| answers.keys().any(|host| !first.contains(host))).await;
    down.set_serving(true).await;
    until(&|used| used == first).await;
}
