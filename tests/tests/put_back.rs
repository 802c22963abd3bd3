//! Records as they were, under agents that have done more since: what a store that was put back, and accepted, asks of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{InstanceId, Reason, VolumeId};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::{InstanceRecord, Place, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::instance::{PowerState, State, Task};
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::config::Period;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::cluster::Cluster;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Plan, over_both_stores};
use prost::Message;

over_both_stores!(
    what_is_of_a_later_attempt_than_the_record_knows_is_not_removed_with_an_earlier_one,
    what_is_asked_after_it_is_done_though_its_agent_did_something_else_of_that_turn,
    while_a_copy_that_was_found_may_run_no_other_is_made_to,
);

fn plan(backing: Backing) -> Plan {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.volumes) = (2, 1);
    plan.compute.register_interval = Period::from_millis(200);
    plan.compute.reconcile_interval = Period::from_millis(200);
    plan
}

/// Some records, as they were at one time.
struct Copied(Vec<(String, Vec<u8>)>);

impl Copied {
    async fn of(cluster: &Cluster, instance: &str, volumes: &[&str]) -> Self {
        let keys = Keys::new(cluster.cell());
        let instance = keys.instance(instance.parse::<InstanceId>().unwrap());
        let volumes = volumes.iter().map(|id| keys.volume(id.parse::<VolumeId>().unwrap()));
        let mut copied = Vec::new();
        for key in std::iter::once(instance).chain(volumes) {
            let found = cluster.shared_store().get(&key).await.unwrap().0.unwrap();
            copied.push((key, found.value.to_vec()));
        }
        Self(copied)
    }

    /// Changes the instance in it.
    fn with(mut self, change: impl FnOnce(&mut InstanceRecord)) -> Self {
        let mut record = InstanceRecord::decode(self.0[0].1.as_slice()).unwrap();
        change(&mut record);
        self.0[0].1 = record.encode_to_vec();
        self
    }

    /// Puts them back while nothing runs.
    async fn put_back(self, cluster: &mut Cluster) -> Api {
        let all = cluster.kill_all().await;
        let txn = self.0.into_iter().fold(Txn::new(), |txn, (key, value)| txn.put(key, value));
        cluster.shared_store().txn(txn).await.unwrap().committed().unwrap();
        for (kind, host) in all {
            cluster.launch(kind, &host).await;
        }
        cluster.ready().await;
        cluster.api()
    }
}

async fn record(cluster: &Cluster, id: &str) -> InstanceRecord {
    let key = Keys::new(cluster.cell()).instance(id.parse().unwrap());
    let found = cluster.shared_store().get(&key).await.unwrap().0.unwrap();
    InstanceRecord::decode(found.value.as_ref()).unwrap()
}

async fn until_on(api: &Api, id: &str, host: &str, state: State) {
    until(&format!("{id} is {state:?} on {host}"), || async {
        let instance = api.get(id).await.ok()?;
        (instance.host == host && instance.state() == state && instance.task() == Task::Unspecified)
            .then_some(())
    })
    .await;
}

async fn move_to(api: &Api, id: &str, host: &str) {
    let request = api::MigrateInstanceRequest {
        instance_id: id.into(),
        target_host: host.into(),
        ..Default::default()
    };
    api.instances().migrate_instance(request).await.unwrap();
    until_on(api, id, host, State::Resized).await;
}

async fn moved_to(api: &Api, id: &str, host: &str) {
    move_to(api, id, host).await;
    let request = api::ConfirmResizeRequest { instance_id: id.into(), ..Default::default() };
    api.instances().confirm_resize(request).await.unwrap();
    until_on(api, id, host, State::Active).await;
}

async fn reboot(api: &Api, id: &str, vouched: &[&str]) -> Result<(), Reason> {
    let vouched_hosts = vouched.iter().map(|host| (*host).to_owned()).collect();
    let request = api::RebootInstanceRequest {
        instance_id: id.into(),
        hard: true,
        vouched_hosts,
        ..Default::default()
    };
    let asked = api.instances().reboot_instance(request).await;
    asked.map(drop).map_err(|status| from_status(&status).unwrap().reason)
}

/// The findings of an audit, but for the usage, which was not put back.
async fn audit(api: &Api, heal: bool) -> Vec<pb::Drift> {
    let request = api::AuditRequest { heal, ..Default::default() };
    let mut found = api.audits().audit(request).await.unwrap().into_inner().audit.unwrap().drifts;
    found.retain(|drift| drift.kind() != Kind::UsageDrift);
    found
}

/// The number of times that hosts and backends did it.
fn count(cluster: &Cluster, op: &str) -> usize {
    cluster.journals().iter().filter(|line| line.op == op).count()
}

/// The hosts that have a guest of it, by their journals.
fn guests(cluster: &Cluster, id: &str) -> Vec<String> {
    let mut hosts = std::collections::BTreeSet::new();
    for line in cluster.journals().into_iter().filter(|line| line.id == id) {
        match line.op.as_str() {
            "spawn" | "prepare" => _ = hosts.insert(line.host),
            "destroy" => _ = hosts.remove(&line.host),
            _ => {}
        }
    }
    hosts.into_iter().collect()
}

