//! A simulated network between a caller and two members: cut, healed, held. Time is simulated too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use kilonova_model::{CellName, Revision, ServiceKind};
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::Peers;
use kilonova_rpc::registry::Registry;
use kilonova_rpc::server::{Limits, Stopped};
use kilonova_rpc::transport::{BoxIo, Connect, Listen};
use kilonova_store::{
    KeyValue, Keys, LeaseId, Page, Store, StoreError, Txn, TxnOutcome, Watch, WatchEvent, WatchFrom,
    WatchHealth,
};
use kilonova_tests::echo::{Echo, Order};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use turmoil::net::{TcpListener, TcpStream};
use turmoil::{Builder, Sim};

use crate::load::{Calls, Load, Tally, call, call_once};
use crate::support::{SERVICE, host, quick};

const PORT: u16 = 7772;
const DEADLINE: Duration = Duration::from_millis(400);
const SETTLED: Duration = Duration::from_secs(3);

struct Network;

#[async_trait]
impl Connect for Network {
    async fn connect(&self, addr: &str) -> io::Result<BoxIo> {
        Ok(Box::new(TcpStream::connect(addr).await?))
    }
}

struct Listener(TcpListener);

#[async_trait]
impl Listen for Listener {
    async fn accept(&mut self) -> io::Result<(BoxIo, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A store that holds some keys for ever.
struct Fixed(Vec<KeyValue>);

impl Fixed {
    fn members(names: &[&str]) -> Self {
        let keys = Keys::new(&cell());
        let item = |name: &&str| KeyValue {
            key: keys.endpoint(SERVICE, &host(name)),
            value: format!(r#"{{"Op":0,"Addr":"{name}:{PORT}"}}"#).into(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            leased: true,
        };
        Self(names.iter().map(item).collect())
    }
}

fn never<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { message: "nothing changes here".to_owned() })
}

#[async_trait]
impl Store for Fixed {
    fn name(&self) -> &'static str {
        "fixed"
    }
    async fn get(&self, _: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        never()
    }
    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Page, StoreError> {
        never()
    }
    async fn txn(&self, _: Txn) -> Result<TxnOutcome, StoreError> {
        never()
    }
    fn watch(&self, _: &str, _: WatchFrom) -> Watch {
        let all = WatchEvent::Snapshot { items: self.0.clone(), revision: Revision(1), went_back: false };
        let events = futures::stream::iter([all]).chain(futures::stream::pending());
        Watch::new(events, watch::channel(WatchHealth::now(true)).1)
    }
    async fn grant_lease(&self, _: Duration) -> Result<LeaseId, StoreError> {
        never()
    }
    async fn keep_alive(&self, _: LeaseId) -> Result<(), StoreError> {
        never()
    }
    async fn revoke_lease(&self, _: LeaseId) -> Result<(), StoreError> {
        never()
    }
    fn went_back(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    async fn lineage(&self) -> Result<u64, StoreError> {
        never()
    }
    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        never()
    }
}

fn cell() -> CellName {
    CellName::parse("test").unwrap()
}

fn peers(members: &[&str]) -> Peers {
    let mut options = quick();
    options.transport = Arc::new(Network);
    options.keep_alive_interval = Duration::from_secs(1);
    options.keep_alive_timeout = Duration::from_millis(500);
    options.probe_timeout = Duration::from_millis(300);
    let registry = Registry::new(Arc::new(Fixed::members(members)), cell());
    Peers::new(registry, Caller::new(ServiceKind::Api, host("api-1")), options)
}

async fn listener() -> io::Result<Listener> {
    let anywhere = SocketAddr::from((IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT));
    Ok(Listener(TcpListener::bind(anywhere).await?))
}

fn empty_network(latency: Duration) -> Sim<'static> {
    Builder::new()
        .simulation_duration(Duration::from_secs(120))
        .min_message_latency(latency)
        .max_message_latency(latency * 3)
        .rng_seed(7)
        .build()
}

