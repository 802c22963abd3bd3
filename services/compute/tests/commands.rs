//! Commands over real connections: what is done, how often, and what is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod keeping;
mod support;

use kilonova_compute::Config;
use kilonova_compute::config::Verb;
use kilonova_model::{InstanceId, Reason};
use kilonova_proto::compute::v1::reboot_instance_request::RebootType;
use kilonova_proto::compute::v1::{
    GetConsoleOutputRequest, GetInstanceStateRequest, RebootInstanceRequest, SetHostEnabledRequest,
    StopInstanceRequest,
};
use kilonova_proto::conductor::v1::ReportStatus;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::PowerState;
use kilonova_proto::types::v1::{Instance, ServiceKind, instance};
use kilonova_rpc::status::reason_of;
use kilonova_runtime::agent::simulated::{FailRule, VerbConfig};
use kilonova_runtime::config::Period;
use support::{Cell, HOST, endless, failing, quick};
use tonic::{Code, Status};

fn reason<T>(result: Result<T, Status>) -> Option<Reason> {
    result.err().and_then(|status| reason_of(&status))
}

#[tokio::test]
async fn a_build_is_claimed_spawned_and_reported() {
    let mut cell = Cell::start(quick()).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "web").await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.instance_id.as_str(), report.generation, report.attempt), (&*id.to_string(), 1, 1));
    assert_eq!((report.status(), report.power_state()), (ReportStatus::Ready, PowerState::Running));
    assert!(report.addresses[0].address.starts_with("10."));
    let steps: Vec<_> = report.steps.iter().map(|step| (step.name.as_str(), step.service())).collect();
    assert_eq!(steps, [("claim", ServiceKind::Compute), ("spawn", ServiceKind::Compute)]);
    assert!(report.steps.iter().all(|step| step.start_time.is_some() && step.duration.is_some()));
    assert_eq!(report.steps[0].detail, "1 VCPUs, 512 MiB, 1 GiB");

    let request = cell.conductor.registrations.lock()[0].clone();
    assert_eq!((request.host.as_str(), request.service()), (HOST, ServiceKind::Compute));
    assert_eq!(request.availability_zone, "zone-a");
    assert_eq!(request.address, cell.agent.as_ref().unwrap().grpc_addr.to_string());
}

#[tokio::test]
async fn a_build_sent_again_is_told_again_and_spawned_once() {
    let mut cell = Cell::start(quick()).await;
    let id = InstanceId::generate();
    let order = cell.order(id, 1, "web");
    let (mut one, mut two) = (cell.client(), cell.client());
    let (first, second) = tokio::join!(one.build_instance(order.clone()), two.build_instance(order));
    first.unwrap();
    second.unwrap();
    let first = cell.report().await;
    cell.build(id, 1, "web").await.unwrap();
    let again = cell.report().await;
    assert_eq!((again.status(), again.steps), (ReportStatus::Ready, first.steps));
    assert_eq!(cell.done(), ["spawn web"]);
    assert_eq!(cell.agent()["claims"]["instances"], 1);
}

#[tokio::test]
async fn a_name_fails_for_as_many_attempts_as_it_is_told_to() {
    let mut cell = Cell::start(failing("bad*", 1)).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "bad-1").await.unwrap();
    let report = cell.report().await;
    assert_eq!(report.status(), ReportStatus::Failed);
    let fault = report.fault.unwrap();
    assert_eq!((fault.reason.as_str(), fault.host.as_str(), fault.attempt), ("DRIVER_FAILED", HOST, 1));
    assert_eq!(cell.agent()["claims"]["instances"], 0);
    assert_eq!(cell.agent()["failed_builds_in_row"], 1);
    cell.build(id, 2, "bad-1").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.done(), ["spawn_failed bad-1", "spawn bad-1"]);
    assert_eq!(cell.agent()["failed_builds_in_row"], 0);
}

