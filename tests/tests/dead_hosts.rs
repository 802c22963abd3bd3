//! Hosts that are gone, for a while or for good: what is refused then, what leads out, and that no last good copy is destroyed; over
//! both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_compute::config::Verb;
use kilonova_model::{Error, HostName, Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::{FenceRecord, InstanceRecord, Receipt};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_rpc::status::from_status;
use kilonova_runtime::agent::simulated::VerbConfig;
use kilonova_runtime::config::Period;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::journal::Line;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use prost::Message;

over_both_stores!(
    a_revert_waits_for_the_host_it_goes_back_to_and_a_confirm_for_the_one_it_stays_on,
    most_hosts_die_at_once_and_are_fenced_and_evacuated_all_the_same,
    a_host_that_is_back_without_its_disk_costs_no_copy,
    a_host_that_is_back_keeps_its_copy_until_the_one_that_has_to_have_it_is_heard_to,
    after_a_move_that_broke_off_a_host_that_looks_for_itself_removes_no_copy,
    a_destination_that_died_for_good_is_fenced_and_the_source_runs_its_copy_again,
    a_host_that_has_what_no_receipt_tells_of_is_in_the_way_of_an_evacuation,
    a_host_that_was_back_while_no_conductor_ran_is_not_fenced_any_more,
    what_waits_at_a_host_that_is_gone_is_overtaken_and_moves_from_it_are_refused,
    an_evacuation_is_refused_while_another_host_may_run_the_guest,
    wishes_of_the_create_do_not_bind_a_later_move,
    members_together_leave_a_host_that_is_gone,
);

fn plan(backing: Backing) -> Plan {
    let mut plan = Plan::new(backing);
    plan.conductor.gone_after = Period::from_secs(1);
    plan.conductor.registration_grace = Period::from_millis(0);
    plan.conductor.resend_interval = Period::from_millis(500);
    plan
}

fn error(status: &tonic::Status) -> Error {
    from_status(status).unwrap()
}

/// Whether it was taken, or why not.
fn taken<T>(answer: Result<T, tonic::Status>) -> Result<(), Reason> {
    answer.map(drop).map_err(|status| error(&status).reason)
}

async fn migrate(api: &Api, id: &str, live: bool, target: &str) -> Result<pb::Instance, Reason> {
    let request = api::MigrateInstanceRequest {
        instance_id: id.into(),
        live,
        target_host: target.into(),
        ..Default::default()
    };
    let answer = api.instances().migrate_instance(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| error(&status).reason)
}

async fn confirm(api: &Api, id: &str) -> Result<(), Reason> {
    let request = api::ConfirmResizeRequest { instance_id: id.into(), ..Default::default() };
    taken(api.instances().confirm_resize(request).await)
}

async fn revert(api: &Api, id: &str) -> Result<(), Error> {
    let request = api::RevertResizeRequest { instance_id: id.into(), ..Default::default() };
    api.instances().revert_resize(request).await.map(drop).map_err(|status| error(&status))
}

async fn evacuate(api: &Api, id: &str, vouched: &[&str]) -> Result<pb::Instance, Error> {
    let vouched_hosts = vouched.iter().map(ToString::to_string).collect();
    let request =
        api::EvacuateInstanceRequest { instance_id: id.into(), vouched_hosts, ..Default::default() };
    let answer = api.instances().evacuate_instance(request).await;
    answer.map(|a| a.into_inner().instance.unwrap()).map_err(|status| error(&status))
}

async fn fence(api: &Api, host: &str) -> Result<(), Reason> {
    let service = pb::ServiceKind::Compute.into();
    let request = api::FenceHostRequest { service, host: host.into(), ..Default::default() };
    taken(api.hosts().fence_host(request).await)
}

/// Stops a host, and waits until it is seen to be gone.
async fn lose(cluster: &mut Cluster, api: &Api, host: &str) {
    cluster.stop(ServiceKind::Compute, host).await;
    until(&format!("{host} has left"), || async {
        let request = api::ListServicesRequest { service: pb::ServiceKind::Compute.into() };
        let services = api.hosts().list_services(request).await.ok()?.into_inner().services;
        services.iter().all(|member| member.host != host).then_some(())
    })
    .await;
}

async fn migrated(api: &Api) -> pb::Instance {
    let before = api.active("vm").await;
    migrate(api, &before.id, false, "").await.unwrap();
    api.until(&before.id, State::Resized).await
}

/// What was done to one on a host, in order.
fn deeds(cluster: &Cluster, id: &str, host: &str) -> Vec<String> {
    let lines = cluster.journals().into_iter().filter(|line| line.id == id && line.host == host);
    let mut lines: Vec<_> = lines.map(|line| (line.seq, line.op)).collect();
    lines.sort();
    lines.into_iter().map(|(_, op)| op).collect()
}

async fn most_hosts_die_at_once_and_are_fenced_and_evacuated_all_the_same(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let ids = api.create("vm", "small", 3).await.unwrap();
    let mut hosts = Vec::new();
    for id in &ids {
        hosts.push(api.until(id, State::Active).await.host);
    }
    let dead: Vec<_> = cluster.names(ServiceKind::Compute).into_iter().take(2).collect();
    for host in &dead {
        cluster.kill(ServiceKind::Compute, host);
    }
    for host in &dead {
        until(&format!("{host} is fenced"), || async { fence(&api, host).await.ok() }).await;
    }
    for (id, _) in ids.iter().zip(hosts).filter(|(_, host)| dead.contains(host)) {
        until("it is evacuated", || async { evacuate(&api, id, &[]).await.ok() }).await;
        let there = || async { api.get(id).await.ok().filter(|now| !dead.contains(&now.host)) };
        let there = || async { there().await.filter(|now| now.state() == State::Active) };
        until("it runs elsewhere", there).await;
    }
    cluster.shutdown().await;
}

async fn a_host_that_is_back_without_its_disk_costs_no_copy(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let moved = migrated(&api).await;
    let (source, destination) = (moved.previous_host.clone(), moved.host.clone());
    lose(&mut cluster, &api, &destination).await;
    std::fs::remove_dir_all(cluster.data_dir(&destination)).unwrap();
    cluster.launch(ServiceKind::Compute, &destination).await;
    cluster.ready().await;
    confirm(&api, &moved.id).await.unwrap();
    until("the confirm has failed", || async {
        let request = api::ListInstanceActionsRequest { instance_id: moved.id.clone(), ..Default::default() };
        let actions = api.instances().list_instance_actions(request).await.ok()?.into_inner().actions;
        let last = actions.iter().find(|action| action.kind() == Kind::ConfirmResize)?;
        (last.outcome() == pb::Outcome::Failed).then_some(())
    })
    .await;
    assert_eq!(deeds(&cluster, &moved.id, &source), ["spawn", "hand_over"], "the only copy is kept");
    revert(&api, &moved.id).await.unwrap();
    assert_eq!(api.until(&moved.id, State::Active).await.host, source);
    cluster.shutdown().await;
}

async fn a_host_that_is_back_keeps_its_copy_until_the_one_that_has_to_have_it_is_heard_to(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let moved = migrated(&api).await;
    let (source, destination) = (moved.previous_host.clone(), moved.host.clone());
    lose(&mut cluster, &api, &source).await;
    confirm(&api, &moved.id).await.unwrap();
    api.until(&moved.id, State::Active).await;
    lose(&mut cluster, &api, &destination).await;
    cluster.launch(ServiceKind::Compute, &source).await;
    cluster.ready().await;
    assert_eq!(deeds(&cluster, &moved.id, &source), ["spawn", "hand_over"], "it compared, and keeps it");
    cluster.launch(ServiceKind::Compute, &destination).await;
    cluster.ready().await;
    until("the copy is removed", || async {
        (deeds(&cluster, &moved.id, &source) == ["spawn", "hand_over", "destroy"]).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

async fn after_a_move_that_broke_off_a_host_that_looks_for_itself_removes_no_copy(backing: Backing) {
    let mut plan = plan(backing);
    let latency = Some(Period::from_secs(3));
    let done_and_not_said = VerbConfig { lose_rate: 1.0, latency, ..VerbConfig::default() };
    plan.compute.driver.verbs = [(Verb::TakeOver, done_and_not_said)].into();
    let Some((mut cluster, api)) = started(plan).await else { return };
    let before = api.active("vm").await;
    let source = before.host.clone();
    migrate(&api, &before.id, false, "").await.unwrap();
    until("the source has let go", || async {
        (deeds(&cluster, &before.id, &source) == ["spawn", "hand_over"]).then_some(())
    })
    .await;
    lose(&mut cluster, &api, &source).await;
    let broken = api.until(&before.id, State::Error).await;
    assert_eq!(broken.host, source);
    let taken = |line: &Line| line.id == before.id && line.op == "take_over";
    let destination = cluster.journals().into_iter().find(taken).unwrap().host;
    lose(&mut cluster, &api, &destination).await;
    cluster.launch(ServiceKind::Compute, &destination).await;
    cluster.launch(ServiceKind::Compute, &source).await;
    cluster.ready().await;
    assert_eq!(deeds(&cluster, &before.id, &destination), ["prepare", "take_over"], "it may be the good one");
    cluster.shutdown().await;
}

async fn a_revert_waits_for_the_host_it_goes_back_to_and_a_confirm_for_the_one_it_stays_on(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let moved = migrated(&api).await;
    let (source, destination) = (moved.previous_host.clone(), moved.host.clone());
    lose(&mut cluster, &api, &source).await;
    let refusal = until("the revert is refused", || async { revert(&api, &moved.id).await.err() }).await;
    assert_eq!(refusal.reason, Reason::InvalidState);
    assert_eq!(refusal.metadata["host"], source, "{refusal}");
    cluster.launch(ServiceKind::Compute, &source).await;
    cluster.ready().await;
    lose(&mut cluster, &api, &destination).await;
    assert_eq!(confirm(&api, &moved.id).await, Err(Reason::InvalidState));
    assert_eq!(api.get(&moved.id).await.unwrap().state(), State::Resized);
    cluster.launch(ServiceKind::Compute, &destination).await;
    cluster.ready().await;
    assert_eq!(deeds(&cluster, &moved.id, &source), ["spawn", "hand_over"], "the copy to go back to is kept");
    assert_eq!(deeds(&cluster, &moved.id, &destination), ["prepare", "take_over"]);

    until("all hosts are there", || async { revert(&api, &moved.id).await.ok() }).await;
    let back = api.until(&moved.id, State::Active).await;
    assert_eq!(back.host, source);
    until("the other copy is removed", || async {
        let there = deeds(&cluster, &moved.id, &destination);
        (there == ["prepare", "take_over", "hand_over", "destroy"]).then_some(())
    })
    .await;
    let lines = cluster.journals();
    let time = |op: &str| &lines.iter().find(|line| line.id == moved.id && line.op == op).unwrap().time;
    assert!(time("take_back") < time("destroy"), "once the source runs it");
    cluster.shutdown().await;
}

async fn a_destination_that_died_for_good_is_fenced_and_the_source_runs_its_copy_again(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let moved = migrated(&api).await;
    assert_eq!(fence(&api, &moved.host).await, Err(Reason::InvalidState), "it is registered");
    lose(&mut cluster, &api, &moved.host).await;
    let refusal = until("the revert is refused", || async { revert(&api, &moved.id).await.err() }).await;
    assert!(refusal.message.contains(&format!("kilonova host fence {}", moved.host)), "{refusal}");
    until("the host is fenced", || async { fence(&api, &moved.host).await.ok() }).await;
    until("the revert is taken", || async { revert(&api, &moved.id).await.ok() }).await;
    let back = api.until(&moved.id, State::Active).await;
    assert_eq!(back.host, moved.previous_host);

    cluster.launch(ServiceKind::Compute, &moved.host).await;
    cluster.ready().await;
    assert_eq!(deeds(&cluster, &moved.id, &moved.host).last().unwrap(), "destroy", "before it is ready");
    assert!(!is_fenced(&api, &moved.host).await, "void, since it registered again");
    cluster.shutdown().await;
}

async fn a_host_that_has_what_no_receipt_tells_of_is_in_the_way_of_an_evacuation(backing: Backing) {
    let mut plan = plan(backing);
    plan.compute.reconcile_interval = Period::from_millis(300);
    let Some((mut cluster, api)) = started(plan).await else { return };
    let running = api.active("vm").await;
    // As after a store was put back to before a move: another host has it, and the record does not say so.
    let other = api.active("other").await;
    assert_ne!(other.host, running.host);
    cluster.stop(ServiceKind::Compute, &other.host).await;
    let journal = |host: &str| cluster.data_dir(host).join("journal.jsonl");
    let mut there = std::fs::read_to_string(journal(&other.host)).unwrap();
    for line in std::fs::read_to_string(journal(&running.host)).unwrap().lines() {
        if line.contains(&running.id) {
            there.extend([&line.replace(&running.host, &other.host), "\n"]);
        }
    }
    std::fs::write(journal(&other.host), there).unwrap();
    cluster.launch(ServiceKind::Compute, &other.host).await;
    cluster.ready().await;
    lose(&mut cluster, &api, &running.host).await;
    let refusal = until("the evacuation is refused", || async {
        let refusal = evacuate(&api, &running.id, &[]).await.expect_err("another host has it");
        (refusal.metadata.get("host") == Some(&other.host)).then_some(refusal)
    })
    .await;
    assert_eq!(refusal.reason, Reason::InvalidState, "{refusal}");

    // That host registers anew, and still keeps it: it may be the last copy.
    cluster.stop(ServiceKind::Compute, &other.host).await;
    cluster.launch(ServiceKind::Compute, &other.host).await;
    until("the host is ready", || async {
        cluster.is_ready(ServiceKind::Compute, &other.host).then_some(())
    })
    .await;
    assert_eq!(deeds(&cluster, &running.id, &other.host), ["spawn"]);
    let asked = evacuate(&api, &running.id, &[&other.host]).await.unwrap();
    let rescued = api.settled(&asked).await;
    assert_eq!(rescued.state(), State::Active);
    assert_ne!(rescued.host, other.host);
    assert_eq!(deeds(&cluster, &running.id, &other.host), ["spawn"]);
    // With the instance it goes, too.
    api.delete(&running.id).await.unwrap();
    until("it is removed there", || async {
        (deeds(&cluster, &running.id, &other.host) == ["spawn", "destroy"]).then_some(())
    })
    .await;
    cluster.shutdown().await;
}

async fn is_fenced(api: &Api, host: &str) -> bool {
    let request = api::GetHostRequest { service: pb::ServiceKind::Compute.into(), host: host.into() };
    api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap().fenced
}

async fn a_host_that_was_back_while_no_conductor_ran_is_not_fenced_any_more(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let moved = migrated(&api).await;
    lose(&mut cluster, &api, &moved.host).await;
    until("the host is fenced", || async { fence(&api, &moved.host).await.ok() }).await;
    assert!(is_fenced(&api, &moved.host).await);
    let conductors = cluster.names(ServiceKind::Conductor);
    for conductor in &conductors {
        cluster.stop(ServiceKind::Conductor, conductor).await;
    }
    cluster.launch(ServiceKind::Compute, &moved.host).await;
    cluster.stop(ServiceKind::Compute, &moved.host).await;
    for conductor in &conductors {
        cluster.launch(ServiceKind::Conductor, conductor).await;
    }
    cluster.ready().await;
    assert!(!is_fenced(&api, &moved.host).await, "it may run the instance again");
    let refusal = until("the revert is refused", || async { revert(&api, &moved.id).await.err() }).await;
    assert_eq!((refusal.reason, &refusal.metadata["host"]), (Reason::InvalidState, &moved.host), "{refusal}");
    until("the host is fenced", || async { fence(&api, &moved.host).await.ok() }).await;

    // As after a store was put back: what was said before that is void.
    let keys = Keys::new(cluster.cell());
    let of_another = FenceRecord { store_id: "another".into(), ..Default::default() }.encode_to_vec();
    let key = keys.fence(ServiceKind::Compute, &HostName::parse(&moved.host).unwrap());
    cluster.shared_store().txn(Txn::new().put(key, of_another)).await.unwrap();
    until("the word is void", || async { (!is_fenced(&api, &moved.host).await).then_some(()) }).await;
    until("the host is fenced", || async { fence(&api, &moved.host).await.ok() }).await;
    until("the revert is taken", || async { revert(&api, &moved.id).await.ok() }).await;
    assert_eq!(api.until(&moved.id, State::Active).await.host, moved.previous_host);
    cluster.shutdown().await;
}

async fn what_waits_at_a_host_that_is_gone_is_overtaken_and_moves_from_it_are_refused(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let before = api.active("vm").await;
    lose(&mut cluster, &api, &before.host).await;
    for live in [false, true] {
        assert_eq!(migrate(&api, &before.id, live, "").await, Err(Reason::InvalidState), "{live}");
    }
    let request = api::ResizeInstanceRequest {
        instance_id: before.id.clone(),
        flavor_id: "double".into(),
        ..Default::default()
    };
    assert_eq!(taken(api.instances().resize_instance(request).await), Err(Reason::InvalidState));
    let request = api::RebuildInstanceRequest { instance_id: before.id.clone(), ..Default::default() };
    assert_eq!(taken(api.instances().rebuild_instance(request).await), Err(Reason::InvalidState));
    let request = api::StopInstanceRequest { instance_id: before.id.clone(), ..Default::default() };
    api.instances().stop_instance(request).await.unwrap();
    let evacuated = || async { evacuate(&api, &before.id, &[]).await.ok() };
    let after = api.settled(&until("the host is seen to be gone", evacuated).await).await;
    assert_eq!(after.state(), State::Stopped);
    assert_ne!(after.host, before.host);
    let actions = api.actions(&before.id, 3).await;
    let outcomes: Vec<_> = actions.iter().map(pb::Action::outcome).collect();
    assert_eq!(outcomes, [pb::Outcome::Succeeded, pb::Outcome::Superseded, pb::Outcome::Succeeded]);
    cluster.shutdown().await;
}

async fn an_evacuation_is_refused_while_another_host_may_run_the_guest(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let before = api.active("vm").await;
    lose(&mut cluster, &api, &before.host).await;
    let third = cluster.names(ServiceKind::Compute).into_iter().find(|host| *host != before.host).unwrap();
    let key = Keys::new(cluster.cell()).instance(before.id.parse().unwrap());
    let (found, _) = cluster.shared_store().get(&key).await.unwrap();
    let mut record = InstanceRecord::decode(found.unwrap().value).unwrap();
    record.receipts.push(Receipt { host: third.clone(), attempt: before.attempt, ..Default::default() });
    cluster.shared_store().txn(Txn::new().put(&key, record.encode_to_vec())).await.unwrap();
    let refusal = until("it is refused because of the third", || async {
        evacuate(&api, &before.id, &[]).await.err().filter(|refusal| refusal.metadata["host"] == third)
    })
    .await;
    assert_eq!(refusal.reason, Reason::InvalidState);
    let after = api.settled(&evacuate(&api, &before.id, &[&third]).await.unwrap()).await;
    assert_eq!(after.state(), State::Active);
    assert_ne!(after.host, before.host);
    cluster.shutdown().await;
}

async fn create(api: &Api, hints: pb::SchedulerHints) -> pb::Instance {
    let spec = pb::InstanceSpec {
        name: "vm".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        hints: Some(hints),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let answer = api.instances().create_instance(request).await.unwrap().into_inner();
    api.until(&answer.instances[0].id, State::Active).await
}

async fn wishes_of_the_create_do_not_bind_a_later_move(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let forced =
        create(&api, pb::SchedulerHints { force_host: "compute-1".into(), ..Default::default() }).await;
    assert_eq!(forced.host, "compute-1");
    migrate(&api, &forced.id, false, "").await.unwrap();
    assert_ne!(api.until(&forced.id, State::Resized).await.host, "compute-1");
    let kept_out =
        create(&api, pb::SchedulerHints { exclude_hosts: vec!["compute-3".into()], ..Default::default() })
            .await;
    let asked = migrate(&api, &kept_out.id, true, "compute-3").await.unwrap();
    assert_eq!(api.settled(&asked).await.host, "compute-3", "an explicit target is stronger");
    let lost =
        create(&api, pb::SchedulerHints { force_host: "compute-2".into(), ..Default::default() }).await;
    lose(&mut cluster, &api, "compute-2").await;
    let asked = until("it is evacuated", || async { evacuate(&api, &lost.id, &[]).await.ok() }).await;
    let after = api.settled(&asked).await;
    assert_eq!(after.state(), State::Active);
    assert_ne!(after.host, "compute-2");
    cluster.shutdown().await;
}

async fn members_together_leave_a_host_that_is_gone(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    let group = pb::ServerGroup { name: "g".into(), policy: Policy::Affinity.into(), ..Default::default() };
    let request = api::CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
    let group = api.server_groups().create_server_group(request).await.unwrap().into_inner();
    let server_group_id = group.server_group.unwrap().id;
    let hints = pb::SchedulerHints { server_group_id, ..Default::default() };
    let (first, second) = (create(&api, hints.clone()).await, create(&api, hints).await);
    assert_eq!(first.host, second.host);
    lose(&mut cluster, &api, &first.host).await;
    let mut hosts = Vec::new();
    for member in [&first, &second] {
        let asked = until("it is evacuated", || async { evacuate(&api, &member.id, &[]).await.ok() }).await;
        let after = api.settled(&asked).await;
        assert_eq!(after.state(), State::Active);
        hosts.push(after.host);
    }
    assert_eq!(hosts[0], hosts[1]);
    assert_ne!(hosts[0], first.host);
    cluster.shutdown().await;
}
