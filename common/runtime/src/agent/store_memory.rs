//! Which store an agent's records are in, remembered beside its data.
//!
//! A store that was lost, replaced by another or set back to an earlier copy does not know what was made since; to compare with it
//! would be to remove all of that. So an agent remembers the store's id and how far it had come, and removes nothing while it sees
//! another one, until an administrator has accepted it.
//!
//! | remembers | is told of                    | then                          |
//! |-----------|-------------------------------|-------------------------------|
//! | nothing   | any                           | remembers it                  |
//! | it        | it, as far as it was          | goes on                       |
//! | it        | it, not as far as it was      | waits: it was set back        |
//! | it        | another, accepted in its place | remembers that one           |
//! | it        | another                       | waits                         |
//!
//! An administrator's word holds for the stores that the accepted one is in the place of, and for no other: it is in the data, and so in each
//! copy of them.
//!
//! The id is written down at once, and so is how far the store had come when the record of a command was written, with the newest mark that the
//! conductor knew: what is made for the command is then known to be newer than any copy of the store that does not have its record. Every
//! few seconds that is made to outlive the machine too. Whether the store has the mark still is for conductors to see, at each registration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Error, Reason};
use kilonova_proto::types::v1::Store;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::data_dir::{self, DataDirError};

/// The file in the data directory.
const FILE: &str = "store.json";
/// The advice about a file that cannot be read.
const ADVICE: &str = "restore it from a copy; without it the agent goes by whatever store it finds, so remove it only if `kilonova store show` \
                      names the store that the agent's records are in";
/// The interval at which the store's revision is written to outlive the machine.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// A store, as it is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Its id.
    pub id: String,
    /// How far it had come.
    pub revision: u64,
    /// The newest mark of it that was told.
    #[serde(default)]
    pub mark: String,
    /// The id of the first store in whose place it came.
    #[serde(default)]
    pub origin: String,
}

/// Another store than the one that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the records are in store {seen} at revision {seen_revision}, and what is here is known to store {} at revision {}: nothing is \
     removed before an administrator says `kilonova store accept`, or brings back the store that is remembered",
    remembered.id,
    remembered.revision
)]
pub struct Foreign {
    /// The store that is remembered.
    pub remembered: Remembered,
    /// The one that is seen.
    pub seen: String,
    /// How far it has come.
    pub seen_revision: u64,
}

/// An answer that is not gone by.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is of another store.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// Its store cannot be written down.
    #[error(transparent)]
    Forgotten(#[from] DataDirError),
}

/// What is remembered of the store. Clones share it.
#[derive(Debug, Clone)]
pub struct StoreMemory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    memory: Mutex<Memory>,
    foreign: watch::Sender<Option<Foreign>>,
    /// The id of the store that is remembered.
    id: watch::Sender<String>,
    /// The id of the store that all there is was compared with.
    compared: watch::Sender<String>,
}

#[derive(Debug)]
struct Memory {
    known: Option<Remembered>,
    written: Option<Instant>,
}

impl StoreMemory {
    /// What the data directory remembers.
    pub fn open(data_dir: &Path) -> Result<Self, DataDirError> {
        let path = data_dir.join(FILE);
        let known = data_dir::read(&path, ADVICE)?;
        let id =
            watch::Sender::new(known.as_ref().map(|known: &Remembered| known.id.clone()).unwrap_or_default());
        let memory = Mutex::new(Memory { known, written: None });
        let (foreign, compared) = (watch::Sender::new(None), watch::Sender::default());
        Ok(Self { shared: Arc::new(Shared { path, memory, foreign, id, compared }) })
    }

    /// The store that is remembered; what a store answers that is asked after this is not older.
    pub fn known(&self) -> Option<Remembered> {
        self.shared.memory.lock().known.clone()
    }