#[tokio::test]
async fn a_terminate_destroys_once_and_frees_the_room() {
    let mut cell = Cell::start(quick()).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "web").await.unwrap();
    cell.report().await;
    cell.terminate(id, 2).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.generation), (ReportStatus::Gone, 2));
    cell.terminate(id, 2).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(cell.done(), ["spawn web", "destroy web"]);
    assert_eq!(cell.agent()["claims"]["used"]["ram_mib"], 0);
    assert_eq!(reason(cell.build(id, 1, "web").await), Some(Reason::StaleGeneration));

    let unknown = InstanceId::generate();
    cell.terminate(unknown, 2).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(reason(cell.build(unknown, 1, "late").await), Some(Reason::StaleGeneration));
    assert_eq!(cell.replay(), (1, 0));
}

#[tokio::test]
async fn a_terminate_while_spawning_leaves_nothing() {
    let mut cell = Cell::start(endless()).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "web").await.unwrap();
    cell.terminate(id, 2).await.unwrap();
    cell.terminate(id, 2).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.generation), (ReportStatus::Gone, 2));
    let steps: Vec<_> = report.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(steps, ["claim", "spawn", "destroy"]);
    assert_eq!(cell.agent()["claims"]["instances"], 0);
    assert_eq!(cell.replay(), (0, 0));
    assert_eq!(reason(cell.build(id, 1, "web").await), Some(Reason::StaleGeneration));
}

#[tokio::test]
async fn a_hundred_builds_at_once_never_take_more_than_there_is() {
    let mut config = quick();
    config.driver.ram_mib = 20 * 512 + config.allocation.ram_reserved_mib;
    let mut cell = Cell::start(config).await;
    let builds = (0..100).map(|n| {
        let (mut client, order) = (cell.client(), cell.order(InstanceId::generate(), 1, &format!("vm-{n}")));
        async move { client.build_instance(order).await.map(drop) }
    });
    let results = futures::future::join_all(builds).await;
    let refused: Vec<_> = results.into_iter().filter_map(reason).collect();
    assert_eq!(refused, vec![Reason::ClaimRefused; 80]);
    for _ in 0..20 {
        assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    }
    assert_eq!(cell.replay(), (20, 20));
    let claims = &cell.agent()["claims"];
    assert_eq!(claims["used"]["ram_mib"], claims["capacity"]["ram_mib"]);
}

#[tokio::test]
async fn commands_for_others_are_refused() {
    let cell = Cell::start(quick()).await;
    let id = InstanceId::generate();
    let send = |change: fn(&mut kilonova_proto::compute::v1::InstanceCommand)| {
        let (mut client, mut order) = (cell.client(), cell.order(id, 1, "web"));
        change(order.command.as_mut().unwrap());
        async move { client.build_instance(order).await }
    };
    assert_eq!(reason(send(|c| c.target_host = "node2".into()).await), Some(Reason::WrongHost));
    assert_eq!(reason(send(|c| c.target_epoch += 1).await), Some(Reason::StaleEpoch));
    assert_eq!(reason(send(|c| c.target_epoch = 0).await), Some(Reason::StaleEpoch));
    let invalid = send(|c| c.instance_id = "x".into()).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    assert!(cell.done().is_empty());
    let unserved = cell.client().get_console_output(GetConsoleOutputRequest::default()).await;
    assert_eq!(reason(unserved), Some(Reason::MethodNotImplemented));
}

async fn stop(cell: &Cell, id: InstanceId, generation: u64) -> Result<(), Status> {
    let command = Some(cell.command(id, generation, 1));
    cell.client().stop_instance(StopInstanceRequest { command }).await.map(drop)
}

