//! What the simulated drivers really did: their journals, and the proof that nothing was done twice.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;

/// One line of a journal, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    host: String,
    op: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
}

/// The words of one kind of driver.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// It was made.
    pub made: &'static str,
    /// It was removed.
    pub removed: &'static str,
}

/// Those of a hypervisor.
pub const GUESTS: Words = Words { made: "spawn", removed: "destroy" };
/// Those of a storage backend.
pub const VOLUMES: Words = Words { made: "create", removed: "delete" };

/// Reads one journal; a driver that did nothing has none.
pub fn read(dir: &Path) -> Result<Vec<Entry>, Failure> {
    let path = dir.join("journal.jsonl");
    let bad = |why: &dyn std::fmt::Display| Failure::failed(format!("the journal {}: {why}", path.display()));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(bad(&error)),
    };
    text.lines().map(|line| serde_json::from_str(line).map_err(|error| bad(&error))).collect()
}

/// Checks that each of `made` was made once, on one host, and removed there once, and that nothing else was made.
pub fn check(entries: &[Entry], words: Words, made: &[String]) -> Result<(), String> {
    let mut by_id: BTreeMap<&str, (Vec<&Entry>, Vec<&Entry>)> = BTreeMap::new();
    for entry in entries {
        if entry.op == words.made {
            by_id.entry(&entry.id).or_default().0.push(entry);
        } else if entry.op == words.removed {
            by_id.entry(&entry.id).or_default().1.push(entry);
        }
    }
    for id in made {
        if !by_id.contains_key(id.as_str()) {
            return Err(format!("no driver ever made {id}"));
        }
    }
    for (id, (spawned, destroyed)) in by_id {
        let hosts = |entries: &[&Entry]| entries.iter().map(|entry| entry.host.clone()).collect::<Vec<_>>();
        let (on, off) = (hosts(&spawned), hosts(&destroyed));
        let name = spawned.first().map_or(id, |entry| entry.name.as_str());
        if on.len() != 1 || on != off {
            let list =
                |hosts: &[String]| if hosts.is_empty() { "nowhere".to_owned() } else { hosts.join(", ") };
            return Err(format!("{name} was made on {} and removed on {}", list(&on), list(&off)));
        }
        if !made.iter().any(|asked| asked == id) {
            return Err(format!("{name} was made on {} although nobody asked for it", on[0]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(host: &str, op: &str, id: &str) -> Entry {
        Entry { host: host.into(), op: op.into(), id: id.into(), name: format!("vm-{id}") }
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn once_on_one_host_and_removed_there_is_right() {
        let entries = [
            entry("c1", "start", ""),
            entry("c1", "spawn_failed", "a"),
            entry("c2", "spawn", "a"),
            entry("c2", "destroy", "a"),
        ];
        assert_eq!(check(&entries, GUESTS, &ids(&["a"])), Ok(()));
    }

    #[test]
    fn anything_else_is_named() {
        let twice = [entry("c1", "spawn", "a"), entry("c2", "spawn", "a"), entry("c2", "destroy", "a")];
        assert_eq!(
            check(&twice, GUESTS, &ids(&["a"])).unwrap_err(),
            "vm-a was made on c1, c2 and removed on c2"
        );
        let left = [entry("c1", "spawn", "a")];
        assert_eq!(
            check(&left, GUESTS, &ids(&["a"])).unwrap_err(),
            "vm-a was made on c1 and removed on nowhere"
        );
        let unasked = [entry("c1", "create", "b"), entry("c1", "delete", "b")];
        assert!(check(&unasked, VOLUMES, &[]).unwrap_err().contains("although nobody asked"));
        assert_eq!(check(&[], VOLUMES, &ids(&["z"])).unwrap_err(), "no driver ever made z");
    }
}
