//! Keeping a host registered with the conductors: at start until one answers, then every so often, and at once
//! when the host became another incarnation, or has compared what it has with another store.

use std::time::Duration;

use kilonova_model::Epoch;
use kilonova_proto::conductor::v1::RegisterHostRequest;
use kilonova_rpc::backoff::{Backoff, BackoffPolicy};
use tokio::sync::watch;
use tokio::time::sleep;

use super::admin::Admin;
use super::conductor::Conductor;
use super::store_memory::StoreMemory;

/// How often it registers while it sees another store than the one it remembers.
const WHILE_FOREIGN: Duration = Duration::from_secs(3);

/// Registers for ever. `about` says what does not change; `registered` is the incarnation that a conductor knows.
pub async fn keep_registered(
    conductor: Conductor,
    about: RegisterHostRequest,
    every: Duration,
    admin: Admin,
    registered: watch::Sender<Option<Epoch>>,
    memory: StoreMemory,
) {
    let mut foreign = memory.foreign();
    let mut compared = memory.compared();
    let mut epochs = conductor.epochs();
    let mut backoff = Backoff::new(BackoffPolicy::reconnect());
    let mut waiting = false;
    loop {
        let epoch = *epochs.borrow_and_update();
        let asked = admin.version();
        let aggregates_revision = admin.current().placement.aggregates_revision;
        let compared_store_id = compared.borrow_and_update().clone();
        let request = RegisterHostRequest { aggregates_revision, compared_store_id, ..about.clone() };
        let pause = match conductor.register(epoch, request).await {
            Ok(word) => {
                let enabled = word.enabled;
                admin.answered(word, asked);
                if std::mem::take(&mut waiting) || *registered.borrow() != Some(epoch) {
                    tracing::info!(enabled, %epoch, "registered with a conductor");
                }
                registered.send_replace(Some(epoch));
                backoff.reset();
                jittered(every)
            }
            // Waiting for an administrator, who should not have to wait for long.
            Err(_) if foreign.borrow_and_update().is_some() => jittered(every.min(WHILE_FOREIGN)),
            Err(error) => {
                if !std::mem::replace(&mut waiting, true) {
                    tracing::warn!(
                        error = error.message(),
                        code = ?error.code(),
                        "no conductor takes the registration; trying until one does"
                    );
                }
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            changed = epochs.changed() => if changed.is_err() { return },
            changed = foreign.changed() => if changed.is_err() { return },
            changed = compared.changed() => if changed.is_err() { return },
        }
    }
}

/// Somewhat less than `period`, so that hosts started together do not stay together.
pub(super) fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.8 + 0.2 * rand::random::<f64>())
}