#[tokio::test]
async fn a_guest_is_stopped_once_and_stays_so_over_a_restart() {
    let mut cell = Cell::start(quick()).await;
    let id = InstanceId::generate();
    assert_eq!(reason(stop(&cell, id, 2).await), Some(Reason::InstanceNotFound));
    cell.build(id, 1, "web").await.unwrap();
    cell.report().await;
    stop(&cell, id, 2).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.power_state()), (ReportStatus::Ready, PowerState::Shutdown));
    stop(&cell, id, 2).await.unwrap();
    assert_eq!(cell.report().await, report);
    assert_eq!((report.generation, report.operation()), (2, Kind::Stop));
    assert_eq!(report.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), ["power_off"]);
    assert_eq!(reason(stop(&cell, id, 1).await), Some(Reason::StaleGeneration));

    *cell.conductor.records.lock() = vec![record(id, instance::State::Active, instance::Desired::Stopped)];
    cell.stop_agent().await;
    cell.start_agent().await;
    stop(&cell, id, 2).await.unwrap();
    let again = cell.report().await;
    assert_eq!((again.power_state(), again.operation()), (PowerState::Shutdown, Kind::Stop));
    assert_eq!(cell.done(), ["spawn web", "power web"]);

    let command = Some(cell.command(id, 3, 1));
    let reboot = RebootInstanceRequest { command, r#type: RebootType::Hard.into() };
    cell.client().reboot_instance(reboot).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.power_state(), report.operation()), (PowerState::Running, Kind::Reboot));
    cell.terminate(id, 4).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(cell.replay(), (1, 0));
}

#[tokio::test]
async fn a_guest_that_cannot_be_stopped_runs_on() {
    let mut config = quick();
    config.driver.power_fail = failing("stuck*", 1).driver.fail;
    let mut cell = Cell::start(config).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "stuck-1").await.unwrap();
    cell.report().await;
    stop(&cell, id, 2).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.power_state()), (ReportStatus::Ready, PowerState::Running));
    assert_eq!(report.operation(), Kind::Stop);
    assert_eq!(report.fault.unwrap().reason, "DRIVER_FAILED");
}

#[tokio::test]
async fn a_disabled_host_refuses_new_work_only() {
    let mut cell = Cell::start(quick()).await;
    let known = InstanceId::generate();
    cell.build(known, 1, "web").await.unwrap();
    cell.report().await;
    let epoch = cell.agent.as_ref().unwrap().epoch().0;
    let word = SetHostEnabledRequest {
        target_host: HOST.into(),
        target_epoch: epoch,
        enabled: false,
        disabled_reason: "disk".into(),
        revision: 0,
    };
    *cell.conductor.word.lock() = (false, "disk".into());
    cell.client().set_host_enabled(word).await.unwrap();
    let refused = cell.build(InstanceId::generate(), 1, "late").await.unwrap_err();
    assert_eq!(reason_of(&refused), Some(Reason::HostDisabled));
    assert!(refused.message().contains("disk"));
    cell.build(known, 1, "web").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    cell.terminate(known, 2).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    // The registration brings the word back.
    *cell.conductor.word.lock() = (true, String::new());
    cell.agent_shows(|agent| agent["enabled"] == true).await;
    cell.build(InstanceId::generate(), 1, "next").await.unwrap();
}

#[tokio::test]
async fn a_host_says_what_it_knows() {
    let mut cell = Cell::start(failing("bad", 1)).await;
    let (good, bad) = (InstanceId::generate(), InstanceId::generate());
    let ask = |cell: &Cell, id| {
        let mut command = cell.command(id, 0, 0);
        command.target_epoch = 0;
        let mut client = cell.client();
        async move {
            let request = GetInstanceStateRequest { command: Some(command) };
            client.get_instance_state(request).await.map(|answer| answer.into_inner())
        }
    };
    assert_eq!(reason(ask(&cell, good).await), Some(Reason::InstanceNotFound));
    cell.build(good, 1, "good").await.unwrap();
    cell.report().await;
    cell.build(bad, 1, "bad").await.unwrap();
    cell.report().await;
    let state = ask(&cell, good).await.unwrap();
    assert_eq!((state.generation, state.busy, state.power_state()), (1, false, PowerState::Running));
    let state = ask(&cell, bad).await.unwrap();
    assert_eq!(state.fault.as_ref().unwrap().reason, "DRIVER_FAILED");
    assert_eq!(state.power_state(), PowerState::Unspecified);
}

