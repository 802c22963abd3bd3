//! A file beside the database that says how far the store had come: a database that was lost, replaced or put back to an
//! earlier state is not opened as if nothing had happened.
//!
//! It is written about once a second while the store changes, always after what it names is durable. So a database that has
//! less than its mark has lost something.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use kilonova_model::Revision;

/// The file's name.
pub(super) const NAME: &str = "store.mark";

const HEAD: &str =
    "# What store.db had reached. With this file gone, a lost store.db starts as an empty store.";

/// Which store, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// A number drawn when the store was made.
    pub(super) identity: i64,
    pub(super) revision: Revision,
}

impl Mark {
    /// Reads the mark of a directory; none if there is none.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(dir.join(NAME)) {
            Ok(text) => match parse(&text) {
                Some(mark) => Ok(Some(mark)),
                None => Err(io::Error::other(format!("{NAME} does not name an identity and a revision"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the mark of a directory, durably: whoever reads it finds the old one or the new one, whole.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join(format!("{NAME}.new"));
        let mut file = File::create(&temporary)?;
        write!(file, "{HEAD}\nidentity {:016x}\nrevision {}\n", self.identity, self.revision)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        File::open(dir)?.sync_all()
    }

    /// What is wrong with a database beside this mark; `found` is none if there is no database.
    pub(super) fn misses(self, found: Option<Self>) -> Option<String> {
        let Some(found) = found else {
            return Some(format!("store.db is missing or empty; it had reached revision {}", self.revision));
        };
        if found.identity != self.identity {
            return Some(format!(
                "store.db is another store, at revision {}; the one that was here had reached revision {}",
                found.revision, self.revision
            ));
        }
        let lost = self.revision.0.checked_sub(found.revision.0).filter(|lost| *lost > 0)?;
        Some(format!(
            "store.db is at revision {} and had reached {}: its last {lost} changes are lost \
             (store.db-wal is missing, or store.db is an earlier copy)",
            found.revision, self.revision
        ))
    }
}

fn parse(text: &str) -> Option<Mark> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let identity = i64::from_str_radix(value("identity")?, 16).ok()?;
    Some(Mark { identity, revision: Revision(value("revision")?.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(identity: i64, revision: u64) -> Mark {
        Mark { identity, revision: Revision(revision) }
    }

    #[test]
    fn what_was_written_is_read_and_a_broken_one_is_no_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(dir.path()).unwrap(), None);
        for written in [mark(7, 1), mark(i64::MAX, 1 << 40)] {
            written.write(dir.path()).unwrap();
            assert_eq!(Mark::read(dir.path()).unwrap(), Some(written));
        }
        for broken in ["", "identity 07\n", "identity x\nrevision 5\n"] {
            fs::write(dir.path().join(NAME), broken).unwrap();
            assert!(Mark::read(dir.path()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn a_database_with_less_than_its_mark_has_lost_something() {
        assert_eq!(mark(7, 10).misses(Some(mark(7, 10))), None);
        assert_eq!(mark(7, 10).misses(Some(mark(7, 12))), None, "the mark is a little late");
        let older = mark(7, 10).misses(Some(mark(7, 6))).unwrap();
        assert!(older.contains("last 4 changes are lost"), "{older}");
        assert!(mark(7, 10).misses(Some(mark(8, 90))).unwrap().contains("another store"));
        assert!(mark(7, 10).misses(None).unwrap().contains("missing"));
    }
}
