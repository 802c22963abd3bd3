//! The embedded store: a SQLite file in one process, nothing to install.
//!
//! One thread writes and commits in groups; reads run on their own connections, on
//! blocking threads. SQLite's write-ahead log lets both go on at once, and since a writer is answered after
//! its commit, every read begun later sees it. Watches pull from a bounded ring of recent changes.
//!
//! Beside the database lies a mark of how far it had come (`mark.rs`): one that was lost, or has less, is refused.
//!
//! Leases live in memory: who holds one lives in this process, so that at the next start all of them are
//! gone, and so are their keys.

mod backup;
mod database;
mod follow;
mod group;
mod hub;
mod keeper;
mod leases;
mod mark;
mod readers;
mod writer;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::Revision;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

pub use self::backup::{Backup, backup};
use self::hub::Hub;
use self::keeper::Keeper;
use self::mark::Mark;
use self::readers::Readers;
use self::writer::{Job, Reply, Writer};
use crate::page::PageRequest;
use crate::txn::validate_key;
use crate::{KeyValue, LeaseId, Page, Store, StoreError, Txn, TxnOutcome, Watch, WatchFrom};

/// The database's file.
const DATABASE: &str = "store.db";

/// The sizes and deadlines of an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedOptions {
    /// How many writes may wait; more wait for a place, up to the deadline.
    pub queue: usize,
    /// How many writes may share one commit.
    pub group: usize,
    /// How many reads may run at once.
    pub readers: usize,
    /// How many recent changes are kept for watches to resume from.
    pub history: usize,
    /// How long a call may take.
    pub deadline: Duration,
    /// Whether to open a store that is missing, another one or older than it was, as it is found.
    pub accept_older: bool,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        let deadline = Duration::from_secs(10);
        Self { queue: 4096, group: 512, readers: 4, history: 65_536, deadline, accept_older: false }
    }
}

/// A store in a directory of this machine, open in this process only.
#[derive(Debug)]
pub struct EmbeddedStore {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    places: Arc<Semaphore>,
    hub: Arc<Hub>,
    readers: Arc<Readers>,
    deadline: Duration,
    temporary: Option<TempDir>,
    lineage: u64,
    /// Never: nobody else writes the file.
    went_back: watch::Sender<u64>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, making it if it is not there. Reads and writes the disk: for the start of a process.
    ///
    /// [`StoreError::InUse`] when another process has it open; [`StoreError::Receded`] when it has less than it had.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let lock = lock(dir)?;
        let path = dir.join(DATABASE);
        let (db, revision, marked) = prepare(dir, options.accept_older)?;
        let hub = Arc::new(Hub::new(revision, options.history));
        let lineage = marked.identity.unsigned_abs();
        let keeper = Keeper::start(dir, marked, hub.subscribe())?;
        let (jobs, queue) = mpsc::channel();
        let writer = Writer::new(db, revision, Arc::clone(&hub), options.group);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run(&queue);
                drop(keeper);
                drop(lock);
            })
            .map_err(StoreError::unavailable)?;
        Ok(Self {
            jobs: Some(jobs),
            writer: Some(thread),
            places: Arc::new(Semaphore::new(options.queue.clamp(1, Semaphore::MAX_PERMITS))),
            hub,
            readers: Arc::new(Readers::new(path, options.readers, options.deadline)),
            deadline: options.deadline,
            temporary: None,
            lineage,
            went_back: watch::Sender::new(0),
        })
    }

    /// Opens a store in a new directory that is removed when the store is dropped.
    pub fn open_temporary() -> Result<Self, StoreError> {
        let dir = tempfile::Builder::new().prefix("kilonova-").tempdir().map_err(StoreError::unavailable)?;
        let mut store = Self::open(dir.path(), EmbeddedOptions::default())?;
        store.temporary = Some(dir);
        Ok(store)
    }

    /// Hands a request to the writer and waits for its answer.
    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.deadline;
        let place = match timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await {
            Ok(place) => place.expect("never closed"),
            Err(_) => return Err(StoreError::unavailable("the queue of writes is full")),
        };
        let (sender, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().expect("there until the store is dropped");
        jobs.send(job(Reply { sender, place }))
            .map_err(|_| StoreError::unavailable("the writer has stopped"))?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::unknown("the writer stopped before it answered")),
            Err(_) => Err(StoreError::unknown("the write took too long")),
        }
    }
}

