//! The processes: one that publishes as many hosts, as fast as the store says, and one that is a scheduler.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_runtime::service::Launch;
use kilonova_store::{SharedStore, Txn};
use kilonova_tests::cluster::connected;
use kilonova_tests::process::Process;
use kilonova_tests::publishers;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

/// Where it stands how many changes a second each publishing process makes.
const RATE: &str = "bench/rate";
/// How often that is read.
const LOOK: Duration = Duration::from_millis(100);

/// The cell of all of them.
pub fn cell() -> CellName {
    CellName::parse("bench").expect("a cell name")
}

fn program() -> PathBuf {
    std::env::current_exe().expect("this program")
}

/// The child that publishes.
pub async fn publish(etcd: &str, first: &str, count: &str) {
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let store = connected(etcd.to_owned()).await;
    println!("{first}");
    let numbers = number(first)..number(first) + number(count);
    let publishers = publishers::start(&store, &cell(), numbers).await.expect("all are registered");
    let mut rate = 0;
    loop {
        let read = tokio::select! {
            () = publishers::publish(&publishers, rate) => continue,
            read = changed(&store, rate) => read,
        };
        rate = read;
    }
}

/// The rate once it is another.
async fn changed(store: &SharedStore, rate: u32) -> u32 {
    loop {
        tokio::time::sleep(LOOK).await;
        let (read, _) = store.get(RATE).await.expect("the store answers");
        let text = read.map(|read| String::from_utf8_lossy(&read.value).into_owned());
        let read = text.and_then(|text| text.parse().ok()).unwrap_or_default();
        if read != rate {
            return read;
        }
    }
}

/// Has each publishing process make so many changes a second.
pub async fn set_rate(store: &SharedStore, rate: u32) {
    store.txn(Txn::new().put(RATE, rate.to_string())).await.expect("the store answers");
    tokio::time::sleep(LOOK * 2).await;
}

/// The child that is a scheduler.
pub async fn schedule(etcd: &str, host: &str, address: &str) {
    let launch = Launch {
        service: ServiceKind::Scheduler,
        host: HostName::parse(host).expect("a host name"),
        cell: cell(),
        zone: ZoneName::parse("zone-1").expect("a zone name"),
        store: connected(etcd.to_owned()).await,
        listener: TcpListener::bind(address).await.expect("the port is free"),
        http: None,
        advertise: None,
        options: Default::default(),
    };
    let running = kilonova_scheduler::start(Default::default(), launch).await.expect("it starts");
    println!("{}", running.grpc_addr);
    running.wait().await;
}

/// A scheduler in a process of its own.
pub struct Scheduler {
    /// The process.
    pub process: Process,
    /// Its name in the system.
    pub pid: u32,
    /// The way to it.
    pub channel: Channel,
}

impl Scheduler {
    /// Starts it, at this address if it is to have a certain one. It serves, and need not be ready.
    pub async fn start(etcd: &str, host: &str, address: Option<SocketAddr>) -> Self {
        let address = address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string());
        let process = Process::start(&program(), &["schedule", etcd, host, &address]).await;
        let process = process.expect("a scheduler starts");
        let endpoint = Endpoint::from_shared(format!("http://{}", process.addr())).expect("an address");
        Self { pid: process.pid().expect("it runs"), channel: endpoint.connect_lazy(), process }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.process.addr().parse().expect("an address")
    }
}

/// Starts the processes that publish, each with so many hosts. They register one after the other.
pub async fn start_publishing(etcd: &str, processes: usize, each: usize) -> Vec<Process> {
    let starts = (0..processes).map(|number| async move {
        let (first, count) = ((number * each).to_string(), each.to_string());
        Process::start(&program(), &["publish", etcd, &first, &count]).await.expect("its hosts publish")
    });
    futures::future::join_all(starts).await
}
