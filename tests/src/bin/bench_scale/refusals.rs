//! How often a host refuses what it was promised for, at 70 % full and under bursts, with the defaults.

use std::time::Duration;

use futures::{StreamExt, stream};
use kilonova_model::CellName;
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_tests::measure::{line, millis, rounded};
use kilonova_tests::{Api, Backing, Cluster, Plan};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio::time::Instant;

/// Hosts of 64 CPUs and 256 GiB.
const HOSTS: usize = 200;
const HOST_RAM_MIB: u32 = 262_144;
/// How full of all memory it is before each burst.
const FULL: f64 = 0.7;
/// Asked at once.
const BURST: usize = 200;
/// Of a hundred instances: how many, with how many CPUs and MiB.
const FLAVORS: [(u32, &str, u32, u32); 5] = [
    (45, "f1", 1, 2_048),
    (25, "f2", 2, 4_096),
    (15, "f4", 4, 16_384),
    (10, "f8", 8, 32_768),
    (5, "f16", 16, 65_536),
];
/// How long a build may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn measure(quick: bool) {
    let bursts = if quick { 2 } else { 10 };
    for schedulers in [1, 2, 4] {
        with(schedulers, 1, bursts).await;
    }
    // The same with places drawn from several of the best.
    with(4, 10, bursts).await;
}

fn plan(schedulers: usize, subset_size: usize) -> Plan {
    let base = Plan::new(Backing::Embedded);
    let mut plan = Plan { schedulers, computes: HOSTS, volumes: 0, ..base };
    plan.compute.driver.latency = Duration::ZERO.into();
    plan.compute.driver.latency_jitter = Duration::ZERO.into();
    plan.compute.driver.vcpus = 64;
    plan.compute.driver.ram_mib = HOST_RAM_MIB;
    plan.compute.driver.disk_gib = 4_000;
    plan.scheduler = kilonova_scheduler::Config::default();
    plan.scheduler.hosts.subset_size = subset_size;
    plan
}

async fn with(schedulers: usize, subset_size: usize, bursts: usize) {
    let Some((store, _)) = Backing::Embedded.open().await else { return };
    let cell = CellName::parse("bench").expect("a cell name");
    let cluster = Cluster::over(plan(schedulers, subset_size), store, cell).await;
    let api = cluster.api();
    api.seed().await;
    for (_, id, vcpus, ram_mib) in FLAVORS {
        let flavor = pb::Flavor { id: id.into(), vcpus, ram_mib, disk_gib: 20, ..Default::default() };
        let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
        api.flavors().create_flavor(request).await.expect("the flavor is created");
    }
    let mut rng = StdRng::seed_from_u64(7);
    let mut wanted = (HOSTS as f64 * f64::from(HOST_RAM_MIB) * FULL) as u64;
    let mut filling = Vec::new();
    while wanted > 0 {
        let (id, ram_mib) = draw(&mut rng);
        wanted = wanted.saturating_sub(ram_mib.into());
        filling.push(id);
    }
    built(&api, &filling).await;

    let (mut placed, mut refused, mut failed, mut took) = (0, 0, 0, Duration::ZERO);
    for _ in 0..bursts {
        let burst: Vec<&str> = (0..BURST).map(|_| draw(&mut rng).0).collect();
        let start = Instant::now();
        let instances = built(&api, &burst).await;
        took += start.elapsed();
        placed += instances.len();
        failed += instances.iter().filter(|one| one.state() == State::Error).count();
        let attempts = instances.iter().flat_map(|one| &one.failed_attempts);
        refused += attempts.filter(|fault| fault.reason == "CLAIM_REFUSED").count();
        removed(&api, &instances).await;
    }
    line(
        "claims that hosts refuse, of all placements",
        json!({
            "hosts": HOSTS,
            "full": FULL,
            "schedulers": schedulers,
            "subset_size": subset_size,
            "burst": BURST,
            "placements": placed,
            "refused": refused,
            "refused_percent": rounded(refused as f64 * 100.0 / placed as f64),
            "ended_in_error": failed,
            "burst_ms": millis(took / u32::try_from(bursts).unwrap_or(u32::MAX)),
            "must": "refused_percent < 1 with subset_size 1, the default",
        }),
    );
    cluster.shutdown().await;
}

fn draw(rng: &mut StdRng) -> (&'static str, u32) {
    let mut drawn = rng.random_range(0..100);
    for (part, id, _, ram_mib) in FLAVORS {
        if drawn < part {
            return (id, ram_mib);
        }
        drawn -= part;
    }
    unreachable!("the parts are a hundred")
}

/// Creates all of them at once, as many as a burst, and waits until each is built or has failed.
async fn built(api: &Api, flavors: &[&str]) -> Vec<pb::Instance> {
    let build = |flavor: &&str| {
        let flavor = (*flavor).to_owned();
        async move {
            let id = api.create("burst", &flavor, 1).await.expect("it is accepted").remove(0);
            until(api, &id, &[State::Active, State::Error]).await
        }
    };
    stream::iter(flavors.iter().map(build)).buffer_unordered(BURST).collect().await
}

/// Removes them, so that the next burst meets the same cell.
async fn removed(api: &Api, instances: &[pb::Instance]) {
    let remove = |instance: &pb::Instance| {
        let id = instance.id.clone();
        async move {
            api.delete(&id).await.expect("the delete is accepted");
            until(api, &id, &[State::Deleted]).await;
        }
    };
    stream::iter(instances.iter().map(remove)).buffer_unordered(BURST).collect::<Vec<()>>().await;
}

async fn until(api: &Api, id: &str, states: &[State]) -> pb::Instance {
    let looking = async {
        loop {
            if let Ok(instance) = api.get(id).await
                && states.contains(&instance.state())
            {
                return instance;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it ends in time")
}
