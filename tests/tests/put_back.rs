//! Records as they were, under agents that have done more since: what a store that was put back, and accepted, asks of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;

use kilonova_compute::config::Verb;
use kilonova_model::{InstanceId, Reason, VolumeId};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::r#move::Step;
use kilonova_proto::conductor::v1::{InstanceRecord, Place, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind as ActionKind;
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::instance::{PowerState, State, Task};
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::VerbConfig;
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
    what_was_being_built_then_is_taken_as_it_is,
    a_rebuild_that_was_under_way_then_is_not_done_twice,
    a_move_that_was_under_way_then_starts_nothing,
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
    let mut hosts = BTreeSet::new();
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
        record
            .receipts
            .insert(0, Receipt { host: host.clone(), attempt, given_up: true, ..Default::default() });
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

async fn stopped(api: &Api, id: &str) {
    let request = api::StopInstanceRequest { instance_id: id.into(), ..Default::default() };
    api.instances().stop_instance(request).await.unwrap();
    api.until(id, State::Stopped).await;
}

/// Each verb takes a second.
fn slow(plan: &mut Plan, verbs: &[Verb]) {
    let slow = VerbConfig { latency: Some(Period::from_secs(1)), ..VerbConfig::default() };
    plan.compute.driver.verbs = verbs.iter().map(|verb| (*verb, slow.clone())).collect();
}

async fn what_was_being_built_then_is_taken_as_it_is(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let instance = api.active("vm").await;
    let (id, host) = (instance.id.as_str(), instance.host.as_str());
    let copied = Copied::of(&cluster, id, &[]).await.with(|record| {
        let instance = record.instance.as_mut().unwrap();
        instance.set_state(State::Building);
        instance.set_task(Task::Spawning);
        instance.launch_time = None;
    });
    stopped(&api, id).await;

    let api = copied.put_back(&mut cluster).await;
    until_on(&api, id, host, State::Active).await;
    assert_eq!((count(&cluster, "spawn"), guests(&cluster, id)), (1, vec![host.to_owned()]));
    assert_eq!(reboot(&api, id, &[]).await, Ok(()), "it can be worked with");
    until("it is rebooted", || async { count(&cluster, "power").eq(&2).then_some(()) }).await;
    cluster.shutdown().await;
}

async fn a_rebuild_that_was_under_way_then_is_not_done_twice(backing: Backing) {
    let mut plan = plan(backing);
    slow(&mut plan, &[Verb::Rebuild]);
    let Some((mut cluster, api)) = started(plan).await else { return };
    let id = api.active("vm").await.id;
    let rebuild = async |api: &Api| {
        let request = api::RebuildInstanceRequest {
            instance_id: id.clone(),
            image_id: "cirros".into(),
            ..Default::default()
        };
        api.instances().rebuild_instance(request).await.unwrap().into_inner().instance.unwrap()
    };
    let asked = rebuild(&api).await;
    let copied = Copied::of(&cluster, &id, &[]).await;
    api.settled(&asked).await;
    stopped(&api, &id).await;

    let api = copied.put_back(&mut cluster).await;
    let after = api.settled(&asked).await;
    let last = api.actions(&id, 2).await.into_iter().find(|one| one.kind() == ActionKind::Rebuild).unwrap();
    assert_eq!((last.outcome(), after.state()), (pb::Outcome::Failed, State::Active), "{last:?}");
    assert_eq!(count(&cluster, "rebuild"), 1, "what was done with it since is not destroyed");
    let asked = rebuild(&api).await;
    api.settled(&asked).await;
    assert_eq!(count(&cluster, "rebuild"), 2, "whoever asks again has it done");
    cluster.shutdown().await;
}

async fn a_move_that_was_under_way_then_starts_nothing(backing: Backing) {
    let mut plan = plan(backing);
    plan.computes = 3;
    slow(&mut plan, &[Verb::HandOver]);
    let Some((mut cluster, _)) = started(plan).await else { return };
    for prepares in [false, true] {
        let api = cluster.api();
        let before = api.active("vm").await;
        let id = before.id.as_str();
        let request = api::MigrateInstanceRequest { instance_id: id.into(), ..Default::default() };
        api.instances().migrate_instance(request).await.unwrap();
        until("it is handed over", || async {
            let operation = record(&cluster, id).await.operations.into_iter().next()?;
            (operation.r#move?.step() == Step::HandOver).then_some(())
        })
        .await;
        let copied = Copied::of(&cluster, id, &[]).await.with(|record| {
            let way = record.operations[0].r#move.as_mut().unwrap();
            if prepares {
                way.set_step(Step::Prepare);
                let destination = way.destination.as_mut().unwrap();
                (destination.host, destination.attempt) = (String::new(), 0);
                record.receipts.retain(|receipt| receipt.host == before.host);
            }
        });
        api.until(id, State::Resized).await;
        let moved = guests(&cluster, id);

        let api = copied.put_back(&mut cluster).await;
        until("the move has ended", || async {
            record(&cluster, id).await.operations.is_empty().then_some(())
        })
        .await;
        let journals = cluster.journals();
        let ran = journals.iter().filter(|line| line.id == id && line.op == "take_over");
        let ran: BTreeSet<&str> = ran.map(|line| line.host.as_str()).collect();
        assert_eq!(ran.len(), 1, "no other host runs it");
        let all = guests(&cluster, id);
        assert!(moved.iter().all(|host| all.contains(host)), "and no copy is removed: {moved:?} {all:?}");
        api.delete(id).await.unwrap();
        api.until(id, State::Deleted).await;
        assert!(guests(&cluster, id).is_empty());
    }
    cluster.shutdown().await;
}
