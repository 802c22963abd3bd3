//! What a scheduler does beside answering: forgets, counts, and tells about itself.

use std::sync::Arc;
use std::time::Duration;

use kilonova_runtime::Context;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use crate::placement::{Compute, Storage};
use crate::state::{Kept, Overview, State, overview};

/// How often it is done.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How many of those that are down diagnostics name.
const DOWN_NAMED: usize = 20;

pub(crate) fn keep(context: &Context, state: &Arc<State>) {
    context.tasks.spawn("sweep", sweep(state.clone()));
    let state = state.clone();
    context.diagnostics.add("publishers", move || {
        let services = overview(&state, DOWN_NAMED).map(|Overview { service, counts, down }| {
            let down: Vec<_> =
                down.into_iter().map(|(host, reason)| json!({ "host": host, "reason": reason })).collect();
            json!({
                "service": service.as_str(), "up": counts.up, "down": counts.down, "quarantined": counts.quarantined,
                "held_requests": counts.held_requests, "first_down": down,
            })
        });
        json!(services)
    });
}

async fn sweep(state: Arc<State>) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        Compute::update(&state, |known| known.sweep(now));
        Storage::update(&state, |known| known.sweep(now));
        for Overview { service, counts, .. } in overview(&state, 0) {
            let service = service.as_str();
            let gauge = |state| metrics::gauge!("scheduler_hosts", "service" => service, "state" => state);
            gauge("up").set(counts.up as f64);
            gauge("down").set(counts.down as f64);
            gauge("quarantined").set(counts.quarantined as f64);
            metrics::gauge!("scheduler_held_requests", "service" => service).set(counts.held_requests as f64);
        }
    }
}
