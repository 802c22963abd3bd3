//! From a registration to the last of many clients that sees it, against bare watches of the same put.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions};
use futures::StreamExt;
use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_rpc::registry::{Endpoint, Registry, RegistryOptions};
use kilonova_store::embedded::EmbeddedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_store::{Keys, SharedStore, WatchEvent, WatchFrom};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::{Size, line, summary};

const SERVICE: ServiceKind = ServiceKind::Scheduler;

/// Who saw a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eye {
    Registry,
    Bare,
}

type Sightings = mpsc::UnboundedSender<(Eye, Instant)>;

fn cell() -> CellName {
    CellName::parse("bench").expect("a cell name")
}

fn host(number: usize) -> HostName {
    HostName::parse(&format!("member-{number}")).expect("a host name")
}

/// Every client has a connection of its own, and so has every bare watch.
pub async fn over_etcd(size: Size, etcd: &EtcdProcess) {
    let mut watching = JoinSet::new();
    let (sightings, seen) = mpsc::unbounded_channel();
    for _ in 0..size.clients {
        follow(&mut watching, Registry::new(connect(etcd).await, cell()), size, sightings.clone()).await;
        watch_etcd(&mut watching, etcd, sightings.clone()).await;
    }
    let registry = Registry::new(connect(etcd).await, cell());
    let baseline = "an etcd-client watch of the same prefix, as many, each on a connection of its own";
    measure("etcd", baseline, registry, size, seen).await;
}

/// All clients share the one store, as they do in one process.
pub async fn over_embedded(size: Size) {
    let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().expect("a store"));
    let mut watching = JoinSet::new();
    let (sightings, seen) = mpsc::unbounded_channel();
    for _ in 0..size.clients {
        follow(&mut watching, Registry::new(store.clone(), cell()), size, sightings.clone()).await;
        watch_store(&mut watching, &store, sightings.clone());
    }
    let registry = Registry::new(store, cell());
    measure("embedded", "a watch of the store of the same prefix, as many", registry, size, seen).await;
}

pub async fn connect(etcd: &EtcdProcess) -> SharedStore {
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..Default::default() };
    Arc::new(EtcdStore::connect(options).await.expect("etcd answers"))
}

async fn follow(watching: &mut JoinSet<()>, registry: Registry, size: Size, sightings: Sightings) {
    let members = registry.members(SERVICE);
    members.known().await;
    watching.spawn(async move {
        let mut sets = registry.members(SERVICE).subscribe();
        for number in 0..size.registrations {
            let host = host(number);
            let seen = sets.wait_for(|set| set.get(&host).is_some()).await;
            if seen.is_err() || sightings.send((Eye::Registry, Instant::now())).is_err() {
                return;
            }
        }
    });
}

async fn watch_etcd(watching: &mut JoinSet<()>, etcd: &EtcdProcess, sightings: Sightings) {
    let mut client = Client::connect([etcd.endpoint()], None).await.expect("a client");
    let options = WatchOptions::new().with_prefix();
    let prefix = Keys::new(&cell()).endpoints(SERVICE);
    let mut stream = client.watch(prefix, Some(options)).await.expect("a watch");
    watching.spawn(async move {
        let _client = client;
        while let Ok(Some(message)) = stream.message().await {
            for event in message.events() {
                if event.event_type() == EventType::Put
                    && sightings.send((Eye::Bare, Instant::now())).is_err()
                {
                    return;
                }
            }
        }
    });
}

fn watch_store(watching: &mut JoinSet<()>, store: &SharedStore, sightings: Sightings) {
    let mut events = store.watch(&Keys::new(&cell()).endpoints(SERVICE), WatchFrom::Snapshot);
    watching.spawn(async move {
        while let Some(event) = events.next().await {
            if matches!(event, WatchEvent::Put(_)) && sightings.send((Eye::Bare, Instant::now())).is_err() {
                return;
            }
        }
    });
}

async fn measure(
    store: &str,
    baseline: &str,
    registry: Registry,
    size: Size,
    mut seen: mpsc::UnboundedReceiver<(Eye, Instant)>,
) {
    let (mut ours, mut bare, mut puts, mut after) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut registered = Vec::new();
    for number in 0..size.registrations {
        let endpoint = Endpoint {
            service: SERVICE,
            host: host(number),
            addr: format!("127.0.0.1:{}", 10_000 + number),
            zone: ZoneName::parse("zone-1").expect("a zone name"),
            minor: 0,
            authority: None,
        };
        let begun = Instant::now();
        // Long leases: nothing but the registrations is to be seen.
        let options = RegistryOptions { ttl: Duration::from_secs(3600) };
        registered.push(registry.register(endpoint, options).await.expect("registered"));
        let done = Instant::now();
        puts.push(done - begun);
        let (mut last_ours, mut last_bare) = (begun, begun);
        for _ in 0..2 * size.clients {
            let (eye, at) = seen.recv().await.expect("a sighting");
            let last = if eye == Eye::Registry { &mut last_ours } else { &mut last_bare };
            *last = (*last).max(at);
        }
        ours.push(last_ours - begun);
        after.push(last_ours.saturating_duration_since(done));
        bare.push(last_bare - begun);
    }
    line(
        &format!(
            "a registration, from its beginning until the last of {} clients sees it, {store}",
            size.clients
        ),
        json!({
            "rounds": size.registrations,
            "last_client": summary(ours),
            "baseline": baseline,
            "baseline_last": summary(bare),
            "registering_took": summary(puts),
            "last_client_after_registered": summary(after),
        }),
    );
}
