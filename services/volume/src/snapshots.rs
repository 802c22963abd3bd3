//! Snapshots as the executor's work: made of a volume, unmade, reported. They claim no room: as in Cinder, what they take is
//! the storage's own affair until it is short of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Attempt, Error, Generation, HostName, Reason, SnapshotId};
use kilonova_proto::conductor::v1::{ReportStatus, SnapshotReport};
use kilonova_proto::types::v1::Snapshot;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::snapshot::State;
use kilonova_proto::volume::v1 as pb;
use kilonova_runtime::agent::inventory::Known;
use kilonova_runtime::agent::ledger::{Conclusion, Outcome, Stamp};
use kilonova_runtime::agent::reconcile::{Record, Standing};
use kilonova_runtime::agent::work::{Claims, Site, Verbs, Work};
use tokio_util::sync::CancellationToken;

use crate::driver::{Driver, SnapshotOrder, StoredSnapshot};
use crate::stored::Presence;

/// Room that nothing is taken of.
#[derive(Debug, Default)]
pub struct NoRoom;

impl Claims for NoRoom {
    type Id = SnapshotId;
    type Order = SnapshotOrder;

    fn claim(&mut self, _: SnapshotId, order: &mut SnapshotOrder) -> Result<String, Error> {
        Ok(format!("of volume {}", order.volume))
    }

    fn release(&mut self, _: SnapshotId) {}
}

/// The snapshots of one backend.
pub struct Snapshots {
    site: Site,
    driver: Arc<dyn Driver>,
    presence: Presence,
}

impl Snapshots {
    /// Work done by this driver on this backend.
    pub fn new(site: Site, driver: Arc<dyn Driver>, presence: Presence) -> Self {
        Self { site, driver, presence }
    }
}

#[async_trait]
impl Work for Snapshots {
    type Id = SnapshotId;
    type Order = SnapshotOrder;
    type Made = ();
    type Act = Infallible;
    type Claims = NoRoom;
    type Report = SnapshotReport;

    const VERBS: Verbs = Verbs {
        noun: "snapshot",
        make: "snapshot",
        driver_make: "create_snapshot",
        unmake: "delete_snapshot",
        driver_unmake: "delete_snapshot",
    };
    const NOT_FOUND: Reason = Reason::SnapshotNotFound;

    fn kind(act: &Infallible) -> Kind {
        match *act {}
    }

    fn act_name(act: &Infallible) -> &'static str {
        match *act {}
    }

    async fn make(
        &self,
        id: SnapshotId,
        stamp: Stamp,
        order: &SnapshotOrder,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        tracing::info!(%id, %stamp, volume = %order.volume, host = %self.site.host, "keeping a snapshot");
        let _there = self.presence.volumes.shared(order.volume).await;
        self.driver.create_snapshot(id, stamp, order, cancel).await
    }

    async fn unmake(&self, id: SnapshotId, stamp: Stamp) -> Result<(), Error> {
        tracing::info!(%id, %stamp, host = %self.site.host, "removing a snapshot");
        let _alone = self.presence.snapshots.exclusive(id).await;
        self.driver.delete_snapshot(id, stamp).await
    }

    async fn act(
        &self,
        _: SnapshotId,
        _: Stamp,
        act: &Infallible,
        _: &CancellationToken,
    ) -> Result<(), Error> {
        match *act {}
    }

    fn report(&self, id: SnapshotId, conclusion: &Conclusion<()>) -> SnapshotReport {
        let (status, fault) = match &conclusion.outcome {
            Outcome::Ready(()) => (ReportStatus::Ready, None),
            Outcome::Failed(fault) => (ReportStatus::Failed, Some(*fault.clone())),
            Outcome::Gone => (ReportStatus::Gone, None),
        };
        SnapshotReport {
            snapshot_id: id.to_string(),
            generation: conclusion.stamp.generation.0,
            attempt: conclusion.stamp.attempt.0,
            status: status.into(),
            fault,
            steps: conclusion.steps.clone(),
        }
    }
}

/// What the conductor's record of a snapshot says to its backend; `None` if it does not belong on `host`.
pub fn record(host: &HostName, snapshot: &Snapshot) -> Option<Record<SnapshotId>> {
    if snapshot.host != host.as_str() {
        return None;
    }
    let standing = match snapshot.state() {
        State::Deleting | State::Deleted => Standing::Unwanted,
        State::Creating => Standing::Making,
        State::Error => Standing::Broken,
        State::Available | State::Unspecified => Standing::There,
    };
    let stamp = Stamp { generation: Generation(snapshot.generation), attempt: Attempt(snapshot.attempt) };
    Some(Record { id: SnapshotId::parse(&snapshot.id).ok()?, stamp, standing })
}

/// What there is on a backend: what the book knows, and what the storage has.
pub fn inventory(
    known: &BTreeMap<SnapshotId, Known>,
    found: Vec<StoredSnapshot>,
) -> BTreeMap<SnapshotId, pb::StoredSnapshot> {
    let mut all = BTreeMap::<SnapshotId, pb::StoredSnapshot>::new();
    let of = |id: SnapshotId| pb::StoredSnapshot { snapshot_id: id.to_string(), ..Default::default() };
    for (id, known) in known {
        let entry = all.entry(*id).or_insert_with(|| of(*id));
        (entry.generation, entry.attempt) = (known.stamp.generation.0, known.stamp.attempt.0);
        entry.busy = known.busy;
    }
    for snapshot in found {
        let entry = all.entry(snapshot.id).or_insert_with(|| of(snapshot.id));
        (entry.present, entry.volume_id) = (true, snapshot.volume.to_string());
        let done = (snapshot.stamp.generation.0, snapshot.stamp.attempt.0);
        (entry.generation, entry.attempt) = done.max((entry.generation, entry.attempt));
    }
    all
}
