//! Volumes as the executor's work: made by create, made larger by extend, unmade by delete.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Error, Reason, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{ReportStatus, VolumeReport};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::volume::v1 as pb;
use kilonova_runtime::agent::inventory::Known;
use kilonova_runtime::agent::ledger::{Conclusion, Outcome, Stamp};
use kilonova_runtime::agent::work::{Site, Verbs, Work, answered};
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, Stored, VolumeOrder};
use crate::locks::Locks;
use crate::pools::PoolClaims;

/// A volume is to be larger.
#[derive(Debug, Clone, Copy)]
pub struct Extend {
    /// Its new size.
    size_gib: u32,
    /// What it held before; known once its room is claimed.
    from_gib: u32,
}

impl Extend {
    /// To this size.
    pub fn to(size_gib: u32) -> Self {
        Self { size_gib, from_gib: 0 }
    }
}

/// Keeps what is used from being removed: held alone by whoever removes a volume or a snapshot, and shared by whoever needs it to
/// stay meanwhile. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    /// Of the volumes.
    pub volumes: Locks<VolumeId>,
    /// Of the snapshots.
    pub snapshots: Locks<SnapshotId>,
}

/// The volumes of one backend.
pub struct Volumes {
    site: Site,
    driver: Arc<dyn Driver>,
    presence: Presence,
}

impl Volumes {
    /// Work done by this driver on this backend.
    pub fn new(site: Site, driver: Arc<dyn Driver>, presence: Presence) -> Self {
        Self { site, driver, presence }
    }
}

#[async_trait]
impl Work for Volumes {
    type Id = VolumeId;
    type Order = VolumeOrder;
    type Made = ();
    type Act = Extend;
    type Claims = PoolClaims;
    type Report = VolumeReport;

    const VERBS: Verbs = Verbs {
        noun: "volume",
        make: "create",
        driver_make: "create",
        unmake: "delete",
        driver_unmake: "delete",
    };
    const NOT_FOUND: Reason = Reason::VolumeNotFound;

    fn kind(_: &Extend) -> Kind {
        Kind::Extend
    }

    fn act_name(_: &Extend) -> &'static str {
        "extend_volume"
    }

    fn claim_act(claims: &mut PoolClaims, id: VolumeId, act: &mut Extend) -> Result<(), Error> {
        act.from_gib = claims.grow(id, act.size_gib)?;
        Ok(())
    }

    fn act_failed(claims: &mut PoolClaims, id: VolumeId, act: &Extend) {
        claims.shrink(id, act.from_gib);
    }

    async fn make(
        &self,
        id: VolumeId,
        stamp: Stamp,
        order: &VolumeOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        tracing::info!(%id, %stamp, name = order.spec.name, host = %self.site.host, "creating");
        let _source = match SnapshotId::parse(&order.spec.snapshot_id) {
            Ok(snapshot) => Some(self.presence.snapshots.shared(snapshot).await),
            Err(_) => None,
        };
        self.driver.create(id, stamp, order, cancel).await
    }

    async fn unmake(&self, id: VolumeId, stamp: Stamp) -> Result<(), Error> {
        tracing::info!(%id, %stamp, host = %self.site.host, "deleting");
        let _alone = self.presence.volumes.exclusive(id).await;
        self.driver.delete(id, stamp).await
    }

    async fn act(
        &self,
        id: VolumeId,
        stamp: Stamp,
        act: &Extend,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        tracing::info!(%id, %stamp, size_gib = act.size_gib, host = %self.site.host, "extending");
        let extended = self.driver.extend(id, stamp, act.size_gib, cancel).await;
        // An answer is not what is there: room that a volume has is not given back.
        match extended {
            Err(error) => match answered(self.driver.size(id)).await {
                Ok(Some(size)) if size >= act.size_gib => Ok(()),
                _ => Err(error),
            },
            Ok(()) => Ok(()),
        }
    }

    fn report(&self, id: VolumeId, conclusion: &Conclusion<()>) -> VolumeReport {
        let mut report = VolumeReport {
            volume_id: id.to_string(),
            generation: conclusion.stamp.generation.0,
            attempt: conclusion.stamp.attempt.0,
            steps: conclusion.steps.clone(),
            ..VolumeReport::default()
        };
        if let Some(act) = &conclusion.act {
            report.set_operation(act.kind);
            report.fault = act.fault.as_deref().cloned();
        }
        match &conclusion.outcome {
            Outcome::Ready(()) => report.set_status(ReportStatus::Ready),
            Outcome::Failed(fault) => {
                report.set_status(ReportStatus::Failed);
                report.fault = Some(*fault.clone());
            }
            Outcome::Gone => report.set_status(ReportStatus::Gone),
        }
        report
    }
}

/// What there is on a backend: what the book knows, what the storage has, and what room is held.
pub fn inventory(
    known: &BTreeMap<VolumeId, Known>,
    found: Vec<Stored>,
    held: Vec<VolumeId>,
) -> BTreeMap<VolumeId, pb::StoredVolume> {
    let mut all = BTreeMap::<VolumeId, pb::StoredVolume>::new();
    let of = |id: VolumeId| pb::StoredVolume { volume_id: id.to_string(), ..Default::default() };
    for (id, known) in known {
        let entry = all.entry(*id).or_insert_with(|| of(*id));
        (entry.generation, entry.attempt) = (known.stamp.generation.0, known.stamp.attempt.0);
        entry.busy = known.busy;
    }
    for volume in found {
        let entry = all.entry(volume.id).or_insert_with(|| of(volume.id));
        (entry.present, entry.size_gib, entry.exports) = (true, volume.share.size_gib, volume.exports);
        let done = (volume.stamp.generation.0, volume.stamp.attempt.0);
        (entry.generation, entry.attempt) = done.max((entry.generation, entry.attempt));
    }
    for id in held {
        all.entry(id).or_insert_with(|| of(id)).claimed = true;
    }
    all
}
