//! What is done beside the writing: the mark is kept current, and the log is copied into the database, so that a copy of
//! `store.db` alone is never more than about a minute old.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use kilonova_model::Revision;
use rusqlite::Connection;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hub::Tip;
use super::mark::Mark;
use super::{DATABASE, database};
use crate::StoreError;

/// How often the mark is written while the store changes.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How often the log is copied while the store changes.
const COPY_EVERY: Duration = Duration::from_secs(30);

/// The thread that does it, until this is dropped: then once more.
pub(super) struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts with the mark that lies in `dir` now.
    pub(super) fn start(dir: &Path, marked: Mark, tip: watch::Receiver<Tip>) -> Result<Self, StoreError> {
        let db = database::open_writer(&dir.join(DATABASE))?;
        let (stop, stopped) = channel();
        let work = Work { dir: dir.to_owned(), db, marked, copied: Revision(0), tip, failing: false };
        let thread = std::thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || work.run(&stopped))
            .map_err(StoreError::unavailable)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's keeper panicked");
        }
    }
}

struct Work {
    dir: PathBuf,
    db: Connection,
    marked: Mark,
    copied: Revision,
    tip: watch::Receiver<Tip>,
    failing: bool,
}

impl Work {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut copied_at = Instant::now();
        loop {
            let ends = stopped.recv_timeout(MARK_EVERY) != Err(RecvTimeoutError::Timeout);
            let reached = self.tip.borrow().revision;
            if ends || copied_at.elapsed() >= COPY_EVERY {
                self.copy(reached);
                copied_at = Instant::now();
            }
            self.mark(reached);
            if ends {
                return;
            }
        }
    }

    fn mark(&mut self, reached: Revision) {
        if reached <= self.marked.revision {
            return;
        }
        let mark = Mark { revision: reached, ..self.marked };
        match mark.write(&self.dir) {
            Ok(()) => (self.marked, self.failing) = (mark, false),
            // The old one stays: it names less, so nothing is refused wrongly.
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(dir = %self.dir.display(), %error, "cannot write the store's mark; trying on");
            }
            Err(_) => {}
        }
    }

    /// Copies what no reader holds back; the rest the next time.
    fn copy(&mut self, reached: Revision) {
        if reached <= self.copied {
            return;
        }
        match database::checkpoint(&self.db) {
            Ok(true) => self.copied = reached,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot copy the store's log into its database; trying on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::hub::Hub;
    use crate::{EmbeddedOptions, EmbeddedStore, Store, Txn};

    #[tokio::test]
    async fn a_copy_of_the_database_alone_has_what_was_there_when_the_log_was_copied() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        let written = store.txn(Txn::new().put("a", "1")).await.unwrap().committed().unwrap();
        let alone = |name: &str| {
            let copy = dir.path().join(name);
            std::fs::copy(dir.path().join(DATABASE), &copy).unwrap();
            database::count(&copy).unwrap().1
        };
        assert_eq!(alone("before"), 0, "it is in the log");
        let db = database::open_writer(&dir.path().join(DATABASE)).unwrap();
        let marked = Mark::read(dir.path()).unwrap().unwrap();
        let tip = Hub::new(written, 1).subscribe();
        let dir_of = dir.path().to_owned();
        let mut work = Work { dir: dir_of, db, marked, copied: Revision(0), tip, failing: false };
        work.copy(written);
        assert_eq!((alone("after"), work.copied), (1, written));
        drop(store);
    }
}
