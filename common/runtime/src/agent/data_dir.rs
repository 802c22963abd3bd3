//! Files beside an agent's data, by which it knows whose data they are, and which store their records are in.
//!
//! A file is replaced as a whole: whatever ends the process or the machine, it is as before or as written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kilonova_model::{CellName, HostName, ServiceKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Whose data a directory holds.
const IDENTITY: &str = "identity.json";

/// The advice about a file that cannot be read.
const ADVICE: &str =
    "restore it from a copy, or remove it if you know that the data beside it are this agent's";

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what an agent writes.
    #[error("cannot read {}: {problem}; {advice}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: serde_json::Error,
        /// The advice about it.
        advice: &'static str,
    },
    /// The data are another agent's.
    #[error("the data in {} are those of {theirs}, and this is {ours}: start it under that name, or with a data directory of its own", path.display())]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// Whose data they are.
        theirs: Box<Owner>,
        /// Who was started.
        ours: Box<Owner>,
    },
}

/// Whose data a directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The kind of agent.
    pub service: String,
    /// Its host or backend.
    pub host: String,
    /// Its cell.
    pub cell: String,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} host {} in cell {}", self.service, self.host, self.cell)
    }
}

/// Makes the directory this agent's, or refuses it if it is another's.
pub fn claim(dir: &Path, service: ServiceKind, host: &HostName, cell: &CellName) -> Result<(), DataDirError> {
    let ours = Owner { service: service.to_string(), host: host.to_string(), cell: cell.to_string() };
    let path = dir.join(IDENTITY);
    fs::create_dir_all(dir).map_err(|source| DataDirError::File { path: dir.to_owned(), source })?;
    match read::<Owner>(&path, ADVICE)? {
        Some(theirs) if theirs == ours => Ok(()),
        Some(theirs) => Err(DataDirError::Foreign {
            path: dir.to_owned(),
            theirs: Box::new(theirs),
            ours: Box::new(ours),
        }),
        None => write(&path, &ours),
    }
}

/// Reads a file; none if there is no such file. `advice` is that about a damaged one.
pub(super) fn read<T: DeserializeOwned>(
    path: &Path,
    advice: &'static str,
) -> Result<Option<T>, DataDirError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataDirError::File { path: path.to_owned(), source }),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|problem| DataDirError::Damaged { path: path.to_owned(), problem, advice })
}

/// Replaces a file. What is written outlives the machine.
pub(super) fn write<T: Serialize>(path: &Path, what: &T) -> Result<(), DataDirError> {
    let replace = || {
        replaced(path, what, File::sync_all)?;
        // The rename itself outlives the machine once the directory is written.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    replace().map_err(|source| DataDirError::File { path: path.to_owned(), source })
}

/// Replaces a file. What is written outlives the process; the machine only once it is written with [`write`].
pub(super) fn note<T: Serialize>(path: &Path, what: &T) -> Result<(), DataDirError> {
    replaced(path, what, |_| Ok(())).map_err(|source| DataDirError::File { path: path.to_owned(), source })
}

fn replaced<T: Serialize>(path: &Path, what: &T, sync: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    sync(&file)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(dir: &Path, service: ServiceKind, host: &str, cell: &str) -> Result<(), String> {
        let (host, cell) = (HostName::parse(host).unwrap(), CellName::parse(cell).unwrap());
        claim(dir, service, &host, &cell).map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_is_one_agents_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        for _ in 0..2 {
            assert_eq!(claimed(&data, ServiceKind::Compute, "c1", "main"), Ok(()));
        }
        for (service, host, cell) in [
            (ServiceKind::Compute, "c9", "main"),
            (ServiceKind::Volume, "c1", "main"),
            (ServiceKind::Compute, "c1", "other"),
        ] {
            let refused = claimed(&data, service, host, cell).unwrap_err();
            assert!(refused.contains("those of compute host c1 in cell main"), "{refused}");
            assert!(refused.contains(&format!("this is {service} host {host} in cell {cell}")), "{refused}");
        }
        fs::write(data.join(IDENTITY), "{").unwrap();
        assert!(claimed(&data, ServiceKind::Compute, "c1", "main").unwrap_err().contains("identity.json"));
    }
}