/// A network with these members on it.
fn network(members: &[&'static str]) -> Sim<'static> {
    let mut sim = empty_network(Duration::from_millis(1));
    for &name in members {
        sim.host(name, move || async move {
            let _server = Echo::new(name).serve(SERVICE, listener().await?, Limits::default());
            std::future::pending().await
        });
    }
    sim
}

/// What came since an earlier tally.
fn since(before: &Tally, now: &Tally, member: &str) -> (u64, usize) {
    (now.of(member) - before.of(member), now.failures.len() - before.failures.len())
}

#[test]
fn a_member_that_is_cut_off_is_left_alone_and_used_again_when_the_network_heals() {
    let mut sim = network(&["a", "b"]);
    sim.client("caller", async {
        let peers = peers(&["a", "b"]);
        let channel = peers.call(SERVICE).within(DEADLINE);
        channel.wait_ready(Instant::now() + SETTLED).await?;
        let load = Load::start(8, &channel, Calls::Idempotent, Order::Wait(Duration::from_millis(5)));
        sleep(SETTLED).await;
        let whole = load.so_far();
        whole.nothing_failed();
        assert!(whole.of("a") > 200 && whole.of("b") > 200, "{:?}", whole.answers);

        turmoil::partition("caller", "a");
        sleep(SETTLED).await;
        let noticed = load.so_far();
        assert!(noticed.failures.len() <= 8, "those under way at most: {}", noticed.failures.len());
        sleep(SETTLED).await;
        let cut = load.so_far();
        assert_eq!(since(&noticed, &cut, "a"), (0, 0), "{:?}", cut.failures.last());
        assert!(since(&noticed, &cut, "b").0 > 200);

        turmoil::repair("caller", "a");
        sleep(SETTLED).await;
        let healed = load.so_far();
        sleep(SETTLED).await;
        let settled = load.so_far();
        assert_eq!(settled.failures.len(), cut.failures.len(), "{:?}", settled.failures.last());
        assert!(since(&healed, &settled, "a").0 > 200, "{:?}", settled.answers);
        load.stop().await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_deadline_is_kept_while_the_network_holds_everything_back() {
    let mut sim = network(&["a"]);
    sim.client("caller", async {
        let peers = peers(&["a"]);
        let channel = peers.call(SERVICE).within(DEADLINE);
        channel.wait_ready(Instant::now() + SETTLED).await?;
        assert_eq!(call(&channel, Order::Answer).await?, "a");

        turmoil::hold("caller", "a");
        for _ in 0..20 {
            let start = Instant::now();
            let status = call(&channel, Order::Answer).await.unwrap_err();
            let took = start.elapsed();
            assert!(took <= DEADLINE + Duration::from_millis(5), "{took:?}: {status}");
            sleep(Duration::from_millis(50)).await;
        }
        turmoil::release("caller", "a");
        channel.wait_ready(Instant::now() + SETTLED).await?;
        assert_eq!(call(&channel.clone().wait_for_ready().within(SETTLED), Order::Answer).await?, "a");
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_call_on_its_way_while_the_server_stops_is_answered() {
    let mut sim = empty_network(Duration::from_millis(50));
    let stop = Arc::new(Notify::new());
    let told = stop.clone();
    sim.host("a", move || {
        let told = told.clone();
        async move {
            let echo = Echo::new("a");
            let server = echo.serve(SERVICE, listener().await?, Limits::default());
            told.notified().await;
            assert_eq!(echo.seen().calls(), 0, "it is still on its way");
            assert_eq!(server.stop(SETTLED).await, Stopped::Drained);
            std::future::pending().await
        }
    });
    sim.client("caller", async move {
        let peers = peers(&["a"]);
        let channel = peers.call(SERVICE);
        channel.wait_ready(Instant::now() + SETTLED).await?;
        let stopping = async {
            sleep(Duration::from_millis(5)).await;
            stop.notify_one();
        };
        // Longer than connections linger.
        let order = Order::Wait(Duration::from_secs(1));
        let (answer, ()) = tokio::join!(call_once(&channel, order), stopping);
        assert_eq!(answer?, "a");
        Ok(())
    });
    sim.run().unwrap();
}
