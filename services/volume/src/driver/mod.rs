//! What a storage driver does. It only talks to its storage: locking, claims and reports are the manager's.

pub mod simulated;

use std::collections::BTreeMap;

use async_trait::async_trait;
use kilonova_model::{Error, ProjectId, SnapshotId, VolumeId};
use kilonova_proto::types::v1::VolumeSpec;
use kilonova_proto::types::v1::action::Kind;
use kilonova_runtime::agent::ledger::Stamp;
use tokio_util::sync::CancellationToken;

use crate::pools::Share;

/// What is asked of the driver for one volume.
#[derive(Debug, Clone, PartialEq)]
pub struct VolumeOrder {
    /// The project that owns it.
    pub project: ProjectId,
    /// Where, and how much.
    pub share: Share,
    /// What the user asked for.
    pub spec: VolumeSpec,
}

/// What is asked of the driver for one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// Of which volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
}

/// A volume as the storage has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Which.
    pub id: VolumeId,
    /// The newest command that was done.
    pub stamp: Stamp,
    /// Which operation that was; none if it made the volume.
    pub act: Option<Kind>,
    /// What it takes, and where.
    pub share: Share,
    /// The hosts that reach it.
    pub exports: Vec<String>,
}

/// A snapshot as the storage has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// Of which volume.
    pub volume: VolumeId,
    /// The newest command that was done.
    pub stamp: Stamp,
}

/// One pool's own figures.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolFigures {
    /// Its name within the backend.
    pub name: String,
    /// Its size in GiB.
    pub total_gib: u32,
    /// Really free, in GiB.
    pub free_gib: u32,
    /// The part of it that is kept back, in percent.
    pub reserved_percentage: u32,
    /// Whether volumes take room only as they are written.
    pub thin_provisioning: bool,
    /// With thin provisioning: what may be promised per room there is.
    pub max_over_subscription_ratio: f64,
    /// Whatever else it says of itself.
    pub capabilities: BTreeMap<String, String>,
    /// How good a place the driver finds it for new volumes, 0 to 100.
    pub goodness: Option<u32>,
}

/// A backend's own figures.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendFigures {
    /// Every pool; the first is the default.
    pub pools: Vec<PoolFigures>,
    /// The driver: `simulated`.
    pub driver: String,
    /// Its version.
    pub driver_version: String,
    /// How an instance reaches a volume.
    pub storage_protocol: String,
}

/// One storage backend.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Every volume that Kilonova made here, with the newest command that was done.
    async fn list(&self) -> Result<Vec<Stored>, Error>;

    /// Every snapshot that Kilonova made here, with the newest command that was done.
    async fn list_snapshots(&self) -> Result<Vec<StoredSnapshot>, Error>;

    /// Makes a volume, with the contents of the snapshot or the image that its spec names. Soon after `cancel` it ends, either way; it may also be dropped at any `.await`. What it leaves
    /// behind when it does not succeed, [`Driver::delete`] removes.
    async fn create(
        &self,
        id: VolumeId,
        stamp: Stamp,
        order: &VolumeOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error>;

    /// Removes a volume with all that belongs to it. There being none is a success.
    async fn delete(&self, id: VolumeId, stamp: Stamp) -> Result<(), Error>;

    /// Makes a volume larger, and notes with it which command that was. One that is as large is a success.
    async fn extend(
        &self,
        id: VolumeId,
        stamp: Stamp,
        size_gib: u32,
        cancel: &CancellationToken,
    ) -> Result<(), Error>;

    /// Keeps a volume's contents as they are now. Cancelled or failed as [`Driver::create`].
    async fn create_snapshot(
        &self,
        id: SnapshotId,
        stamp: Stamp,
        order: &SnapshotOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error>;

    /// Removes a snapshot. There being none is a success.
    async fn delete_snapshot(&self, id: SnapshotId, stamp: Stamp) -> Result<(), Error>;

    /// Lets a host reach a volume, and says how. The same again is answered the same.
    async fn export(&self, id: VolumeId, host: &str) -> Result<BTreeMap<String, String>, Error>;

    /// Keeps a host from reaching a volume any longer; every host when there is none. One that does not reach it is a
    /// success, and so is no volume.
    async fn unexport(&self, id: VolumeId, host: Option<&str>) -> Result<(), Error>;

    /// The size of a volume in GiB; `None` if there is none.
    async fn size(&self, id: VolumeId) -> Result<Option<u32>, Error>;

    /// The backend's own figures.
    async fn figures(&self) -> Result<BackendFigures, Error>;
}