    /// Takes what an answer says of its store, which was asked for when `known` was remembered. Refused if it is another one, or cannot be
    /// written down. A conductor that says nothing of it is of an earlier version.
    pub fn saw(&self, known: Option<&Remembered>, store: Option<&Store>) -> Result<(), NotTaken> {
        let Some(store) = store else { return Ok(()) };
        let mut memory = self.shared.memory.lock();
        if let Some(foreign) = judge(memory.known.as_ref(), known, store) {
            self.shared.foreign.send_if_modified(|before| {
                let news = before.as_ref().is_none_or(|before| before.seen != foreign.seen);
                *before = Some(foreign.clone());
                news
            });
            return Err(foreign.into());
        }
        let new = memory.known.as_ref().is_none_or(|now| now.id != store.id);
        let (revision, mark) = match &memory.known {
            Some(now) if !new => (now.revision.max(store.revision), newest(&now.mark, &store.mark)),
            _ => (store.revision, store.mark.as_str()),
        };
        let (id, origin) = (store.id.clone(), store.origin_id.clone());
        let seen = Remembered { id, revision, mark: mark.to_owned(), origin };
        if new || memory.written.is_none_or(|written| written.elapsed() >= WRITE_EVERY) {
            data_dir::write(&self.shared.path, &seen)?;
            memory.written = Some(Instant::now());
        }
        memory.known = Some(seen);
        if new {
            self.shared.id.send_replace(store.id.clone());
            tracing::info!(id = store.id, revision = store.revision, "the records are in this store");
        }
        self.shared.foreign.send_if_modified(|foreign| foreign.take().is_some());
        Ok(())
    }

    /// Takes the revision of the record that a command was made of, and the newest mark, before the command is done: the store has come that
    /// far. Written down at once, so that it outlives the process, and within seconds so that it outlives the machine. Where that cannot be
    /// written nothing may be made for the command.
    fn told(&self, revision: u64, mark: &str) -> Result<(), DataDirError> {
        let mut memory = self.shared.memory.lock();
        let Some(known) = &memory.known else { return Ok(()) };
        let mark = newest(&known.mark, mark).to_owned();
        let told = Remembered { revision: known.revision.max(revision), mark, ..known.clone() };
        if told == *known {
            return Ok(());
        }
        data_dir::note(&self.shared.path, &told)?;
        memory.known = Some(told);
        Ok(())
    }

    /// The same, before `host` makes something for a command. NOT_READY where that cannot be written down, and while another store is seen.
    pub fn told_to_make(&self, host: &str, revision: u64, mark: &str) -> Result<(), Error> {
        self.check_known(host)?;
        let told = self.told(revision, mark);
        told.map_err(|error| Error::new(Reason::NotReady, error.to_string()).with("host", host))
    }

    /// The same, before something is removed for a command, which may be what makes room on a full disk: it is removed all the same.
    /// NOT_READY while another store is seen.
    pub fn told_to_remove(&self, host: &str, revision: u64, mark: &str) -> Result<(), Error> {
        self.check_known(host)?;
        if let Err(error) = self.told(revision, mark) {
            tracing::error!(%error, "cannot write down how far the store has come");
        }
        Ok(())
    }

    fn check_known(&self, host: &str) -> Result<(), Error> {
        self.shared.foreign.borrow().as_ref().map_or(Ok(()), |foreign| {
            Err(Error::new(Reason::NotReady, foreign.to_string()).with("host", host))
        })
    }

    /// The id of the store that is remembered; tells when it is another.
    pub fn id(&self) -> watch::Receiver<String> {
        self.shared.id.subscribe()
    }

    /// All there is was compared with the records of that store.
    pub fn set_compared(&self, id: String) {
        self.shared.compared.send_if_modified(|compared| {
            let is_new = *compared != id;
            *compared = id;
            is_new
        });
    }

    /// The id of the store that all there is was compared with; tells when it is another.
    pub fn compared(&self) -> watch::Receiver<String> {
        self.shared.compared.subscribe()
    }

    /// Whether another store is seen; tells when that begins and ends, and when it is yet another.
    pub fn foreign(&self) -> watch::Receiver<Option<Foreign>> {
        self.shared.foreign.subscribe()
    }
}

/// The newer of two marks, whose texts sort by their numbers.
fn newest<'a>(known: &'a str, told: &'a str) -> &'a str {
    known.max(told)
}