impl Drop for EmbeddedStore {
    /// Waits for the writes already asked for, so that the directory is free afterwards.
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
        self.temporary.take();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn get(&self, key: &str) -> Result<(Option<KeyValue>, Revision), StoreError> {
        validate_key(key)?;
        let key = key.to_owned();
        self.readers.run(move |db| database::get(db, &key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let request = PageRequest::parse(prefix, after, limit)?;
        self.readers.run(move |db| database::page(db, &request)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.validate()?;
        self.ask(|reply| Job::Txn(txn, reply)).await
    }

    fn watch(&self, prefix: &str, from: WatchFrom) -> Watch {
        follow::follow(prefix, from, &self.hub, &self.readers)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Job::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Job::KeepAlive(lease, reply)).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Job::Revoke(lease, reply)).await
    }

    fn went_back(&self) -> watch::Receiver<u64> {
        self.went_back.subscribe()
    }

    async fn lineage(&self) -> Result<u64, StoreError> {
        Ok(self.lineage)
    }

    /// The ring of changes is bounded, and of a key only its present value is kept.
    async fn compact(&self, _: Revision) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Takes the directory for this process; the operating system gives it back when the process ends.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let opened = std::fs::create_dir_all(dir).and_then(|()| File::create(dir.join("lock")));
    let file = opened.map_err(|error| StoreError::unavailable(format!("{}: {error}", dir.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => {
            Err(StoreError::unavailable(format!("cannot lock {}: {error}", dir.display())))
        }
    }
}

/// Opens the database, compares it with its mark, and deletes the keys whose leases ended with the process before. Returns it with its
/// revision and the mark that stands for it on the disk.
fn prepare(dir: &Path, accept_older: bool) -> Result<(Connection, Revision, Mark), StoreError> {
    let path = dir.join(DATABASE);
    let read = Mark::read(dir);
    let mut accepted = read.is_err();
    let marked = match read {
        Err(error) if !accept_older => return Err(receded(dir, format!("cannot read its mark: {error}"))),
        read => read.unwrap_or_default(),
    };
    let is_there = std::fs::metadata(&path).is_ok_and(|file| file.len() > 0);
    if !is_there && let Some(marked) = marked {
        accepted |= settle(dir, marked, None, accept_older)?;
    }
    let mut db = database::open_writer(&path)?;
    let found = |db: &Connection| {
        let (identity, revision) = (database::identity(db)?, database::revision(db)?);
        // The identity must not be in the log alone.
        database::checkpoint(db)?;
        Ok(Mark { identity, revision })
    };
    let mut found = found(&db).map_err(|error: rusqlite::Error| database::from_sqlite(&error))?;
    if is_there && let Some(marked) = marked {
        accepted |= settle(dir, marked, Some(found), accept_older)?;
    }
    if accepted {
        // Before the mark is written: from then on nothing else says that this is another store.
        found.identity = database::draw_identity(&db).map_err(|error| database::from_sqlite(&error))?;
    }
    let mut clean = || {
        let tx = db.transaction()?;
        let mut revision = found.revision;
        if database::delete_leased(&tx)? {
            revision = revision.next();
            database::set_revision(&tx, revision)?;
        }
        tx.commit()?;
        Ok(revision)
    };
    let revision = clean().map_err(|error: rusqlite::Error| database::from_sqlite(&error))?;
    let mark = Mark { revision, ..found };
    let marked = match mark.write(dir) {
        Ok(()) => mark,
        // As on a full disk. The keeper tries on.
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot write the store's mark");
            Mark { revision: Revision(0), ..mark }
        }
    };
    Ok((db, revision, marked))
}

/// Refuses a database that has less than its mark, unless that was said to be right; whether it has.
fn settle(dir: &Path, marked: Mark, found: Option<Mark>, accept_older: bool) -> Result<bool, StoreError> {
    match marked.misses(found) {
        None => Ok(false),
        Some(what) if accept_older => {
            tracing::warn!(dir = %dir.display(), what, "the store is opened all the same, as was asked");
            Ok(true)
        }
        Some(what) => Err(receded(dir, what)),
    }
}

fn receded(dir: &Path, what: String) -> StoreError {
    StoreError::Receded { dir: dir.to_owned(), what }
}
