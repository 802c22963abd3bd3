//! What real services never do twice and never lose.

use std::collections::BTreeSet;
use std::sync::Arc;

use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::conductor::v1::task_service_client::TaskServiceClient;
use kilonova_proto::conductor::v1::{BuildInstancesRequest, CreateFlavorRequest, CreateImageRequest};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_rpc::registry::Registry;
use kilonova_tests::waiting::until;
use kilonova_tests::{Backing, Plan, journal};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::links::Links;
use crate::process::Process;
use crate::real::{build, cluster_on, instances, send};
use crate::world::{World, caller, dead_addr, host, options, verdict};

over_both_stores!(
    a_request_whose_answer_is_lost_is_done_once,
    a_request_id_survives_the_death_of_its_conductor,
    what_was_accepted_survives_kill_nine,
    a_host_refuses_commands_for_its_earlier_incarnation,
);

/// 24 and 25: the same request arrives two and three times and is done once; the answer is that of the first.
async fn a_request_whose_answer_is_lost_is_done_once(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let cluster = cluster_on(&world, Plan::new(backing), [1, 0, 0]).await;
    cluster.api().seed().await;
    let links = Links::default();
    let peers = world.peers_with(|options| options.transport = Arc::new(links.clone()));
    let conductor = peers.cast(ServiceKind::Conductor).wait_for_ready();
    let mut known = BTreeSet::new();
    for (lost, sent) in [(1, 2), (2, 3), (3, 3)] {
        let id = format!("request-{lost}");
        links.lose_answers(&id, lost);
        let answer = send(conductor.clone(), &id).await;
        assert_eq!(links.sent(), sent, "{lost} lost: {answer:?}");
        links.lose_answers("", 0);
        let now = instances(&cluster).await;
        let new: Vec<_> = now.difference(&known).cloned().collect();
        assert_eq!(new.len(), 1, "done once although it arrived {sent} times");
        if lost < 3 {
            assert_eq!(answer.unwrap(), new);
        } else {
            assert_eq!(verdict(answer), ("perhaps executed", Some(Reason::ConnectionLost)));
            assert_eq!(send(conductor.clone(), &id).await.unwrap(), new, "who asks again hears of it");
        }
        known = now;
    }
    assert_eq!(instances(&cluster).await, known);
    cluster.shutdown().await;
}

/// 26: the request id is stored with the record, so whichever conductor is asked next knows it.
async fn a_request_id_survives_the_death_of_its_conductor(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let mut cluster = cluster_on(&world, Plan::new(backing), [1, 1, 1]).await;
    let api = cluster.api();
    api.seed().await;
    let first = send(cluster.channel(ServiceKind::Conductor, "conductor-1"), "request-1").await.unwrap();
    let again = send(cluster.channel(ServiceKind::Conductor, "conductor-1"), "request-1").await.unwrap();
    cluster.kill(ServiceKind::Conductor, "conductor-1");
    cluster.launch(ServiceKind::Conductor, "conductor-2").await;
    cluster.ready().await;
    let after = send(cluster.channel(ServiceKind::Conductor, "conductor-2"), "request-1").await.unwrap();
    assert_eq!([&again, &after], [&first, &first]);
    let other = send(cluster.channel(ServiceKind::Conductor, "conductor-2"), "request-2").await.unwrap();
    for id in first.iter().chain(&other) {
        api.until(id, State::Active).await;
    }
    assert_eq!(instances(&cluster).await.len(), 2);
    let spawned = journal::count(&cluster.journals(), "spawn");
    assert!(spawned.len() == 2 && spawned.values().all(|hosts| hosts.len() == 1), "{spawned:?}");
    cluster.shutdown().await;
}

/// What an instance needs.
async fn seed(conductor: &tonic::transport::Channel) {
    let mut tasks = TaskServiceClient::new(conductor.clone());
    let flavor = pb::Flavor { id: "small".into(), vcpus: 1, ram_mib: 512, disk_gib: 1, ..Default::default() };
    tasks.create_flavor(CreateFlavorRequest { flavor: Some(flavor), ..Default::default() }).await.unwrap();
    let image = pb::Image { id: "cirros".into(), ..Default::default() };
    let image = tasks.create_image(CreateImageRequest { image: Some(image), ..Default::default() }).await;
    let code = image.err().map(|status| status.code());
    assert!(matches!(code, None | Some(Code::AlreadyExists)), "{code:?}");
}

fn plain(address: &str) -> tonic::transport::Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// As many as the usual quota allows.
const ACCEPTED: usize = 10;

/// Asks for instances one after the other, as fast as they are accepted.
async fn accept_many(conductor: &tonic::transport::Channel) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..ACCEPTED {
        ids.extend(send(conductor.clone(), &format!("request-{number}")).await.unwrap());
    }
    ids
}

