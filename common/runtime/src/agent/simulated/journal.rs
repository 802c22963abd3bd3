//! The journal of a simulated driver: what it did, one JSON object a line, and its memory over restarts.
//!
//! A line is written before what it says takes effect, in one piece, and handed to the operating system before the
//! call returns: it survives the end of the process, though not that of the machine. A last line cut short says
//! nothing and is removed when the journal is opened. Writing blocks for as long as the page cache takes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kilonova_model::{Attempt, Epoch, Error, Generation, HostName, Reason, time};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::agent::ledger::Stamp;

/// What is written down: the part the driver gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    /// What was done: `start`, `spawn`, `destroy`, ...
    pub op: &'static str,
    /// To what; empty for the whole host.
    pub id: String,
    /// Its name.
    pub name: &'a str,
    /// By which command.
    pub stamp: Stamp,
    /// What else is to be remembered.
    pub detail: Value,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts the lines, from 1.
    pub seq: u64,
    /// When, as RFC 3339.
    pub time: String,
    /// The host or backend.
    pub host: String,
    /// Its incarnation.
    pub epoch: u64,
    /// What was done.
    pub op: String,
    /// To what.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The generation of the command.
    pub generation: u64,
    /// The attempt of the command.
    pub attempt: u32,
    /// What else is to be remembered.
    pub detail: Value,
}

impl Entry {
    /// By which command.
    pub fn stamp(&self) -> Stamp {
        Stamp { generation: Generation(self.generation), attempt: Attempt(self.attempt) }
    }
}

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be opened, read or written.
    #[error("the journal {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not what a journal writes.
    #[error("the journal {} is damaged in line {line}: {problem}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Which line.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    host: HostName,
    epochs: watch::Receiver<Epoch>,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    seq: u64,
}

impl Journal {
    /// Opens `<data_dir>/journal.jsonl`, made if there is none, and gives what it says.
    pub fn open(
        data_dir: &Path,
        host: HostName,
        epochs: watch::Receiver<Epoch>,
    ) -> Result<(Self, Vec<Entry>), JournalError> {
        let path = data_dir.join("journal.jsonl");
        let failed = |source| JournalError::File { path: path.clone(), source };
        fs::create_dir_all(data_dir).map_err(failed)?;
        let file = OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed)?;
        let text = io::read_to_string(&file).map_err(failed)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).map_err(failed)?;
        }
        let entries = parse(&text[..whole]).map_err(|(line, problem)| JournalError::Damaged {
            path: path.clone(),
            line,
            problem,
        })?;
        let seq = entries.last().map_or(0, |entry| entry.seq);
        Ok((Self { host, epochs, end: Mutex::new(End { file, seq }) }, entries))
    }

    /// Writes one line.
    pub fn write(&self, record: Record<'_>) -> Result<(), Error> {
        let mut end = self.end.lock();
        let entry = Entry {
            seq: end.seq + 1,
            time: time::timestamp(SystemTime::now()).to_string(),
            host: self.host.to_string(),
            epoch: self.epochs.borrow().0,
            op: record.op.to_owned(),
            id: record.id,
            name: record.name.to_owned(),
            generation: record.stamp.generation.0,
            attempt: record.stamp.attempt.0,
            detail: record.detail,
        };
        let mut line = serde_json::to_vec(&entry).expect("text and numbers can be written as JSON");
        line.push(b'\n');
        end.file.write_all(&line).and_then(|()| end.file.flush()).map_err(|error| {
            Error::new(Reason::DriverFailed, format!("the journal cannot be written: {error}"))
        })?;
        end.seq += 1;
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| serde_json::from_str(line).map_err(|error| (index + 1, error.to_string())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Result<(Journal, Vec<Entry>), JournalError> {
        let (_sender, epochs) = watch::channel(Epoch(9));
        Journal::open(dir, HostName::parse("node1").unwrap(), epochs)
    }

    fn record(op: &'static str) -> Record<'static> {
        let stamp = Stamp { generation: Generation(1), attempt: Attempt(2) };
        Record { op, id: "7".into(), name: "web", stamp, detail: serde_json::json!({ "vcpus": 1 }) }
    }

    #[test]
    fn what_was_written_is_read_back_and_counted_on() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, entries) = open(dir.path()).unwrap();
        assert!(entries.is_empty());
        journal.write(record("spawn")).unwrap();
        drop(journal);
        let (journal, entries) = open(dir.path()).unwrap();
        assert_eq!((entries[0].op.as_str(), entries[0].seq, entries[0].epoch), ("spawn", 1, 9));
        assert_eq!(entries[0].stamp(), record("spawn").stamp);
        journal.write(record("destroy")).unwrap();
        let ops: Vec<_> = open(dir.path()).unwrap().1.into_iter().map(|e| (e.seq, e.op)).collect();
        assert_eq!(ops, [(1, "spawn".to_owned()), (2, "destroy".to_owned())]);
    }

    #[test]
    fn a_line_cut_short_is_removed_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        open(dir.path()).unwrap().0.write(record("spawn")).unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"seq\":2,\"ti")).unwrap();
        let (journal, entries) = open(dir.path()).unwrap();
        assert_eq!(entries.len(), 1);
        journal.write(record("destroy")).unwrap();
        assert_eq!(open(dir.path()).unwrap().1.len(), 2);

        text.push_str("nonsense\n");
        fs::write(&path, text).unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("line 2"));
    }
}