async fn what_is_of_a_later_attempt_than_the_record_knows_is_not_removed_with_an_earlier_one(
    backing: Backing,
) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("vm").await;
    let (id, first) = (instance.id.as_str(), instance.host.as_str());
    let second = if first == "compute-1" { "compute-2" } else { "compute-1" };
    moved_to(&api, id, second).await;
    // It had been evacuated from the first host, which still had to remove what it had.
    let (host, attempt) = (first.to_owned(), instance.attempt);
    let copied = Copied::of(&cluster, id, &[]).await.with(|record| {
        record.receipts.insert(0, Receipt { host: host.clone(), attempt, ..Default::default() });
        record.evacuated_from = Some(Place { host, attempt, ..Default::default() });
    });
    moved_to(&api, id, first).await;
    assert_eq!(guests(&cluster, id), [first]);

    let api = copied.put_back(&mut cluster).await;
    let found = until("what is there is known", || async {
        let receipts = record(&cluster, id).await.receipts;
        receipts.into_iter().find(|receipt| receipt.host == first && receipt.found)
    })
    .await;
    assert!(found.attempt > instance.attempt, "{found:?}");
    assert_eq!(guests(&cluster, id), [first], "the only copy");
    api.delete(id).await.unwrap();
    api.until(id, State::Deleted).await;
    assert!(guests(&cluster, id).is_empty());
    cluster.shutdown().await;
}

async fn what_is_asked_after_it_is_done_though_its_agent_did_something_else_of_that_turn(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("vm").await;
    let spec = pb::VolumeSpec { name: "disk".into(), size_gib: 1, ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let disk = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    api.until_volume(&disk, VolumeState::Available).await;
    let grows = async |api: &Api, size_gib: u32| {
        let request = api::ExtendVolumeRequest { volume_id: disk.clone(), size_gib, ..Default::default() };
        api.volumes().extend_volume(request).await.unwrap();
        until("it has grown", || async {
            let request = api::GetVolumeRequest { volume_id: disk.clone(), ..Default::default() };
            let volume = api.volumes().get_volume(request).await.ok()?.into_inner().volume?;
            (volume.spec?.size_gib == size_gib && volume.state == VolumeState::Available as i32).then_some(())
        })
        .await;
    };
    let copied = Copied::of(&cluster, &instance.id, &[&disk]).await;
    grows(&api, 3).await;
    assert_eq!(reboot(&api, &instance.id, &[]).await, Ok(()));
    until("it is rebooted", || async { count(&cluster, "power").eq(&1).then_some(()) }).await;

    let api = copied.put_back(&mut cluster).await;
    grows(&api, 5).await;
    assert_eq!(count(&cluster, "extend"), 2, "at the backend too");
    let request = api::StopInstanceRequest { instance_id: instance.id.clone(), ..Default::default() };
    api.instances().stop_instance(request).await.unwrap();
    let stopped = api.until(&instance.id, State::Stopped).await;
    assert_eq!(stopped.power_state(), PowerState::Shutdown);
    assert_eq!(audit(&api, false).await, []);
    cluster.shutdown().await;
}

async fn while_a_copy_that_was_found_may_run_no_other_is_made_to(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("vm").await;
    let (id, first) = (instance.id.as_str(), instance.host.as_str());
    let second = if first == "compute-1" { "compute-2" } else { "compute-1" };
    let copied = Copied::of(&cluster, id, &[]).await;
    move_to(&api, id, second).await;

    let api = copied.put_back(&mut cluster).await;
    until("the copy is known", || async {
        let receipts = record(&cluster, id).await.receipts;
        receipts.iter().any(|receipt| receipt.host == second && receipt.found).then_some(())
    })
    .await;
    assert_eq!(reboot(&api, id, &[]).await, Err(Reason::InvalidState));
    for live in [false, true] {
        let request = api::MigrateInstanceRequest { instance_id: id.into(), live, ..Default::default() };
        let refused = from_status(&api.instances().migrate_instance(request).await.unwrap_err()).unwrap();
        assert_eq!((refused.reason, refused.metadata["host"].as_str()), (Reason::InvalidState, second));
    }
    let found = audit(&api, true).await;
    let drifts: Vec<_> = found.iter().map(|drift| (drift.kind(), drift.host.as_str())).collect();
    assert!(drifts.contains(&(Kind::GuestOrphan, second)), "{found:#?}");
    assert!(found[0].cause.contains("--vouch"), "{found:#?}");
    assert_eq!(guests(&cluster, id).len(), 2, "an audit does not know which is the newer");

    assert_eq!(reboot(&api, id, &[second]).await, Ok(()));
    until("the other copy is removed", || async { (guests(&cluster, id) == [first]).then_some(()) }).await;
    until_on(&api, id, first, State::Active).await;
    let receipts = record(&cluster, id).await.receipts;
    assert!(receipts.iter().all(|receipt| receipt.host == first), "{receipts:?}");
    assert_eq!(audit(&api, false).await, []);
    cluster.shutdown().await;
}