/// 29: the process dies as soon as it has said OK to the last of many; others, or its successor, do all of it.
async fn what_was_accepted_survives_kill_nine(backing: Backing) {
    match backing {
        Backing::Embedded => kill_the_whole_cloud().await,
        Backing::Etcd => kill_the_conductor().await,
    }
}

async fn kill_the_conductor() {
    let Some(world) = World::on(Backing::Etcd).await else { return };
    let etcd = format!("http://{}", world.etcd.as_ref().unwrap().endpoint());
    let (listen, dir) = (dead_addr().await, tempfile::tempdir().unwrap());
    let process = Process::start(&[
        "conductor",
        "--host=conductor-9",
        "--store=etcd",
        &format!("--cell={}", world.cell),
        &format!("--etcd-endpoints={etcd}"),
        &format!("--listen={listen}"),
        &format!("--http-listen={}", dead_addr().await),
        &format!("--data-dir={}", dir.path().display()),
    ])
    .await;
    let conductor = plain(&listen);
    until("the conductor answers", || async {
        let request = BuildInstancesRequest { validate_only: true, ..build("") };
        let answer = TaskServiceClient::new(conductor.clone()).build_instances(request).await;
        answer.is_err_and(|status| status.code() == Code::NotFound).then_some(())
    })
    .await;
    seed(&conductor).await;
    let ids = accept_many(&conductor).await;
    process.kill().await;

    let cluster = cluster_on(&world, Plan::new(Backing::Etcd), [1, 1, 2]).await;
    for id in &ids {
        cluster.api().until(id, State::Active).await;
    }
    let spawned = journal::count(&cluster.journals(), "spawn");
    assert!(spawned.len() == ACCEPTED && spawned.values().all(|hosts| hosts.len() == 1), "{spawned:?}");
    cluster.shutdown().await;
}

async fn kill_the_whole_cloud() {
    let dir = tempfile::tempdir().unwrap();
    let data = format!("--data-dir={}", dir.path().display());
    let up = async |latency: &str| {
        let latency = format!("--set=compute.driver.latency={latency}");
        // No attempt is spent on a host that restarts with all the others: one is enough.
        let counts = ["--hosts=2", "--backends=0", "--conductors=1", "--schedulers=1"];
        let attempts = "--set=conductor.max_attempts=1";
        let arguments = [&["up", "--ephemeral-ports", &data, &latency, attempts][..], &counts].concat();
        let mut process = Process::start(&arguments).await;
        let mut address = async |service: &str| {
            let line = process.line_with(&[service, "127.0.0.1:"]).await;
            line.split_whitespace().nth(2).unwrap().to_owned()
        };
        let (api, conductor) = (address("api ").await, address("conductor ").await);
        process.line_with(&["Ctrl-C"]).await;
        (process, plain(&api), plain(&conductor))
    };
    // Nothing can be ready before the end comes.
    let (process, _, conductor) = up("60s").await;
    seed(&conductor).await;
    let ids = accept_many(&conductor).await;
    process.kill().await;

    let (_process, api, _) = up("5ms").await;
    let client = api::instance_service_client::InstanceServiceClient::new(api);
    for id in &ids {
        until("the instance is active", || async {
            let request = api::GetInstanceRequest { instance_id: id.clone(), ..Default::default() };
            let instance = client.clone().get_instance(request).await.ok()?.into_inner().instance?;
            assert_ne!(instance.state(), State::Error, "{instance:?}");
            (instance.state() == State::Active).then_some(())
        })
        .await;
    }
}

/// 30: what the command itself says counts as well, whoever brings it.
async fn a_host_refuses_commands_for_its_earlier_incarnation(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let mut cluster = cluster_on(&world, Plan::new(backing), [1, 0, 1]).await;
    let registry = Registry::new(world.store.clone(), world.cell.clone());
    let members = registry.members(ServiceKind::Compute);
    let name = host("compute-1");
    let epoch = || members.current().get(&name).map(|member| member.epoch);
    let old = until("it is registered", || async { epoch() }).await;
    cluster.stop(ServiceKind::Compute, "compute-1").await;
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    let new = until("it is registered again", || async { epoch().filter(|new| *new > old) }).await;

    let peers = Peers::new(registry.clone(), caller(), options(|_| {}));
    let channel: Channel = peers.cast_host(ServiceKind::Compute, &name).wait_for_ready();
    let terminate = async |epoch: u64| {
        let command = compute::InstanceCommand {
            instance_id: "0190b0a0-0000-7000-8000-000000000001".into(),
            generation: 1,
            attempt: 1,
            target_host: name.to_string(),
            target_epoch: epoch,
            ..Default::default()
        };
        let request = compute::TerminateInstanceRequest { command: Some(command) };
        ComputeServiceClient::new(channel.clone()).terminate_instance(request).await
    };
    assert_eq!(verdict(terminate(old.0).await), ("refused", Some(Reason::StaleEpoch)));
    terminate(new.0).await.unwrap();
    cluster.shutdown().await;
}
