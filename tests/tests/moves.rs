//! Instances that change their image, their flavor or their host, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_compute::config::Verb;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::InstanceRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::volume::State as VolumeState;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::{FailRule, VerbConfig};
use kilonova_runtime::config::Period;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::journal::Line;
use kilonova_tests::waiting::{comes_to, until};
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use prost::Message;

over_both_stores!(
    an_instance_is_rebuilt_where_it_is,
    a_resize_is_confirmed_or_reverted_and_counts_the_greater_until_then,
    a_resize_that_cannot_be_done_leaves_the_instance_as_it_was,
    an_instance_moves_while_it_runs_and_its_volume_with_it,
    a_move_is_finished_after_every_agent_and_conductor_restarted,
    a_move_back_is_refused_while_the_copy_there_is_still_being_removed_and_that_is_not_forgotten,
    an_instance_is_evacuated_and_its_old_host_destroys_its_copy,
    an_evacuation_waits_for_the_backend_of_its_volume,
    an_evacuation_without_a_place_leaves_the_instance_where_it_was,
    a_host_that_is_gone_for_a_while_is_evacuated_if_that_is_wanted,
);

async fn with_volume(api: &Api, instance: &str) -> String {
    let spec = pb::VolumeSpec { name: "disk".into(), size_gib: 1, ..Default::default() };
    let request = api::CreateVolumeRequest { volume: Some(spec), ..Default::default() };
    let id = api.volumes().create_volume(request).await.unwrap().into_inner().volume.unwrap().id;
    api.until_volume(&id, VolumeState::Available).await;
    let request = api::AttachVolumeRequest {
        instance_id: instance.into(),
        volume_id: id.clone(),
        ..Default::default()
    };
    api.instances().attach_volume(request).await.unwrap();
    api.until_volume(&id, VolumeState::InUse).await;
    id
}

