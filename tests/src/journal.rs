//! What the simulated drivers really did, read from their journals alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One line of a journal.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// The host or backend.
    pub host: String,
    /// What it did.
    pub op: String,
    /// To which instance or volume.
    #[serde(default)]
    pub id: String,
    /// When, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    /// What else it wrote down.
    #[serde(default)]
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

/// Reads the journal in an agent's data directory; one that did nothing has none.
#[must_use]
pub fn read(data_dir: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(data_dir.join("journal.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("journal lines are JSON")).collect()
}
