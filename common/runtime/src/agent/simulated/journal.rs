//! The journal of a simulated driver: what it did, one JSON object a line, and its memory over restarts.
//!
//! A line is written before what it says takes effect, in one piece, and handed to the operating system before the
//! call returns: it survives the end of the process, though not that of the machine. A line cut short, as by a full disk, says
//! nothing: it is taken back when its writing fails, or else before the next line, or when the journal is opened. One that another
//! line follows on is passed over. Writing blocks for as long as the page cache takes.

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
    lines: Lines<File>,
    seq: u64,
}

/// What lines are written to.
trait Sink: Write {
    /// Ends it after so many bytes.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Sink for File {
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Whole lines, whatever fails.
#[derive(Debug)]
struct Lines<S> {
    sink: S,
    /// How long it is up to the end of the last whole line.
    length: u64,
    /// Whether a part of a line may follow.
    torn: bool,
}

impl<S: Sink> Lines<S> {
    /// Writes a line, or leaves nothing of it that the next one would follow on.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.mend()?;
        self.torn = true;
        let written = self.sink.write_all(line).and_then(|()| self.sink.flush());
        match written {
            Ok(()) => {
                self.length += line.len() as u64;
                self.torn = false;
                Ok(())
            }
            Err(error) => {
                // If that fails too, it is done before the next line.
                let _ = self.mend();
                Err(error)
            }
        }
    }

    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.sink.cut(self.length)?;
            self.torn = false;
        }
        Ok(())
    }
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
        let lines = Lines { sink: file, length: whole as u64, torn: false };
        Ok((Self { host, epochs, end: Mutex::new(End { lines, seq }) }, entries))
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
        end.lines.write(&line).map_err(|error| {
            Error::new(Reason::DriverFailed, format!("the journal cannot be written: {error}"))
        })?;
        end.seq += 1;
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).or_else(|error| {
                let whole = after_a_torn_one(line).ok_or_else(|| (index + 1, error.to_string()))?;
                tracing::warn!(
                    line = index + 1,
                    "a part of a line that was never acknowledged is passed over"
                );
                Ok(whole)
            })
        })
        .collect()
}

/// The entry that follows on parts of others that were cut short.
fn after_a_torn_one(line: &str) -> Option<Entry> {
    let starts = line.match_indices(r#"{"seq":"#).skip(1);
    starts.map(|(start, _)| &line[start..]).find_map(|rest| serde_json::from_str(rest).ok())
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

    /// A disk with room for so many bytes, on which what does not fit is written in part.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        /// Whether it cannot be cut either.
        stuck: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let fits = bytes.len().min(self.room - self.bytes.len());
            if fits == 0 && !bytes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.bytes.extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Disk {
        fn cut(&mut self, length: u64) -> io::Result<()> {
            if self.stuck {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.bytes.truncate(usize::try_from(length).unwrap());
            Ok(())
        }
    }

    #[test]
    fn of_a_line_that_does_not_fit_nothing_is_left_for_the_next_to_follow_on() {
        for stuck in [false, true] {
            let disk = Disk { bytes: Vec::new(), room: 10, stuck };
            let mut lines = Lines { sink: disk, length: 0, torn: false };
            lines.write(b"one\n").unwrap();
            for _ in 0..2 {
                assert!(lines.write(b"a long one\n").is_err());
                assert_eq!(lines.sink.bytes, if stuck { &b"one\na long"[..] } else { b"one\n" });
            }
            (lines.sink.room, lines.sink.stuck) = (100, false);
            lines.write(b"two\n").unwrap();
            assert_eq!(lines.sink.bytes, b"one\ntwo\n");
        }
    }

    #[test]
    fn a_line_that_follows_on_one_cut_short_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (journal, _) = open(dir.path()).unwrap();
        journal.write(record("spawn")).unwrap();
        journal.write(record("destroy")).unwrap();
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        let (first, second) = text.split_once('\n').unwrap();
        let torn = r#"{"seq":2,"time":"2026-"#;
        fs::write(&path, format!("{first}\n{torn}{torn}{second}")).unwrap();
        let (journal, entries) = open(dir.path()).unwrap();
        let ops: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.op.as_str())).collect();
        assert_eq!(ops, [(1, "spawn"), (2, "destroy")]);
        journal.write(record("start")).unwrap();
        assert_eq!(open(dir.path()).unwrap().1.len(), 3);
    }
}
