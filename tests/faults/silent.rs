//! Endpoints that take no connection, and such that take one and say nothing.

use std::net::SocketAddr;
use std::time::Duration;

use kilonova_model::Reason;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_tests::echo::Order;
use kilonova_tests::waiting::at_this_pace;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use crate::load::{Calls, Load, call};
use crate::support::{Cell, Member, SERVICE, host, member_until, ready};

/// How long connecting may take here.
const CONNECT: Duration = Duration::from_millis(500);

/// A listener whose backlog is full: the kernel drops every further SYN.
struct BlackHole {
    listener: TcpListener,
    _filling: Vec<TcpStream>,
}

impl BlackHole {
    async fn dig() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let (addr, mut filling) = (listener.local_addr().unwrap(), Vec::new());
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            filling.push(stream.unwrap());
            assert!(filling.len() < 100, "the backlog is never full");
        }
        Self { listener, _filling: filling }
    }

    fn addr(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }
}

/// Calls go to the live one only, and never wait for the silent one; a call to that one by name says so in time.
async fn a_silent_one_holds_nobody_up(silent: &str) {
    let cell = Cell::new();
    let live = Member::start("live").await;
    let _live = cell.register("live", &live.addr).await;
    let _silent = cell.register("silent", silent).await;
    let peers = cell.peers_with(|options| options.connect_timeout = CONNECT);
    let channel = peers.call(SERVICE);
    ready(&peers, 1).await;
    let load = Load::start(8, &channel, Calls::Once, Order::Answer);
    member_until(&peers, "live", true).await;

    let start = Instant::now();
    let status = call(&peers.call_host(SERVICE, &host("silent")), Order::Answer).await.unwrap_err();
    assert!(start.elapsed() < at_this_pace(CONNECT * 4), "{:?}", start.elapsed());
    let CallError::NotExecuted(status) = classify(status) else { panic!("it was never sent") };
    assert_eq!(CallError::NotExecuted(status.clone()).reason(), Some(Reason::ConnectFailed), "{status}");

    load.more_of("live", 1000).await;
    let tally = load.stop().await;
    tally.nothing_failed();
    assert!(tally.slowest < CONNECT, "{:?}", tally.slowest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_holds_nobody_up() {
    let hole = BlackHole::dig().await;
    a_silent_one_holds_nobody_up(&hole.addr()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_never_accepts_holds_nobody_up() {
    // The kernel completes the handshake, and nobody takes the connection.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    a_silent_one_holds_nobody_up(&listener.local_addr().unwrap().to_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_accepts_and_never_answers_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let accepting = async {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    };
    tokio::select! {
        () = accepting => unreachable!("it accepts for ever"),
        () = a_silent_one_holds_nobody_up(&addr) => {}
    }
}
