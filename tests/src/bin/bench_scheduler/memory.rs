//! What a host takes in memory, and how fast updates are taken in.

use kilonova_model::HostName;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_tests::measure::{line, resident, rounded};
use serde_json::json;
use tokio::time::Instant;

use crate::{decisions, workload};

/// How many updates are taken in.
const UPDATES: usize = 200_000;

/// Prints the figures for so many hosts.
pub fn measure(count: u32) {
    let hosts = workload::hosts(count);
    let before = resident();
    let mut known = decisions::manager(&hosts);
    let bytes = resident().saturating_sub(before) as f64 / f64::from(count);
    let mut told: Vec<_> =
        hosts.iter().map(|host| (HostName::parse(&host.name), host.capabilities())).collect();
    let len = told.len();
    let begun = Instant::now();
    for n in 0..UPDATES {
        let (name, capabilities) = &mut told[(n * 7919) % len];
        capabilities.generation += 1;
        if let Some(Resources::Compute(figures)) = &mut capabilities.resources {
            figures.vcpus_used = (figures.vcpus_used + 1) % 200;
        }
        let name = name.as_ref().expect("a host name");
        known.apply(name, capabilities.clone(), Instant::now());
    }
    let per_s = UPDATES as f64 / begun.elapsed().as_secs_f64();
    line(
        "memory of a host in a scheduler, and updates of hosts taken in",
        json!({ "hosts": count, "bytes_per_host": rounded(bytes), "updates_per_s": per_s.round() }),
    );
}
