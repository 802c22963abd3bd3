//! The members last known, kept in a file: a process that starts while the store is away knows its peers from it.
//!
//! What is read counts as known and stale until the store was read. What cannot be read, is of another cell or of
//! another form is ignored: it is worth less than starting.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, Epoch, HostName, Revision, ServiceKind, ZoneName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::members::MemberSet;
use super::record::Member;

const VERSION: u32 = 1;
/// Not written more often.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The sets of all services that were ever followed.
type Sets = BTreeMap<ServiceKind, Arc<MemberSet>>;

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    cell: CellName,
    services: BTreeMap<String, SavedSet>,
}

#[derive(Serialize, Deserialize)]
struct SavedSet {
    revision: Revision,
    members: BTreeMap<HostName, SavedMember>,
}

#[derive(Serialize, Deserialize)]
struct SavedMember {
    addr: String,
    epoch: Epoch,
    zone: ZoneName,
    minor: u32,
    authority: String,
    draining: bool,
}

/// The file, and what belongs in it.
pub(super) struct Snapshot {
    path: PathBuf,
    cell: CellName,
    was_read: bool,
    sets: Mutex<Sets>,
    changed: Notify,
}

impl Snapshot {
    /// Reads the file if there is one.
    pub(super) fn open(path: PathBuf, cell: CellName) -> Self {
        let read = match fs::read(&path) {
            Ok(bytes) => decode(&bytes, &cell).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        let sets = read.unwrap_or_else(|why| {
            tracing::warn!(path = %path.display(), why, "the members kept in this file are ignored");
            None
        });
        let was_read = sets.is_some();
        let sets = Mutex::new(sets.unwrap_or_default());
        Self { path, cell, was_read, sets, changed: Notify::new() }
    }

    /// Whether there was a good file.
    pub(super) fn was_read(&self) -> bool {
        self.was_read
    }

    /// What is known of a service.
    pub(super) fn get(&self, service: ServiceKind) -> Option<Arc<MemberSet>> {
        self.sets.lock().get(&service).cloned()
    }

    /// Remembers a set read from the store. Held members are written as members: who reads the file finds out
    /// whether they answer.
    pub(super) fn put(&self, service: ServiceKind, set: &Arc<MemberSet>) {
        self.sets.lock().insert(service, set.clone());
        self.changed.notify_one();
    }

    /// Writes what changes, at most once a second.
    pub(super) async fn keep_written(self: Arc<Self>) {
        let mut failing = false;
        loop {
            self.changed.notified().await;
            let snapshot = self.clone();
            let written = tokio::task::spawn_blocking(move || {
                let bytes = encode(&snapshot.sets.lock(), &snapshot.cell);
                replace(&snapshot.path, &bytes)
            });
            match written.await {
                Ok(Ok(())) => failing = false,
                Ok(Err(error)) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!(path = %self.path.display(), %error, "the members known cannot be written; trying on");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if failing {
                self.changed.notify_one();
            }
            tokio::time::sleep(WRITE_INTERVAL).await;
        }
    }
}

fn encode(sets: &Sets, cell: &CellName) -> Vec<u8> {
    let saved_set = |set: &MemberSet| SavedSet {
        revision: set.revision,
        members: set
            .held
            .iter()
            .chain(&set.members)
            .map(|(host, member)| (host.clone(), save(member)))
            .collect(),
    };
    let services = sets.iter().map(|(service, set)| (service.to_string(), saved_set(set))).collect();
    let saved = Saved { version: VERSION, cell: cell.clone(), services };
    serde_json::to_vec_pretty(&saved).expect("strings and numbers are always JSON")
}

fn decode(bytes: &[u8], cell: &CellName) -> Result<Sets, String> {
    let saved: Saved = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if saved.version != VERSION {
        return Err(format!("it has version {}, not {VERSION}", saved.version));
    }
    if saved.cell != *cell {
        return Err(format!("it is of cell {}", saved.cell));
    }
    let mut sets = Sets::new();
    for (service, set) in saved.services {
        let service = service.parse::<ServiceKind>().map_err(|error| error.to_string())?;
        let members =
            set.members.into_iter().map(|(host, member)| (host.clone(), Arc::new(load(host, member))));
        let set = MemberSet { members: members.collect(), revision: set.revision, ..MemberSet::default() };
        if set.is_known() {
            sets.insert(service, Arc::new(set));
        }
    }
    Ok(sets)
}

fn save(member: &Member) -> SavedMember {
    let Member { addr, epoch, zone, minor, authority, draining, .. } = member.clone();
    SavedMember { addr, epoch, zone, minor, authority, draining }
}

fn load(host: HostName, saved: SavedMember) -> Member {
    let SavedMember { addr, epoch, zone, minor, authority, draining } = saved;
    Member { host, addr, epoch, zone, minor, authority, draining }
}

/// Whoever reads the file finds the old content or the new one, whole, even after a crash of the machine.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::record::decode as decode_record;

    fn cell(name: &str) -> CellName {
        CellName::parse(name).unwrap()
    }

    fn member(name: &str) -> (HostName, Arc<Member>) {
        let host = HostName::parse(name).unwrap();
        let value = br#"{"Addr":"10.0.0.7:7774","Metadata":{"epoch":42,"zone":"az1","minor":3}}"#;
        (host.clone(), Arc::new(decode_record(&host, value).unwrap()))
    }

    #[test]
    fn what_was_written_is_read() {
        let held = [member("b")].into();
        let set =
            MemberSet { members: [member("a")].into(), held, revision: Revision(9), ..Default::default() };
        let sets: Sets = [(ServiceKind::Compute, Arc::new(set))].into();
        let read = decode(&encode(&sets, &cell("c")), &cell("c")).unwrap();
        let all = [member("a"), member("b")].into();
        let expected = MemberSet { members: all, revision: Revision(9), ..Default::default() };
        assert_eq!(*read[&ServiceKind::Compute], expected);
    }

    #[test]
    fn what_is_broken_or_foreign_is_refused() {
        let good = String::from_utf8(encode(&Sets::new(), &cell("c"))).unwrap();
        assert!(decode(good.as_bytes(), &cell("c")).is_ok());
        assert!(decode(good.as_bytes(), &cell("other")).err().unwrap().contains("cell"));
        let newer = good.replace("\"version\": 1", "\"version\": 2");
        assert!(decode(newer.as_bytes(), &cell("c")).err().unwrap().contains("version"));
        assert!(decode(&good.as_bytes()[..good.len() / 2], &cell("c")).is_err());
        assert!(decode(b"", &cell("c")).is_err());
    }
}
