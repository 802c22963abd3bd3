//! A machine that was renamed: its agent's default data directory has the host's name in it, so under another name the agent would
//! begin with nothing beside all that it has.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use kilonova_model::ServiceKind;

use crate::config::{Config, Place};
use crate::failure::Failure;

/// The file that says whose data a directory holds.
const IDENTITY: &str = "identity.json";
/// The file that a running agent has locked.
const LOCK: &str = "lock";

/// Refuses to begin in a new directory beside one with the data of another agent of this kind that does not run.
pub fn check(config: &Config, place: &Place) -> Result<(), Failure> {
    let dir = match place.service {
        ServiceKind::Compute => &config.compute.data_dir,
        ServiceKind::Volume => &config.volume.data_dir,
        ServiceKind::Api | ServiceKind::Conductor | ServiceKind::Scheduler => return Ok(()),
    };
    let Some(other) = left_beside(dir, place.host.as_str()) else { return Ok(()) };
    let (service, host, parent) = (place.service, &place.host, dir.parent().unwrap_or(dir).display());
    Err(Failure::failed(format!(
        "cannot start {service} host {host}: {parent} holds the data of {service} host {other}, which does not run: start it under that \
         name, or give this one a data directory of its own with --data-dir"
    )))
}

/// The agent whose data lie beside a directory that is yet to be made, and which does not run.
fn left_beside(dir: &Path, host: &str) -> Option<String> {
    // A directory that was given need not be named as the host is.
    if dir.exists() || dir.file_name()? != host {
        return None;
    }
    let others = fs::read_dir(dir.parent()?).ok()?;
    others.flatten().find_map(|other| {
        let left = other.path().join(IDENTITY).exists() && !is_locked(&other.path().join(LOCK));
        left.then(|| other.file_name().to_string_lossy().into_owned())
    })
}

fn is_locked(file: &Path) -> bool {
    File::open(file).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_run_is_in_the_way_of_a_new_name() {
        let root = tempfile::tempdir().unwrap();
        let dir = |host: &str| root.path().join("compute").join(host);
        assert_eq!(left_beside(&dir("c9"), "c9"), None, "there is nothing yet");
        fs::create_dir_all(dir("c1")).unwrap();
        fs::write(dir("c1").join(IDENTITY), "{}").unwrap();
        assert_eq!(left_beside(&dir("c9"), "c9").as_deref(), Some("c1"));
        assert_eq!(left_beside(&dir("c1"), "c1"), None, "its own");
        assert_eq!(left_beside(&dir("given"), "c9"), None);
        let lock = File::create(dir("c1").join(LOCK)).unwrap();
        lock.lock().unwrap();
        assert_eq!(left_beside(&dir("c9"), "c9"), None, "two of one machine");
        drop(lock);
        assert_eq!(left_beside(&dir("c9"), "c9").as_deref(), Some("c1"));
    }
}