#[tokio::test]
async fn reports_wait_for_a_conductor() {
    let mut cell = Cell::start(quick()).await;
    cell.stop_conductor().await;
    let id = InstanceId::generate();
    cell.build(id, 1, "web").await.unwrap();
    cell.agent_shows(|agent| agent["busy"] == 0).await;
    assert_eq!(cell.agent()["pending_reports"], 1);
    assert!(cell.reports.try_recv().is_err());
    cell.start_conductor().await;
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    cell.agent_shows(|agent| agent["pending_reports"] == 0).await;
}

fn record(id: InstanceId, state: instance::State, desired: instance::Desired) -> Instance {
    let mut record = Instance { id: id.to_string(), host: HOST.into(), ..Instance::default() };
    (record.generation, record.attempt) = (1, 1);
    record.set_state(state);
    record.set_desired(desired);
    record
}

#[tokio::test]
async fn guests_outlive_the_agent_and_keep_their_room() {
    let mut cell = Cell::start(quick()).await;
    let ids = [(); 3].map(|()| InstanceId::generate());
    for id in ids {
        cell.build(id, 1, "web").await.unwrap();
        cell.report().await;
    }
    let active = |id| record(id, instance::State::Active, instance::Desired::Running);
    *cell.conductor.records.lock() = ids.map(active).to_vec();
    let before = cell.agent.as_ref().unwrap().epoch();
    cell.stop_agent().await;
    cell.start_agent().await;
    assert!(cell.agent.as_ref().unwrap().epoch() > before);
    assert_eq!(cell.agent()["claims"]["instances"], 3);
    cell.build(ids[0], 1, "web").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.replay(), (3, 3));
}

#[tokio::test]
async fn what_no_record_knows_is_removed_after_its_grace() {
    let (orphan_grace, reconcile_interval) = (Period::from_secs(3600), Period::from_millis(50));
    let mut cell = Cell::start(Config { orphan_grace, reconcile_interval, ..quick() }).await;
    let [orphan, elsewhere] = [(); 2].map(|()| InstanceId::generate());
    for id in [orphan, elsewhere] {
        cell.build(id, 1, "web").await.unwrap();
        cell.report().await;
    }
    let gone = record(elsewhere, instance::State::Active, instance::Desired::Absent);
    *cell.conductor.records.lock() = vec![gone];
    let report = cell.report().await;
    assert_eq!((report.status(), report.instance_id), (ReportStatus::Gone, elsewhere.to_string()));
    cell.compared().await;
    assert_eq!((cell.replay(), cell.agent()["claims"]["instances"].as_u64()), ((2, 1), Some(1)));

    cell.config.orphan_grace = Period::from_millis(0);
    cell.conductor.records.lock().clear();
    cell.stop_agent().await;
    cell.start_agent().await;
    let told = loop {
        let report = cell.report().await;
        if report.instance_id == orphan.to_string() {
            break report.status();
        }
    };
    assert_eq!((told, cell.replay()), (ReportStatus::Gone, (2, 0)));
}

