//! Agents that do not have what the records say, and agents that cannot be asked.

use std::io::Write;

use kilonova_model::{HostName, InstanceId, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::{InstanceRecord, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::{Healing, Kind};
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_proto::volume::v1 as volume_service;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_store::Txn;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use prost::Message;

use crate::support::{attach, audit, change, clean, detach, healed, keys, kinds, read, usage, volume};

over_both_stores!(
    what_a_host_lost_ends_in_error_and_what_grew_is_counted,
    exports_follow_the_instances,
    what_cannot_be_asked_is_not_checked,
);

/// Stops an agent, has its journal say something it never did, and starts it again.
async fn forge(cluster: &mut Cluster, kind: ServiceKind, host: &str, lines: &[serde_json::Value]) {
    cluster.stop(kind, host).await;
    let path = cluster.data_dir(host).join("journal.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    for (n, line) in lines.iter().enumerate() {
        let mut entry = serde_json::json!({
            "seq": 10_000 + n, "time": "2026-01-01T00:00:00Z", "host": host, "epoch": 1, "op": "", "id": "",
            "name": "forged", "generation": 1, "attempt": 1, "detail": null,
        });
        entry.as_object_mut().unwrap().extend(line.as_object().unwrap().clone());
        writeln!(file, "{entry}").unwrap();
    }
    drop(file);
    cluster.launch(kind, host).await;
    cluster.ready().await;
}

async fn what_a_host_lost_ends_in_error_and_what_grew_is_counted(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.volumes) = (1, 1);
    let Some((mut cluster, api)) = started(plan).await else { return };
    let (lost, halted) = (api.active("lost").await, api.active("halted").await);
    let (gone, grown) = (volume(&api, "gone").await, volume(&api, "grown").await);
    let power = serde_json::json!({ "power": "stop" });
    let lines = [
        serde_json::json!({ "op": "destroy", "id": lost.id }),
        serde_json::json!({ "op": "power", "id": halted.id, "detail": power }),
    ];
    let kept = kept(&cluster);
    forge(&mut cluster, ServiceKind::Compute, "compute-1", &lines).await;
    let lines = [
        serde_json::json!({ "op": "delete", "id": gone.id }),
        serde_json::json!({ "op": "extend", "id": grown.id, "detail": { "size_gib": 4 } }),
    ];
    forge(&mut cluster, ServiceKind::Volume, "storage-1@sim", &lines).await;

    let expected = [Kind::GuestMissing, Kind::PowerDrift, Kind::VolumeMissing, Kind::VolumeSizeDrift];
    let found = until("agents and conductors have found each other again", || async {
        let found = audit(&api, false).await;
        found.unchecked.is_empty().then_some(found)
    })
    .await;
    assert_eq!(kinds(&found), expected, "{found:#?}");
    assert_eq!(found.drifts[1].cause, "its record says ACTIVE, and the guest is SHUTDOWN");
    assert_eq!(found.drifts[3].cause, "its record says 1 GiB, and the backend has 4 GiB");
    let mended = audit(&api, true).await;
    let healings: Vec<Healing> = mended.drifts.iter().map(pb::Drift::healing).collect();
    assert_eq!(healings, [Healing::Healed, Healing::NotHealed, Healing::Healed, Healing::Healed]);
    let failed = api.until(&lost.id, State::Error).await;
    assert_eq!(failed.fault.unwrap().reason, "BUILD_LOST");
    assert_eq!(api.until_volume(&gone.id, VolumeState::Error).await.fault.unwrap().reason, "BUILD_LOST");
    until("what grew is counted", || async {
        let size_gib = api.get_volume(&grown.id).await.ok()?.spec?.size_gib;
        ((size_gib, usage(&api).await.gigabytes) == (4, 5)).then_some(())
    })
    .await;
    assert_eq!(kinds(&audit(&api, true).await), [Kind::PowerDrift]);

    // As when a disk was not mounted, and is again.
    for ((kind, host), journal) in AGENTS.into_iter().zip(kept) {
        cluster.stop(kind, host).await;
        std::fs::write(cluster.data_dir(host).join("journal.jsonl"), journal).unwrap();
        cluster.launch(kind, host).await;
    }
    cluster.ready().await;
    let found = until("agents and conductors have found each other again", || async {
        let found = audit(&api, true).await;
        found.unchecked.is_empty().then_some(found)
    })
    .await;
    let lost: Vec<_> = found.drifts.iter().filter(|drift| drift.kind() == Kind::LostFound).collect();
    assert_eq!(lost.len(), 2, "{found:#?}");
    assert!(lost.iter().all(|drift| drift.healing() == Healing::Healed), "{lost:#?}");
    assert!(api.until(&failed.id, State::Active).await.fault.is_none());
    api.until_volume(&gone.id, VolumeState::Available).await;
    cluster.shutdown().await;
}

const AGENTS: [(ServiceKind, &str); 2] =
    [(ServiceKind::Compute, "compute-1"), (ServiceKind::Volume, "storage-1@sim")];

/// What the agents have.
fn kept(cluster: &Cluster) -> Vec<Vec<u8>> {
    let read = |host| std::fs::read(cluster.data_dir(host).join("journal.jsonl")).unwrap();
    AGENTS.into_iter().map(|(_, host)| read(host)).collect()
}

/// Talks to a backend itself, as a conductor would.
async fn backend(
    cluster: &Cluster,
    api: &Api,
    volume: &pb::Volume,
) -> (VolumeServiceClient<tonic::transport::Channel>, volume_service::VolumeCommand) {
    let service = pb::ServiceKind::Volume.into();
    let request = api::GetHostRequest { service, host: volume.host.clone() };
    let host = api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap();
    let command = volume_service::VolumeCommand {
        volume_id: volume.id.clone(),
        generation: volume.generation,
        attempt: volume.attempt,
        target_host: volume.host.clone(),
        target_epoch: host.epoch,
        request_id: "test".into(),
        store_revision: 0,
        store_mark: String::new(),
    };
    (VolumeServiceClient::new(cluster.channel(ServiceKind::Volume, &volume.host)), command)
}

async fn exports_follow_the_instances(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let guest = api.active("guest").await;
    let (free, used) = (volume(&api, "free").await, volume(&api, "used").await);
    attach(&api, &guest.id, &used.id).await;
    let used = api.until_volume(&used.id, VolumeState::InUse).await;
    for volume in [&free, &used] {
        let (mut client, command) = backend(&cluster, &api, volume).await;
        let connector = [("host".to_owned(), "compute-9".to_owned())].into();
        let request = volume_service::InitializeConnectionRequest { command: Some(command), connector };
        client.initialize_connection(request).await.unwrap();
    }
    let found = healed(&api, &[Kind::ExportOrphan, Kind::ExportOrphan]).await;
    assert_eq!(
        (found[0].host.as_str(), found[0].remedy.as_str()),
        ("compute-9", "end its export to compute-9")
    );

    let (mut client, command) = backend(&cluster, &api, &used).await;
    let connector = [("host".to_owned(), guest.host.clone())].into();
    let request = volume_service::TerminateConnectionRequest { command: Some(command), connector };
    client.terminate_connection(request).await.unwrap();
    let found = audit(&api, true).await;
    assert_eq!(kinds(&found), [Kind::ExportMissing]);
    assert_eq!((found.drifts[0].host.as_str(), found.drifts[0].remedy.as_str()), (guest.host.as_str(), ""));
    detach(&api, &guest.id, &used.id).await;
    clean(&api).await;
    cluster.shutdown().await;
}

async fn what_cannot_be_asked_is_not_checked(backing: Backing) {
    let Some((mut cluster, api)) = started(Plan::new(backing)).await else { return };
    let guest = api.active("guest").await;
    let key = keys(&cluster).instance(guest.id.parse::<InstanceId>().unwrap());
    let mut record: InstanceRecord = read(&cluster, &key).await;
    let left = Receipt { host: "compute-9".into(), attempt: 1, ..Default::default() };
    record.receipts.push(left);
    change(&cluster, Txn::new().put(&key, record.encode_to_vec())).await;
    cluster.stop(ServiceKind::Compute, &guest.host).await;
    let found = until("the conductors know that the host has left", || async {
        let found = audit(&api, true).await;
        found.unchecked.iter().any(|one| one.name == guest.host).then_some(found)
    })
    .await;
    assert_eq!(kinds(&found), [Kind::ReceiptLeft], "{found:#?}");
    assert_eq!(found.drifts[0].host, "compute-9");
    let unchecked = &found.unchecked[0];
    assert_eq!(
        (unchecked.service(), unchecked.name.as_str()),
        (pb::ServiceKind::Compute, guest.host.as_str())
    );
    assert_eq!(api.get(&guest.id).await.unwrap().state(), State::Active);
    assert!(HostName::parse(&guest.host).is_ok() && found.hosts == 4);
    cluster.shutdown().await;
}
