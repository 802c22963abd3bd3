//! What is right is left alone, whatever goes on.

use futures::future::join_all;
use kilonova_model::Reason;
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::snapshot::State as SnapshotState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_tests::asking::started;
use kilonova_tests::{Api, Backing, Plan, over_both_stores};
use tokio::sync::watch;

use crate::support::{
    attach, audit, audit_of, confirm, detach, group, in_group, migrate, snapshot, stop, usage, volume,
};

over_both_stores!(a_cell_that_is_right_has_no_drift, an_audit_that_heals_loses_nothing_of_what_goes_on);

async fn a_cell_that_is_right_has_no_drift(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let spread = group(&api, Policy::AntiAffinity).await;
    let (first, second) = (in_group(&api, &spread).await, in_group(&api, &spread).await);
    let data = volume(&api, "data").await;
    attach(&api, &first.id, &data.id).await;
    snapshot(&api, &volume(&api, "kept").await.id).await;
    migrate(&api, &first.id, true).await;
    let resized = api.active("resized").await;
    migrate(&api, &resized.id, false).await;
    stop(&api, &second.id).await;
    let gone = api.active("gone").await;
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;

    let found = audit(&api, true).await;
    assert!(found.drifts.is_empty() && found.unchecked.is_empty() && !found.truncated, "{found:#?}");
    assert_eq!((found.instances, found.volumes, found.snapshots, found.server_groups), (4, 2, 1, 1));
    assert_eq!((found.projects, found.hosts), (1, 5));

    confirm(&api, &resized.id).await;
    assert!(audit(&api, true).await.drifts.is_empty());
    let of_one = audit_of(&api, true, "compute-1").await.unwrap();
    assert_eq!((of_one.hosts, of_one.drifts.len()), (1, 0));
    assert_eq!(audit_of(&api, true, "compute-77").await.unwrap_err(), Reason::HostNotFound);
    assert_eq!(audit_of(&api, true, "no host!").await.unwrap_err(), Reason::ValidationFailed);
    cluster.shutdown().await;
}

/// One user's day: everything that moves guests, claims, exports and counts.
async fn live(api: &Api, number: usize) -> (pb::Instance, String, String) {
    let spread = group(api, Policy::SoftAntiAffinity).await;
    let (gone, kept) = (in_group(api, &spread).await, in_group(api, &spread).await);
    let data = volume(api, &format!("data-{number}")).await;
    attach(api, &gone.id, &data.id).await;
    migrate(api, &gone.id, true).await;
    detach(api, &gone.id, &data.id).await;
    attach(api, &kept.id, &data.id).await;
    migrate(api, &kept.id, false).await;
    confirm(api, &kept.id).await;
    let extra = volume(api, &format!("extra-{number}")).await;
    let request = api::ExtendVolumeRequest { volume_id: extra.id.clone(), size_gib: 3, ..Default::default() };
    api.volumes().extend_volume(request).await.unwrap();
    api.until_volume_after(&extra, VolumeState::Available).await;
    let copy = snapshot(api, &extra.id).await;
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;
    (stop(api, &kept.id).await, data.id, copy.id)
}

async fn an_audit_that_heals_loses_nothing_of_what_goes_on(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let (done, is_done) = watch::channel(false);
    let auditing = async {
        let mut audits = 0;
        while !*is_done.borrow() {
            let found = audit(&api, true).await;
            assert!(found.drifts.is_empty(), "what is in progress is no drift: {found:#?}");
            audits += 1;
        }
        audits
    };
    let living = async {
        let mut kept = Vec::new();
        for round in 0..3 {
            kept.extend(join_all((0..4).map(|number| live(&api, round * 4 + number))).await);
        }
        done.send_replace(true);
        kept
    };
    let (kept, audits) = tokio::join!(living, auditing);
    assert!(audits > 3, "only {audits} audits");
    for (stopped, data, copy) in &kept {
        let instance = api.settled(stopped).await;
        assert_eq!(instance.state(), State::Stopped);
        assert_eq!(instance.attachments.len(), 1);
        api.until_volume(data, VolumeState::InUse).await;
        let request = api::GetSnapshotRequest { snapshot_id: copy.clone(), ..Default::default() };
        let copy = api.snapshots().get_snapshot(request).await.unwrap().into_inner().snapshot.unwrap();
        assert_eq!(copy.state(), SnapshotState::Available);
    }
    let used = usage(&api).await;
    assert_eq!(
        (used.instances, used.volumes, used.snapshots, used.gigabytes),
        (12, 24, 12, 12 * (1 + 3 + 3))
    );
    let found = audit(&api, false).await;
    assert!(found.drifts.is_empty() && found.unchecked.is_empty(), "{found:#?}");
    cluster.shutdown().await;
}