#[tokio::test]
async fn what_a_crash_left_is_reconciled() {
    let mut cell = Cell::start(quick()).await;
    let [orphan, deleting, built, lost] = [(); 4].map(|()| InstanceId::generate());
    for id in [orphan, deleting, built] {
        cell.build(id, 1, "web").await.unwrap();
        cell.report().await;
    }
    cell.crash_agent();
    let (building, running) = (instance::State::Building, instance::Desired::Running);
    *cell.conductor.records.lock() = vec![
        record(deleting, instance::State::Active, instance::Desired::Absent),
        record(built, building, running),
        record(lost, building, running),
    ];
    cell.start_agent().await;
    let mut told = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let report = cell.report().await;
        let fault = report.fault.as_ref().map(|fault| fault.reason.clone());
        told.insert(report.instance_id.clone(), (report.status(), fault));
    }
    assert_eq!(told[&orphan.to_string()], (ReportStatus::Gone, None));
    assert_eq!(told[&deleting.to_string()], (ReportStatus::Gone, None));
    assert_eq!(told[&built.to_string()], (ReportStatus::Ready, None));
    assert_eq!(cell.replay(), (3, 1));
    assert_eq!(cell.agent()["claims"]["instances"], 1);
    cell.build(lost, 1, "again").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.replay(), (3, 2));
}

#[tokio::test]
async fn a_host_that_registers_anew_takes_nothing_before_it_has_compared_again() {
    let mut cell = Cell::start(quick()).await;
    let given_up = InstanceId::generate();
    cell.build(given_up, 1, "web").await.unwrap();
    cell.report().await;
    let agent = cell.agent.as_ref().unwrap();
    let (before, readiness) = (agent.epoch(), agent.readiness.clone());
    let elsewhere = Instance {
        id: given_up.to_string(),
        host: HOST.into(),
        state: instance::State::Active.into(),
        desired: instance::Desired::Absent.into(),
        generation: 2,
        attempt: 1,
        ..Instance::default()
    };
    *cell.conductor.records.lock() = vec![elsewhere];
    cell.conductor.mute.send_replace(true);
    cell.lose_registration().await;
    cell.until(|agent| agent.epoch() > before && !agent.readiness.is_ready()).await;
    let asked = *cell.conductor.listed.borrow();
    cell.until_listed(asked).await;
    let known = cell.conductor.registrations.lock().last().unwrap().epoch;
    assert!(known > before.0, "a conductor knows the new incarnation before it is asked what belongs to it");

    let id = InstanceId::generate();
    let refused = reason(cell.build(id, 1, "new").await);
    assert!(matches!(refused, Some(Reason::ConnectFailed | Reason::NotReady)), "{refused:?}");
    assert!(!readiness.is_ready());
    cell.conductor.mute.send_replace(false);
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    readiness.wait_ready().await;
    cell.reachable().await;
    cell.build(id, 1, "new").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.done(), ["spawn web", "destroy web", "spawn new"]);
}

#[tokio::test]
async fn what_was_made_for_another_generation_is_not_taken_for_what_is_asked() {
    let mut config = quick();
    let all = vec![FailRule { name: "*".into(), attempts: 99 }];
    let slow = VerbConfig { fail: all, times: 1, ..VerbConfig::default() };
    config.driver.verbs = [(Verb::Destroy, slow)].into();
    let mut cell = Cell::start(config).await;
    let id = InstanceId::generate();
    cell.build(id, 1, "web").await.unwrap();
    cell.report().await;
    let mut order = cell.order(id, 3, "web");
    order.command.as_mut().unwrap().generation = 5;
    order.flavor.as_mut().unwrap().ram_mib = 1024;
    let build = async |cell: &Cell, attempt| {
        let mut order = order.clone();
        order.command.as_mut().unwrap().attempt = attempt;
        reason(cell.client().build_instance(order).await)
    };
    assert_eq!(build(&cell, 3).await, Some(Reason::OlderGenerationPresent));
    cell.terminate(id, 5).await.unwrap();
    assert_eq!(
        build(&cell, 4).await,
        Some(Reason::StillRemoving),
        "the driver is asked again only after a while"
    );
    let report = cell.report().await;
    assert_eq!(
        (report.status(), report.attempt),
        (ReportStatus::Gone, 1),
        "of the attempts refused nothing is said"
    );
    assert_eq!(build(&cell, 5).await, None);
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.agent()["claims"]["used"]["ram_mib"], 1024);
    assert_eq!(cell.done(), ["spawn web", "destroy_failed web", "destroy web", "spawn web"]);
}
