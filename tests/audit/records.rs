//! Records that do not agree with each other, and what no record wants.

use kilonova_model::{InstanceId, ServerGroupId, SnapshotId, VolumeId};
use kilonova_proto::conductor::v1::{MemberPlace, ServerGroupRecord, UsageRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::{Healing, Kind};
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_store::Txn;
use kilonova_tests::asking::started;
use kilonova_tests::{Backing, Plan, over_both_stores};
use prost::Message;

use crate::support::{
    attach, audit, change, group, healed, in_group, keys, kinds, read, snapshot, usage, volume,
};

over_both_stores!(usage_and_groups_are_put_right, what_no_record_wants_is_removed);

async fn usage_and_groups_are_put_right(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let together = group(&api, Policy::Affinity).await;
    let (first, second) = (in_group(&api, &together).await, in_group(&api, &together).await);
    let right = usage(&api).await;
    let wrong = pb::QuotaUsage { cores: 9, snapshots: 1, ..right };
    let key = keys(&cluster).usage(&"default".parse().unwrap());
    change(&cluster, Txn::new().put(key, UsageRecord { usage: Some(wrong) }.encode_to_vec())).await;
    let found = healed(&api, &[Kind::UsageDrift]).await;
    assert_eq!(found[0].cause, "cores: 9 counted, 2 in the records; snapshots: 1 counted, 0 in the records");
    assert_eq!(
        (found[0].subject_id.as_str(), found[0].remedy.as_str()),
        ("default", "write the sum of the records")
    );
    assert_eq!(usage(&api).await, right);

    let key = keys(&cluster).server_group(together.parse::<ServerGroupId>().unwrap());
    let mut record: ServerGroupRecord = read(&cluster, &key).await;
    let as_it_was = record.clone();
    let stranger = InstanceId::generate().to_string();
    record.server_group.as_mut().unwrap().instance_ids.push(stranger.clone());
    let elsewhere = MemberPlace { host: "compute-9".into(), ..Default::default() };
    record.places.insert(stranger, elsewhere.clone());
    record.places.insert(first.id.clone(), elsewhere);
    record.places.remove(&second.id);
    change(&cluster, Txn::new().put(&key, record.encode_to_vec())).await;
    let expected = [Kind::GroupMemberGone, Kind::GroupPlaceWrong, Kind::GroupPlaceWrong];
    healed(&api, &expected).await;
    let now: ServerGroupRecord = read(&cluster, &key).await;
    assert_eq!(now, as_it_was);

    let mut broken = as_it_was;
    broken.server_group.as_mut().unwrap().set_policy(Policy::AntiAffinity);
    change(&cluster, Txn::new().put(&key, broken.encode_to_vec())).await;
    let found = audit(&api, true).await;
    assert_eq!(kinds(&found), [Kind::GroupRuleBroken]);
    let drift = &found.drifts[0];
    assert_eq!((drift.remedy.as_str(), drift.healing()), ("", Healing::NotHealed));
    let cause = format!("at most 1 of them may share a host, and there are 2 on {}", first.host);
    assert_eq!(drift.cause, cause);
    cluster.shutdown().await;
}

async fn what_no_record_wants_is_removed(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let (lost, kept) = (api.active("lost").await, api.active("kept").await);
    let data = volume(&api, "data").await;
    attach(&api, &lost.id, &data.id).await;
    let (orphan, copied) = (volume(&api, "orphan").await, volume(&api, "copied").await);
    let copy = snapshot(&api, &copied.id).await;
    let keys = keys(&cluster);
    let txn = Txn::new()
        .delete(keys.instance(lost.id.parse::<InstanceId>().unwrap()))
        .delete(keys.volume(orphan.id.parse::<VolumeId>().unwrap()))
        .delete(keys.snapshot(copy.id.parse::<SnapshotId>().unwrap()));
    change(&cluster, txn).await;
    let expected = [
        Kind::UsageDrift,
        Kind::GuestOrphan,
        Kind::VolumeOrphan,
        Kind::SnapshotOrphan,
        Kind::AttachmentDrift,
    ];
    let found = healed(&api, &expected).await;
    assert_eq!(
        (found[1].subject_id.as_str(), found[1].host.as_str()),
        (lost.id.as_str(), lost.host.as_str())
    );
    assert_eq!(found[1].cause, "the host has a guest (RUNNING), and there is no record of it");
    assert!(found[1].remedy.starts_with(&format!("terminate it on {}", lost.host)));
    assert_eq!(found[4].cause, format!("its record says IN_USE, and there is no instance {}", lost.id));
    let freed = api.until_volume(&data.id, VolumeState::Available).await;
    assert!(freed.attachments.is_empty());
    let lines = cluster.journals();
    let did = |op: &str, id: &str| lines.iter().filter(|line| line.op == op && line.id == id).count();
    assert_eq!((did("destroy", &lost.id), did("destroy", &kept.id)), (1, 0));
    assert_eq!((did("delete", &orphan.id), did("delete", &copied.id)), (1, 0));
    assert_eq!((did("delete_snapshot", &copy.id), did("unexport", &data.id)), (1, 1));
    attach(&api, &kept.id, &data.id).await;
    assert!(audit(&api, false).await.drifts.is_empty());
    cluster.shutdown().await;
}