async fn resize(api: &Api, id: &str, flavor: &str) -> Result<pb::Instance, Reason> {
    let request = api::ResizeInstanceRequest {
        instance_id: id.into(),
        flavor_id: flavor.into(),
        request_id: format!("{id}-{flavor}"),
        ..Default::default()
    };
    let answer = api.instances().resize_instance(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

async fn migrate(api: &Api, id: &str, live: bool) -> pb::Instance {
    let request = api::MigrateInstanceRequest { instance_id: id.into(), live, ..Default::default() };
    api.instances().migrate_instance(request).await.unwrap().into_inner().instance.unwrap()
}

async fn evacuate(api: &Api, id: &str) -> Result<pb::Instance, Reason> {
    let request = api::EvacuateInstanceRequest { instance_id: id.into(), ..Default::default() };
    let answer = api.instances().evacuate_instance(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| from_status(&status).unwrap().reason)
}

async fn flavor(api: &Api, id: &str, vcpus: u32, ram_mib: u32) {
    let flavor = pb::Flavor { id: id.into(), vcpus, ram_mib, disk_gib: 1, ..Default::default() };
    let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
    api.flavors().create_flavor(request).await.unwrap();
}

async fn used(api: &Api) -> (u32, u32) {
    let quota = api.quotas().get_quota(api::GetQuotaRequest::default()).await.unwrap().into_inner();
    let usage = quota.quota.unwrap().usage.unwrap();
    (usage.cores, usage.ram_mib)
}

/// The last action, once it is of this kind and has this outcome: the conductor that tells of it may be behind.
async fn ended(api: &Api, id: &str, kind: Kind, outcome: pb::Outcome) -> pb::Action {
    until(&format!("{kind:?} of {id} is {outcome:?}"), || async {
        let request = api::ListInstanceActionsRequest { instance_id: id.into(), ..Default::default() };
        let actions = api.instances().list_instance_actions(request).await.ok()?.into_inner().actions;
        actions.into_iter().last().filter(|last| (last.kind(), last.outcome()) == (kind, outcome))
    })
    .await
}

/// What was done to one, in order, by the hosts' journals.
fn deeds(cluster: &Cluster, id: &str) -> Vec<(String, String)> {
    let mut lines: Vec<Line> = cluster.journals().into_iter().filter(|line| line.id == id).collect();
    lines.sort_by(|a, b| a.time.cmp(&b.time));
    lines.into_iter().map(|line| (line.op, line.host)).collect()
}

fn deed(op: &str, host: &str) -> (String, String) {
    (op.to_owned(), host.to_owned())
}

async fn an_instance_is_rebuilt_where_it_is(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.compute.driver.rebuild_fail = vec![FailRule { name: "stuck".into(), attempts: 99 }];
    let Some((cluster, api)) = started(plan).await else { return };
    let image = pb::Image { id: "debian".into(), ..Default::default() };
    let request = api::CreateImageRequest { image: Some(image), ..Default::default() };
    api.images().create_image(request).await.unwrap();
    for (name, expected) in [("vm", "debian"), ("stuck", "cirros")] {
        let before = api.active(name).await;
        let request = api::RebuildInstanceRequest {
            instance_id: before.id.clone(),
            image_id: "debian".into(),
            ..Default::default()
        };
        let asked = api.instances().rebuild_instance(request).await.unwrap().into_inner().instance.unwrap();
        assert_eq!(asked.task(), Task::Rebuilding);
        let after = api.settled(&asked).await;
        assert_eq!((after.state(), &after.host), (State::Active, &before.host));
        assert_eq!(after.spec.unwrap().image_id, expected);
    }
    cluster.shutdown().await;
}

async fn a_resize_is_confirmed_or_reverted_and_counts_the_greater_until_then(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.conductor.quota.cores = 6;
    let Some((cluster, api)) = started(plan).await else { return };
    flavor(&api, "medium", 3, 1024).await;
    flavor(&api, "large", 30, 1024).await;
    let (kept, back) = (api.active("kept").await, api.active("back").await);
    assert_eq!(resize(&api, &kept.id, "small").await, Err(Reason::ValidationFailed));
    assert_eq!(resize(&api, &kept.id, "large").await, Err(Reason::QuotaExceeded));
    resize(&api, &kept.id, "medium").await.unwrap();
    resize(&api, &kept.id, "medium").await.expect("the same request again");
    comes_to((4, 1536), || used(&api)).await;
    let there = api.until(&kept.id, State::Resized).await;
    assert_ne!(there.host, kept.host);
    assert_eq!((there.flavor.unwrap().vcpus, there.previous_host.as_str()), (3, kept.host.as_str()));
    assert_eq!(resize(&api, &kept.id, "large").await, Err(Reason::InvalidState));
    let request = api::ConfirmResizeRequest { instance_id: kept.id.clone(), ..Default::default() };
    let asked = api.instances().confirm_resize(request).await.unwrap().into_inner().instance.unwrap();
    let confirmed = api.settled(&asked).await;
    assert_eq!((confirmed.state(), confirmed.previous_host.as_str()), (State::Active, ""));
    let expected = [
        deed("spawn", &kept.host),
        deed("prepare", &there.host),
        deed("hand_over", &kept.host),
        deed("take_over", &there.host),
        deed("destroy", &kept.host),
    ];
    assert_eq!(deeds(&cluster, &kept.id), expected);

    resize(&api, &back.id, "medium").await.unwrap();
    let there = api.until(&back.id, State::Resized).await;
    comes_to((6, 2048), || used(&api)).await;
    let request = api::RevertResizeRequest { instance_id: back.id.clone(), ..Default::default() };
    let asked = api.instances().revert_resize(request).await.unwrap().into_inner().instance.unwrap();
    let reverted = api.settled(&asked).await;
    assert_eq!((reverted.state(), &reverted.host), (State::Active, &back.host));
    assert_eq!(reverted.flavor.unwrap().id, "small");
    comes_to((4, 1536), || used(&api)).await;
    until("the copy it leaves is removed once the other runs", || async {
        let left =
            [deed("hand_over", &there.host), deed("take_back", &back.host), deed("destroy", &there.host)];
        deeds(&cluster, &back.id).ends_with(&left).then_some(())
    })
    .await;
    for id in [&kept.id, &back.id] {
        api.delete(id).await.unwrap();
        api.until(id, State::Deleted).await;
    }
    comes_to((0, 0), || used(&api)).await;
    cluster.shutdown().await;
}

async fn a_resize_that_cannot_be_done_leaves_the_instance_as_it_was(backing: Backing) {
    let mut plan = Plan::new(backing);
    let rule = |name: &str| vec![FailRule { name: name.into(), attempts: 99 }];
    plan.compute.driver.hand_over_fail = rule("held");
    plan.compute.driver.take_over_fail = rule("refused");
    let Some((cluster, api)) = started(plan).await else { return };
    flavor(&api, "medium", 2, 1024).await;
    for (name, last) in [("held", "hand_over"), ("refused", "take_over")] {
        let before = api.active(name).await;
        let disk = with_volume(&api, &before.id).await;
        let asked = resize(&api, &before.id, "medium").await.unwrap();
        let after = api.settled(&asked).await;
        assert_eq!((after.state(), &after.host), (State::Active, &before.host), "{name}");
        assert_eq!(after.flavor.unwrap().id, "small");
        let action = ended(&api, &before.id, Kind::Resize, pb::Outcome::Failed).await;
        let failed = action.steps.iter().find(|step| step.name == last && step.fault.is_some());
        assert!(failed.is_some(), "{action:?}");
        let (op, host) = deeds(&cluster, &before.id).pop().unwrap();
        assert_eq!((op.as_str(), &host), ("take_back", &before.host));
        let exports = exports(&cluster, &disk);
        assert_eq!(exports, vec![before.host], "the destination no longer reaches its volume");
    }
    let before = api.active("huge").await;
    let asked = resize(&api, &before.id, "huge").await.unwrap();
    let after = api.settled(&asked).await;
    assert_eq!((after.state(), after.host), (State::Active, before.host));
    let action = ended(&api, &before.id, Kind::Resize, pb::Outcome::Failed).await;
    assert_eq!(action.steps.last().unwrap().fault.as_ref().map(|f| f.reason.as_str()), None);
    // Nothing is counted that is not there.
    comes_to(3, async || used(&api).await.0).await;
    cluster.shutdown().await;
}

/// Who reaches a volume, by its backend's journal.
fn exports(cluster: &Cluster, volume: &str) -> Vec<String> {
    let mut hosts = Vec::new();
    for line in cluster.journals().into_iter().filter(|line| line.id == volume) {
        let host = line.detail["host"].as_str().unwrap_or_default().to_owned();
        match line.op.as_str() {
            "export" => hosts.push(host),
            "unexport" => hosts.retain(|one| *one != host),
            _ => {}
        }
    }
    hosts
}

async fn an_instance_moves_while_it_runs_and_its_volume_with_it(backing: Backing) {
    let Some((cluster, api)) = started(Plan::new(backing)).await else { return };
    let before = api.active("vm").await;
    let disk = with_volume(&api, &before.id).await;
    let after = api.settled(&migrate(&api, &before.id, true).await).await;
    assert_eq!(after.state(), State::Active);
    assert_ne!(after.host, before.host);
    until("the old host holds nothing", || async {
        let (op, host) = deeds(&cluster, &before.id).pop()?;
        (op == "destroy" && host == before.host).then_some(())
    })
    .await;
    assert_eq!(exports(&cluster, &disk), vec![after.host]);
    let request = api::DetachVolumeRequest {
        instance_id: before.id.clone(),
        volume_id: disk.clone(),
        ..Default::default()
    };
    api.instances().detach_volume(request).await.unwrap();
    api.until_volume(&disk, VolumeState::Available).await;
    assert!(exports(&cluster, &disk).is_empty());
    cluster.shutdown().await;
}

async fn a_move_is_finished_after_every_agent_and_conductor_restarted(backing: Backing) {
    let mut plan = Plan::new(backing);
    (plan.computes, plan.conductors) = (2, 1);
    plan.conductor.resend_interval = Period::from_millis(500);
    plan.compute.driver.latency = Period::from_millis(300);
    let Some((mut cluster, api)) = started(plan).await else { return };
    let before = api.active("vm").await;
    migrate(&api, &before.id, false).await;
    for op in ["prepare", "hand_over", "take_over"] {
        until(op, || async { deeds(&cluster, &before.id).iter().find(|deed| deed.0 == op).map(drop) }).await;
        for (kind, name) in [
            (ServiceKind::Compute, "compute-1"),
            (ServiceKind::Compute, "compute-2"),
            (ServiceKind::Conductor, "conductor-1"),
        ] {
            cluster.stop(kind, name).await;
            cluster.launch(kind, name).await;
        }
        cluster.ready().await;
    }
    let there = api.until(&before.id, State::Resized).await;
    let expected = [
        deed("spawn", &before.host),
        deed("prepare", &there.host),
        deed("hand_over", &before.host),
        deed("take_over", &there.host),
    ];
    assert_eq!(deeds(&cluster, &before.id), expected, "each once");
    cluster.shutdown().await;
}

async fn a_move_back_is_refused_while_the_copy_there_is_still_being_removed_and_that_is_not_forgotten(
    backing: Backing,
) {
    let mut plan = Plan::new(backing);
    plan.computes = 2;
    let slow = VerbConfig { latency: Some(Period::from_secs(3600)), ..VerbConfig::default() };
    plan.compute.driver.verbs = [(Verb::Destroy, slow)].into();
    let Some((cluster, api)) = started(plan).await else { return };
    let before = api.active("vm").await;
    let there = api.settled(&migrate(&api, &before.id, true).await).await;
    assert_ne!(there.host, before.host);
    let request = api::MigrateInstanceRequest {
        instance_id: before.id.clone(),
        live: true,
        target_host: before.host.clone(),
        ..Default::default()
    };
    let asked = api.instances().migrate_instance(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.host, there.host);
    let steps = ended(&api, &before.id, Kind::LiveMigrate, pb::Outcome::Failed).await.steps;
    let refused = steps.iter().filter_map(|step| step.fault.as_ref()).find(|fault| fault.host == before.host);
    assert_eq!(refused.unwrap().reason, "STILL_REMOVING");

    let key = Keys::new(cluster.cell()).instance(before.id.parse().unwrap());
    let record = cluster.shared_store().get(&key).await.unwrap().0.unwrap();
    let record = InstanceRecord::decode(record.value).unwrap();
    let mut hosts: Vec<&str> = record.receipts.iter().map(|receipt| receipt.host.as_str()).collect();
    hosts.sort_unstable();
    assert_eq!(
        hosts,
        ["compute-1", "compute-2"],
        "a copy is there as long as its host does not say otherwise"
    );
    cluster.shutdown().await;
}

async fn an_instance_is_evacuated_and_its_old_host_destroys_its_copy(backing: Backing) {
    let Some((mut cluster, api)) = started(Plan::new(backing)).await else { return };
    let before = api.active("vm").await;
    let disk = with_volume(&api, &before.id).await;
    assert_eq!(evacuate(&api, &before.id).await, Err(Reason::InvalidState), "its host is there");
    cluster.stop(ServiceKind::Compute, &before.host).await;
    let asked = until("the host has left", || async { evacuate(&api, &before.id).await.ok() }).await;
    let after = api.settled(&asked).await;
    assert_eq!(after.state(), State::Active);
    assert_ne!(after.host, before.host);
    until("only the new host reaches the volume", || async {
        (exports(&cluster, &disk) == vec![after.host.clone()]).then_some(())
    })
    .await;
    ended(&api, &before.id, Kind::Evacuate, pb::Outcome::Succeeded).await;

    cluster.launch(ServiceKind::Compute, &before.host).await;
    cluster.ready().await;
    let (op, host) = deeds(&cluster, &before.id).pop().unwrap();
    assert_eq!((op.as_str(), &host), ("destroy", &before.host), "before the host is ready");
    assert_eq!(api.settled(&after).await.state(), State::Active);
    cluster.shutdown().await;
}

async fn an_evacuation_waits_for_the_backend_of_its_volume(backing: Backing) {
    let Some((mut cluster, api)) = started(Plan::new(backing)).await else { return };
    let before = api.active("vm").await;
    let disk = with_volume(&api, &before.id).await;
    let backend = api.until_volume(&disk, VolumeState::InUse).await.host;
    cluster.stop(ServiceKind::Compute, &before.host).await;
    // It stays registered for as long as its lease lives, and refuses connections.
    cluster.kill(ServiceKind::Volume, &backend);
    let asked = until("the host has left", || async { evacuate(&api, &before.id).await.ok() }).await;
    api.until_after(&asked, "is to be built elsewhere", |instance| !instance.host.is_empty()).await;
    cluster.launch(ServiceKind::Volume, &backend).await;
    let after = api.settled(&asked).await;
    assert_eq!(after.state(), State::Active);
    assert_eq!(after.failed_attempts, [], "no host is blamed for it");
    cluster.shutdown().await;
}

async fn an_evacuation_without_a_place_leaves_the_instance_where_it_was(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.computes = 1;
    let Some((mut cluster, api)) = started(plan).await else { return };
    let before = api.active("vm").await;
    cluster.stop(ServiceKind::Compute, &before.host).await;
    let asked = until("the host has left", || async { evacuate(&api, &before.id).await.ok() }).await;
    let after = api.settled(&asked).await;
    assert_eq!((after.state(), &after.host), (State::Active, &before.host));
    ended(&api, &before.id, Kind::Evacuate, pb::Outcome::Failed).await;
    cluster.launch(ServiceKind::Compute, &before.host).await;
    cluster.ready().await;
    assert_eq!(deeds(&cluster, &before.id), [deed("spawn", &before.host)], "its guest was left alone");
    cluster.shutdown().await;
}

async fn a_host_that_is_gone_for_a_while_is_evacuated_if_that_is_wanted(backing: Backing) {
    let mut plan = Plan::new(backing);
    let evacuation = &mut plan.conductor.evacuation;
    (evacuation.enabled, evacuation.delay, evacuation.per_minute) = (true, Period::from_secs(1), 6_000);
    evacuation.hold_above_percent = 34;
    let Some((mut cluster, api)) = started(plan).await else { return };
    let ids = api.create("vm", "small", 9).await.unwrap();
    for id in &ids {
        api.until(id, State::Active).await;
    }
    let lost = api.get(&ids[0]).await.unwrap().host;
    assert_eq!(api.get(&ids[0]).await.unwrap().host_state(), pb::host::State::Up);
    cluster.stop(ServiceKind::Compute, &lost).await;
    for id in &ids {
        until(&format!("{id} is elsewhere"), || async {
            let instance = api.get(id).await.ok()?;
            (instance.host != lost && instance.state() == State::Active).then_some(())
        })
        .await;
    }
    cluster.launch(ServiceKind::Compute, &lost).await;
    cluster.ready().await;
    for id in &ids {
        let spawned = deeds(&cluster, id).iter().filter(|(op, _)| op == "spawn").count();
        let destroyed = deeds(&cluster, id).iter().filter(|(op, _)| op == "destroy").count();
        assert_eq!(spawned, destroyed + 1, "{:?}", deeds(&cluster, id));
    }

    let stays = api.get(&ids[0]).await.unwrap().host;
    for host in ["compute-1", "compute-2", "compute-3"].iter().filter(|host| **host != lost) {
        cluster.stop(ServiceKind::Compute, host).await;
    }
    until("its host is shown as gone", || async {
        let state = api.get(&ids[0]).await.ok()?.host_state();
        (state == pb::host::State::Down).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(api.get(&ids[0]).await.unwrap().host, stays, "too many are gone at once");
    cluster.shutdown().await;
}
