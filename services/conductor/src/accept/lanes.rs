//! Turns: one transaction on a project's usage at a time, so that those of one conductor do not make each other fail.

use kilonova_model::page::fingerprint;
use tokio::sync::{Mutex, MutexGuard};

/// How many projects can have their turn side by side.
const LANES: usize = 64;

/// The turns of one conductor.
pub struct Lanes(Vec<Mutex<()>>);

impl Default for Lanes {
    fn default() -> Self {
        Self((0..LANES).map(|_| Mutex::default()).collect())
    }
}

impl Lanes {
    /// Waits for the project's turn.
    pub async fn enter(&self, project: &str) -> MutexGuard<'_, ()> {
        let lane = usize::try_from(fingerprint(project) % LANES as u64).unwrap_or(0);
        self.0[lane].lock().await
    }
}
