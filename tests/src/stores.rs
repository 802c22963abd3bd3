//! A store of a cell's own, which can be put back to an earlier copy of itself, or emptied.

use std::io;
use std::path::Path;
use std::sync::Arc;

use kilonova_store::SharedStore;
use kilonova_store::embedded::{EmbeddedOptions, EmbeddedStore};
use kilonova_store::testing::{EtcdCopy, EtcdProcess};
use tempfile::TempDir;

use crate::cluster::{Backing, connected};

/// Where the data of a store are.
#[derive(Debug)]
pub enum Kept {
    /// A directory that one process has open.
    Embedded(TempDir),
    /// A process of its own.
    Etcd(Box<EtcdProcess>),
}

/// An earlier copy of a store's data.
#[derive(Debug)]
pub enum Copied {
    /// The files.
    Embedded(TempDir),
    /// What etcd had.
    Etcd(EtcdCopy),
}

impl Kept {
    /// An empty one. None when the store's program is missing, which is said.
    pub async fn new(backing: Backing) -> Option<Self> {
        Some(match backing {
            Backing::Embedded => Self::Embedded(directory()),
            Backing::Etcd => Self::Etcd(Box::new(EtcdProcess::start().await.expect("etcd starts")?)),
        })
    }

    /// Whether the data can be changed while services have the store open.
    #[must_use]
    pub fn changes_while_open(&self) -> bool {
        matches!(self, Self::Etcd(_))
    }

    /// Opens it, with the operator's word that what is there is the store.
    pub async fn open(&self) -> SharedStore {
        match self {
            Self::Embedded(dir) => {
                let store = EmbeddedStore::open(
                    dir.path(),
                    EmbeddedOptions { accept_older: true, ..Default::default() },
                );
                Arc::new(store.expect("the store opens"))
            }
            Self::Etcd(etcd) => connected(etcd.endpoint()).await,
        }
    }

    /// Copies the data; of an embedded one nobody may write meanwhile.
    pub async fn copy(&mut self) -> io::Result<Copied> {
        Ok(match self {
            Self::Embedded(dir) => {
                let copy = directory();
                copy_files(dir.path(), copy.path(), is_database)?;
                Copied::Embedded(copy)
            }
            Self::Etcd(etcd) => Copied::Etcd(etcd.copy().await?),
        })
    }

    /// Puts the data back to a copy, or removes them if there is none. What else is in an embedded one's directory stays, as it
    /// does when an operator puts a file back; whoever still has the old file open writes to nowhere.
    pub async fn put_back(&mut self, copy: Option<&Copied>) -> io::Result<()> {
        match (self, copy) {
            (Self::Embedded(dir), copy) => {
                let new = directory();
                copy_files(dir.path(), new.path(), |name| !is_database(name))?;
                if let Some(Copied::Embedded(copy)) = copy {
                    copy_files(copy.path(), new.path(), is_database)?;
                }
                *dir = new;
                Ok(())
            }
            (Self::Etcd(etcd), Some(Copied::Etcd(copy))) => etcd.restore(copy).await,
            (Self::Etcd(etcd), _) => etcd.wipe().await,
        }
    }
}

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("kilonova-store-").tempdir().expect("a directory")
}

/// Whether a file of the directory is of the database, with its write-ahead log.
fn is_database(name: &str) -> bool {
    name.starts_with("store.db")
}

fn copy_files(from: &Path, to: &Path, which: impl Fn(&str) -> bool) -> io::Result<()> {
    let names = std::fs::read_dir(from)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| which(name))
        .try_for_each(|name| std::fs::copy(from.join(&name), to.join(&name)).map(drop))
}
