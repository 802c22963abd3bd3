//! What the simulated drivers really did, read from their journals alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One line of a journal.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    /// Counts the lines of one journal, from 1.
    pub seq: u64,
    /// When, as RFC 3339.
    pub time: String,
    /// The host or backend.
    pub host: String,
    /// Its incarnation.
    pub epoch: u64,
    /// What it did.
    pub op: String,
    /// To which instance or volume.
    pub id: String,
    /// The generation of the command.
    pub generation: u64,
    /// The attempt of the command.
    pub attempt: u32,
    /// What else was remembered.
    pub detail: serde_json::Value,
}

/// How often each host did `op` to each id.
#[must_use]
pub fn count(lines: &[Line], op: &str) -> BTreeMap<String, Vec<String>> {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line.op == op) {
        hosts.entry(line.id.clone()).or_default().push(line.host.clone());
    }
    hosts
}

/// Reads the journal in an agent's data directory; one that did nothing has none. A last line cut short, as by the
/// end of the process that wrote it, says nothing.
#[must_use]
pub fn read(data_dir: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(data_dir.join("journal.jsonl")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("journal lines are JSON")).collect()
}

/// Reads the journals of all agents whose data directories are in this one, however deep.
#[must_use]
pub fn read_all(dir: &Path) -> Vec<Line> {
    let mut lines = read(dir);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        lines.extend(read_all(&entry.path()));
    }
    lines
}
