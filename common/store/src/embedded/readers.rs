//! Reading connections, used on blocking threads so that no runtime worker waits for the disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::database;
use crate::StoreError;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize, deadline: Duration) -> Self {
        Self { path, idle: Mutex::default(), places: Arc::new(Semaphore::new(count.max(1))), deadline }
    }

    /// Runs a read on a connection of its own. It sees everything committed before the call.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let this = Arc::clone(self);
        let reading = async {
            let place = Arc::clone(&this.places).acquire_owned().await.expect("never closed");
            let done = tokio::task::spawn_blocking(move || {
                let _place = place;
                this.with_connection(read)
            });
            done.await.map_err(StoreError::unavailable)?
        };
        match tokio::time::timeout(self.deadline, reading).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::unavailable("the read took too long")),
        }
    }

    fn with_connection<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().pop();
        let reading = || {
            let db = idle.map_or_else(|| database::open_reader(&self.path), Ok)?;
            let result = read(&db)?;
            self.idle.lock().push(db);
            Ok(result)
        };
        reading().map_err(|error| database::from_sqlite(&error))
    }
}
