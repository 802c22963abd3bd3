//! `kilonova backup`: a copy of the embedded store, which may be in use.

use std::path::PathBuf;

use clap::Args;
use kilonova_store::embedded;

use crate::config::StoreKind;
use crate::failure::Failure;
use crate::flags::ConfigFlags;
use crate::output;

/// What `kilonova backup` takes.
#[derive(Clone, Debug, Args)]
pub struct BackupFlags {
    #[command(flatten)]
    shared: ConfigFlags,
    /// Write the copy to this file, which must not be there yet.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Copies the store that the configuration names.
pub fn run(flags: &BackupFlags) -> Result<(), Failure> {
    let config = flags.shared.load_quiet()?;
    let is_placed = config.data_dir.is_some() || config.store.path.is_some();
    let config = config.resolve_shared(std::path::Path::new(""));
    let dir = match config.store.kind {
        Some(StoreKind::Etcd) => {
            return Err(Failure::usage("etcd is backed up by its own tool: etcdctl snapshot save FILE"));
        }
        _ => config.store.path.filter(|_| is_placed).ok_or_else(|| {
            Failure::usage("the store must be named: give --data-dir, or --set store.path=DIR")
        })?,
    };
    let copied = embedded::backup(&dir, &flags.file).map_err(|error| {
        Failure::failed(format!(
            "cannot back up the store in {}: {}",
            dir.display(),
            crate::stores::cause(&error)
        ))
    })?;
    output::say(&format!(
        "{}: {} keys, at revision {}\n",
        flags.file.display(),
        copied.keys,
        copied.revision
    ));
    Ok(())
}