/// Why `seen` is not to be gone by, if it is not: `now` is what is remembered, `asked` what was when it was asked for.
fn judge(now: Option<&Remembered>, asked: Option<&Remembered>, seen: &Store) -> Option<Foreign> {
    let remembered = now?;
    let is_in_its_place = seen.accepted && seen.replaced_ids.contains(&remembered.id);
    let another = seen.id != remembered.id && !is_in_its_place;
    let set_back = asked.is_some_and(|asked| seen.id == asked.id && seen.revision < asked.revision);
    (another || set_back).then(|| Foreign {
        remembered: remembered.clone(),
        seen: seen.id.clone(),
        seen_revision: seen.revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(id: &str, revision: u64, accepted: bool) -> Store {
        let replaced_ids = vec!["one".to_owned()];
        Store { id: id.into(), revision, accepted, replaced_ids, ..Store::default() }
    }

    fn saw(memory: &StoreMemory, store: &Store) -> bool {
        memory.saw(memory.known().as_ref(), Some(store)).is_ok()
    }

    #[test]
    fn only_the_store_that_is_remembered_or_accepted_is_gone_by() {
        let dir = tempfile::tempdir().unwrap();
        let memory = StoreMemory::open(dir.path()).unwrap();
        assert!(
            memory.saw(None, None).is_ok() && memory.known().is_none(),
            "an earlier version says nothing"
        );
        assert!(saw(&memory, &store("one", 10, false)), "the first is taken as it is");
        assert!(saw(&memory, &store("one", 20, false)));
        assert!(!saw(&memory, &store("one", 19, false)), "set back");
        assert_eq!(memory.foreign().borrow().as_ref().unwrap().seen_revision, 19);
        assert!(saw(&memory, &store("one", 20, false)), "it is back");
        assert!(memory.foreign().borrow().is_none());
        assert!(!saw(&memory, &store("two", 900, false)), "another");
        drop(memory);

        let memory = StoreMemory::open(dir.path()).unwrap();
        assert_eq!(memory.known().unwrap().id, "one", "over a restart");
        assert!(!saw(&memory, &store("two", 900, false)));
        let text = memory.foreign().borrow().as_ref().unwrap().to_string();
        assert!(text.contains("store two") && text.contains("store one") && text.contains("store accept"));
        assert!(saw(&memory, &store("two", 3, true)), "an administrator's word");
        let two = Remembered { id: "two".into(), revision: 3, ..Remembered::default() };
        assert_eq!(memory.known(), Some(two));
        assert!(!saw(&memory, &store("one", 900, false)), "and not back again without one");
        assert!(!saw(&memory, &store("three", 900, true)), "which was in the place of one, and not of two");
        assert_eq!(StoreMemory::open(dir.path()).unwrap().known().unwrap().id, "two");
    }

    #[test]
    fn the_record_that_a_command_was_made_of_is_older_than_no_store_that_is_gone_by() {
        let dir = tempfile::tempdir().unwrap();
        let memory = StoreMemory::open(dir.path()).unwrap();
        memory.told(5, "").unwrap();
        assert!(memory.known().is_none(), "of which store is not known");
        assert!(saw(&memory, &store("one", 10, false)));
        memory.told(25, "b").unwrap();
        memory.told(24, "a").unwrap();
        memory.told(24, "").unwrap();
        drop(memory);
        let memory = StoreMemory::open(dir.path()).unwrap();
        let known = memory.known().unwrap();
        assert_eq!((known.revision, known.mark.as_str()), (25, "b"), "over a restart right after it");
        assert!(!saw(&memory, &store("one", 24, false)), "set back to before it");
        for refused in [memory.told_to_make("h", 90, "c"), memory.told_to_remove("h", 90, "c")] {
            assert_eq!(refused.unwrap_err().reason, Reason::NotReady);
        }
        assert_eq!(memory.known().unwrap().revision, 25, "nobody knows whose revision that is");
    }

    #[test]
    fn what_cannot_be_written_down_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let memory = StoreMemory::open(dir.path()).unwrap();
        assert!(saw(&memory, &store("one", 10, false)));
        let full = dir.path().join(FILE).with_extension("new");
        // What is written first is no file: as on a full disk, nothing can be.
        std::fs::create_dir(&full).unwrap();
        assert!(memory.told(20, "").is_err() && memory.told(20, "").is_err());
        assert!(!saw(&memory, &store("two", 5, true)), "which store it is could be forgotten");
        assert_eq!(memory.known().unwrap().revision, 10);
        std::fs::remove_dir(&full).unwrap();
        assert!(memory.told(20, "").is_ok());
        assert_eq!(StoreMemory::open(dir.path()).unwrap().known().unwrap().revision, 20);

        std::fs::write(dir.path().join(FILE), "{").unwrap();
        let damaged = StoreMemory::open(dir.path()).unwrap_err().to_string();
        assert!(damaged.contains("kilonova store show"), "{damaged}");
    }

    #[test]
    fn answers_that_cross_each_other_are_no_store_that_was_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let memory = StoreMemory::open(dir.path()).unwrap();
        assert!(saw(&memory, &store("one", 10, false)));
        let asked = memory.known();
        assert!(saw(&memory, &store("one", 20, false)));
        assert!(memory.saw(asked.as_ref(), Some(&store("one", 15, false))).is_ok());
        assert_eq!(memory.known().unwrap().revision, 20);
    }
}
