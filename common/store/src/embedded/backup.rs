//! A copy of a store that may be open in another process.

use std::fs::{self, File};
use std::path::Path;

use kilonova_model::Revision;

use super::mark::Mark;
use super::{DATABASE, database};
use crate::StoreError;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The revision the copy is at.
    pub revision: Revision,
    /// How many keys it has.
    pub keys: u64,
}

/// Copies the store in `dir`, as it is at one moment, to a new file; the file is there, whole and durable, or not at all. Reads and writes the
/// disk. Writers go on meanwhile. A store that has lost something is not copied, for the copy would look like a good one, nor touched.
pub fn backup(dir: &Path, file: &Path) -> Result<Backup, StoreError> {
    let failed =
        |error: std::io::Error| StoreError::unavailable(format!("cannot write {}: {error}", file.display()));
    let from = dir.join(DATABASE);
    if !from.is_file() {
        return Err(StoreError::unavailable(format!("there is no store in {}", dir.display())));
    }
    if file.exists() {
        return Err(StoreError::unavailable(format!("{} is there already", file.display())));
    }
    let unread =
        |error| StoreError::unavailable(format!("cannot read the mark of {}: {error}", dir.display()));
    let mark = Mark::read(dir).map_err(unread)?;
    // With its log gone, opening it as usual would make a new one.
    let log = dir.join(format!("{DATABASE}-wal"));
    if let Some(mark) = mark.filter(|_| !log.exists()) {
        let found = database::at_rest(&from).map_err(|error| database::from_sqlite(&error))?;
        whole(dir, mark, found)?;
    }
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = file.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let copied = database::copy(&from, &temporary).and_then(|()| database::count(&temporary));
    let (found, keys) = copied.map_err(|error| database::from_sqlite(&error))?;
    if let Err(error) = mark.map_or(Ok(()), |mark| whole(dir, mark, found)) {
        fs::remove_file(&temporary).map_err(failed)?;
        return Err(error);
    }
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let publish = || {
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, file)?;
        File::open(parent)?.sync_all()
    };
    publish().map_err(failed)?;
    Ok(Backup { revision: found.revision, keys })
}

/// Refuses a store that has less than its mark.
fn whole(dir: &Path, mark: Mark, found: Mark) -> Result<(), StoreError> {
    mark.misses(Some(found)).map_or(Ok(()), |lost| {
        let message = format!("{lost}; nothing was copied from {}: see \"When the store is not what it was\" in docs/operations.md", dir.display());
        Err(StoreError::unavailable(message))
    })
}
