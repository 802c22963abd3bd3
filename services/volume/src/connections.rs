//! Which hosts reach which volumes.
//!
//! A command is measured against the newest that was taken twice: when it comes, which is when later ones begin to be refused, and
//! once it holds the volume's lock. The lock is held until the driver is done, however long the caller waits: a connect that was
//! slow is over before the disconnect that overtook it begins, so that nothing undoes what a newer command did.
//!
//! ```text
//!   connect 3  ──► taken, lock ──► export ........ done: overtaken, refused
//!   disconnect 4       ──► taken, waits for the lock ........ unexport ──► nothing is left
//!   connect 3 (late)            ──► refused: 4 was taken
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Error, Reason, VolumeId};
use kilonova_runtime::agent::executor::Executor;
use kilonova_runtime::agent::ledger::Stamp;
use kilonova_runtime::agent::work::answered;
use kilonova_runtime::tasks::Tasks;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::driver::Driver;
use crate::locks::Locks;
use crate::stored::{Presence, Volumes};

/// Most commands under way for one volume.
const MOST: usize = 16;

/// The connections of one backend's volumes. Clones share them.
#[derive(Clone)]
pub struct Connections {
    driver: Arc<dyn Driver>,
    executor: Executor<Volumes>,
    presence: Presence,
    tasks: Tasks,
    /// How long the driver may take.
    timeout: Duration,
    serial: Locks<VolumeId>,
    /// How many commands are under way, by volume.
    under_way: Arc<Mutex<BTreeMap<VolumeId, usize>>>,
}

impl Connections {
    /// Those that the driver keeps of the volumes that the executor knows.
    pub fn new(
        driver: Arc<dyn Driver>,
        executor: Executor<Volumes>,
        presence: Presence,
        tasks: Tasks,
        timeout: Duration,
    ) -> Self {
        let (serial, under_way) = (Locks::default(), Arc::default());
        Self { driver, executor, presence, tasks, timeout, serial, under_way }
    }

    /// Lets a host reach a volume that is there, and says how. Refused if a newer command was seen, before it was done or since.
    pub async fn connect(
        &self,
        id: VolumeId,
        stamp: Stamp,
        host: &str,
    ) -> Result<BTreeMap<String, String>, Error> {
        self.touch(id, stamp)?;
        let (this, host) = (self.clone(), host.to_owned());
        let connect = async move {
            let _serial = this.serial.exclusive(id).await;
            let _there = this.presence.volumes.shared(id).await;
            this.touch(id, stamp)?;
            let exported = this.in_time(this.driver.export(id, &host)).await;
            this.touch(id, stamp).and(exported)
        };
        self.done(id, "connect", connect).await
    }

    /// Keeps a host from reaching a volume any longer; every host when there is none. A volume that is not there is reached by
    /// nobody.
    pub async fn disconnect(&self, id: VolumeId, stamp: Stamp, host: Option<&str>) -> Result<(), Error> {
        if !self.is_there(id, stamp)? {
            return Ok(());
        }
        let (this, host) = (self.clone(), host.map(str::to_owned));
        let disconnect = async move {
            let _serial = this.serial.exclusive(id).await;
            let _there = this.presence.volumes.shared(id).await;
            if !this.is_there(id, stamp)? {
                return Ok(());
            }
            this.in_time(this.driver.unexport(id, host.as_deref())).await
        };
        self.done(id, "disconnect", disconnect).await
    }

    /// How many commands are under way.
    pub fn busy(&self) -> usize {
        self.under_way.lock().values().sum()
    }

    /// How many volumes and snapshots are being removed, or must not be for now.
    pub fn needed(&self) -> usize {
        self.presence.volumes.count() + self.presence.snapshots.count()
    }

    fn touch(&self, id: VolumeId, stamp: Stamp) -> Result<(), Error> {
        self.executor.change(|book| book.ledger.touch(id, stamp, Reason::VolumeNotFound))
    }

    fn is_there(&self, id: VolumeId, stamp: Stamp) -> Result<bool, Error> {
        match self.touch(id, stamp) {
            Ok(()) => Ok(true),
            Err(error) if error.reason == Reason::VolumeNotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("the driver was not done within {:?}", self.timeout);
                Err(Error::new(Reason::OperationTimeout, message))
            }
        }
    }

    /// Does it in a task of its own, to the end, and waits for that as long as a driver may take to answer.
    async fn done<T: Send + 'static>(
        &self,
        id: VolumeId,
        what: &str,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.place(id)?;
        let (told, answer) = oneshot::channel();
        self.tasks.spawn(format!("{what} {id}"), async move {
            let _ = told.send(work.await);
            drop(place);
        });
        answered(async {
            answer.await.unwrap_or_else(|_| {
                Err(Error::new(Reason::DriverFailed, "the agent stopped before the driver had answered"))
            })
        })
        .await
    }

    fn place(&self, id: VolumeId) -> Result<UnderWay, Error> {
        let mut under_way = self.under_way.lock();
        let count = under_way.entry(id).or_default();
        if *count >= MOST {
            let message = format!("{id}: {MOST} connects and disconnects of it wait for the driver");
            return Err(Error::new(Reason::Overloaded, message).with("id", id));
        }
        *count += 1;
        Ok(UnderWay { id, counts: self.under_way.clone() })
    }
}

/// A command that is under way.
struct UnderWay {
    id: VolumeId,
    counts: Arc<Mutex<BTreeMap<VolumeId, usize>>>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}
