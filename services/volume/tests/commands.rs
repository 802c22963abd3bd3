//! Commands to a storage backend over real connections: what is done, how often, and what is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod overtaking;
mod support;

use kilonova_model::{Reason, VolumeId};
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::{RefreshCapabilitiesRequest, WatchCapabilitiesRequest};
use kilonova_proto::conductor::v1::ReportStatus;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::volume::{Desired, State};
use kilonova_proto::types::v1::{Capabilities, ServiceKind, StoragePool, Volume, VolumeSpec};
use kilonova_proto::volume::v1::{
    ExtendVolumeRequest, GetVolumeStateRequest, InitializeConnectionRequest, SetHostEnabledRequest,
    TerminateConnectionRequest,
};
use kilonova_rpc::status::reason_of;
use support::{Cell, HOST, endless, failing, quick};
use tonic::{Code, Status};

fn reason<T>(result: Result<T, Status>) -> Option<Reason> {
    result.err().and_then(|status| reason_of(&status))
}

fn pools(capabilities: &Capabilities) -> &[StoragePool] {
    match capabilities.resources.as_ref().unwrap() {
        Resources::Volume(resources) => &resources.pools,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_volume_is_created_once_told_again_and_deleted_once() {
    let mut cell = Cell::start(quick()).await;
    let id = VolumeId::generate();
    cell.create(id, 1, "data", 5, "").await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.generation, report.attempt), (ReportStatus::Ready, 1, 1));
    let steps: Vec<_> = report.steps.iter().map(|step| (step.name.as_str(), step.service())).collect();
    assert_eq!(steps, [("claim", ServiceKind::Volume), ("create", ServiceKind::Volume)]);
    assert_eq!(report.steps[0].detail, "5 GiB in pool \"fast\"");
    cell.create(id, 1, "data", 5, "").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);

    let request = GetVolumeStateRequest { command: Some(cell.command(id, 1, 1)) };
    let state = cell.client().get_volume_state(request).await.unwrap().into_inner();
    assert_eq!((state.present, state.size_gib, state.busy), (true, 5, false));

    cell.delete(id, 2).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    cell.delete(id, 2).await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Gone);
    assert_eq!(cell.done(), ["create data", "delete data"]);
    assert_eq!(reason(cell.create(id, 1, "data", 5, "").await), Some(Reason::StaleGeneration));
    let request = GetVolumeStateRequest { command: Some(cell.command(id, 2, 1)) };
    assert_eq!(reason(cell.client().get_volume_state(request).await), Some(Reason::VolumeNotFound));
}

#[tokio::test]
async fn a_host_reaches_a_volume_until_it_is_disconnected_and_no_late_command_reconnects_it() {
    let mut cell = Cell::start(quick()).await;
    let id = VolumeId::generate();
    let connector = || [("host".to_owned(), "node1".to_owned())].into();
    let connect = async |cell: &Cell, generation| {
        let command = Some(cell.command(id, generation, 1));
        let request = InitializeConnectionRequest { command, connector: connector() };
        cell.client().initialize_connection(request).await.map(|answer| answer.into_inner().connection)
    };
    let disconnect = async |cell: &Cell, generation| {
        let command = Some(cell.command(id, generation, 1));
        let request = TerminateConnectionRequest { command, connector: connector() };
        cell.client().terminate_connection(request).await.map(drop)
    };
    assert_eq!(reason(connect(&cell, 2).await), Some(Reason::VolumeNotFound));
    disconnect(&cell, 2).await.unwrap();
    cell.create(id, 1, "data", 5, "").await.unwrap();
    cell.report().await;
    let connection = connect(&cell, 2).await.unwrap();
    assert_eq!(connection["protocol"], "simulated");
    assert_eq!(connect(&cell, 2).await.unwrap(), connection);
    disconnect(&cell, 3).await.unwrap();
    disconnect(&cell, 3).await.unwrap();
    assert_eq!(reason(connect(&cell, 2).await), Some(Reason::StaleGeneration));
    assert_eq!(cell.done(), ["create data", "export data", "unexport data"]);
    let nobody = InitializeConnectionRequest { command: Some(cell.command(id, 4, 1)), ..Default::default() };
    assert_eq!(cell.client().initialize_connection(nobody).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_volume_grows_once_as_far_as_there_is_room_and_stays_so_over_a_restart() {
    let mut config = quick();
    config.driver.extend_fail = failing("stiff*", 1).driver.fail;
    let mut cell = Cell::start(config).await;
    let (id, stiff) = (VolumeId::generate(), VolumeId::generate());
    for (id, name) in [(id, "data"), (stiff, "stiff")] {
        cell.create(id, 1, name, 5, "").await.unwrap();
        cell.report().await;
    }
    let extend = async |cell: &Cell, id, generation, size_gib| {
        let request = ExtendVolumeRequest { command: Some(cell.command(id, generation, 1)), size_gib };
        cell.client().extend_volume(request).await.map(drop)
    };
    let used = |cell: &Cell| cell.agent()["claims"]["pools"][0]["provisioned_gib"].as_u64().unwrap();
    extend(&cell, id, 2, 8).await.unwrap();
    let report = cell.report().await;
    assert_eq!(
        (report.status(), report.operation(), report.generation),
        (ReportStatus::Ready, Kind::Extend, 2)
    );
    extend(&cell, id, 2, 8).await.unwrap();
    assert_eq!(cell.report().await, report);
    assert_eq!(used(&cell), 13);
    assert_eq!(reason(extend(&cell, id, 3, 1_000_000).await), Some(Reason::ClaimRefused));

    extend(&cell, stiff, 2, 9).await.unwrap();
    let report = cell.report().await;
    assert_eq!(
        (report.status(), report.fault.unwrap().reason.as_str()),
        (ReportStatus::Ready, "DRIVER_FAILED")
    );
    assert_eq!(used(&cell), 13, "what was claimed for it is given back");

    let record = |id: VolumeId, size_gib| Volume {
        id: id.to_string(),
        host: HOST.into(),
        state: State::Available.into(),
        desired: Desired::Present.into(),
        generation: 3,
        attempt: 1,
        spec: Some(VolumeSpec { size_gib, ..Default::default() }),
        ..Default::default()
    };
    *cell.records.lock() = vec![record(id, 8), record(stiff, 5)];
    cell.crash_agent();
    cell.start_agent().await;
    assert_eq!(used(&cell), 13);
    let state = GetVolumeStateRequest { command: Some(cell.command(id, 3, 1)) };
    assert_eq!(cell.client().get_volume_state(state).await.unwrap().into_inner().size_gib, 8);
}

#[tokio::test]
async fn a_failed_create_frees_its_room_and_the_next_attempt_succeeds() {
    let mut cell = Cell::start(failing("bad*", 1)).await;
    let id = VolumeId::generate();
    cell.create(id, 1, "bad-1", 10, "").await.unwrap();
    let report = cell.report().await;
    assert_eq!(
        (report.status(), report.fault.unwrap().reason),
        (ReportStatus::Failed, "DRIVER_FAILED".into())
    );
    assert_eq!(cell.agent()["claims"]["volumes"], 0);
    cell.create(id, 2, "bad-1", 10, "").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    assert_eq!(cell.done(), ["create_failed bad-1", "create bad-1"]);
}

#[tokio::test]
async fn a_delete_while_creating_leaves_nothing() {
    let mut cell = Cell::start(endless()).await;
    let id = VolumeId::generate();
    cell.create(id, 1, "data", 5, "").await.unwrap();
    cell.delete(id, 2).await.unwrap();
    let report = cell.report().await;
    assert_eq!((report.status(), report.generation), (ReportStatus::Gone, 2));
    assert_eq!(cell.agent()["claims"]["volumes"], 0);
    assert_eq!(cell.replay(), 0);
}

#[tokio::test]
async fn creates_at_once_never_take_more_than_a_pool_has() {
    let mut cell = Cell::start(quick()).await;
    let creates = (0..40).map(|n| {
        let pool = if n % 2 == 0 { "fast" } else { "wide" };
        let order = cell.order(VolumeId::generate(), 1, &format!("v-{n}"), 10, pool);
        let mut client = cell.client();
        async move { client.create_volume(order).await.map(drop) }
    });
    let results = futures::future::join_all(creates).await;
    let refused: Vec<_> = results.into_iter().filter_map(reason).collect();
    // 10 of 20 fit into 100 GiB; all 20 into 100 GiB that may be promised twice.
    assert_eq!(refused, vec![Reason::ClaimRefused; 10]);
    for _ in 0..30 {
        assert_eq!(cell.report().await.status(), ReportStatus::Ready);
    }
    let mut client = CapabilityServiceClient::new(cell.channel());
    let answer = client.refresh_capabilities(RefreshCapabilitiesRequest {}).await.unwrap().into_inner();
    let capabilities = answer.capabilities.unwrap();
    let figures: Vec<_> =
        pools(&capabilities).iter().map(|pool| (pool.provisioned_gib, pool.free_gib, pool.volumes)).collect();
    assert_eq!(figures, [(100, 0, 10), (200, 100, 20)]);
}

#[tokio::test]
async fn a_watcher_sees_a_new_volume() {
    let mut cell = Cell::start(quick()).await;
    let mut client = CapabilityServiceClient::new(cell.channel());
    let mut stream =
        client.watch_capabilities(WatchCapabilitiesRequest::default()).await.unwrap().into_inner();
    let Some(Event::Snapshot(first)) = stream.message().await.unwrap().unwrap().event else {
        panic!("no snapshot")
    };
    assert_eq!((first.host.as_str(), first.service()), (HOST, ServiceKind::Volume));
    assert_eq!(pools(&first).len(), 2);
    cell.create(VolumeId::generate(), 1, "data", 7, "wide").await.unwrap();
    cell.report().await;
    loop {
        if let Some(Event::Update(update)) = stream.message().await.unwrap().unwrap().event
            && pools(&update)[1].provisioned_gib == 7
        {
            assert!(update.generation > first.generation);
            break;
        }
    }
}

#[tokio::test]
async fn a_disabled_backend_and_commands_for_others_are_refused() {
    let cell = Cell::start(quick()).await;
    let id = VolumeId::generate();
    let mut order = cell.order(id, 1, "data", 1, "");
    order.command.as_mut().unwrap().target_epoch += 1;
    assert_eq!(reason(cell.client().create_volume(order).await), Some(Reason::StaleEpoch));
    let word = SetHostEnabledRequest {
        target_host: HOST.into(),
        target_epoch: cell.agent.as_ref().unwrap().epoch().0,
        enabled: false,
        disabled_reason: "disk".into(),
        revision: 0,
    };
    cell.client().set_host_enabled(word).await.unwrap();
    assert_eq!(reason(cell.create(id, 1, "data", 1, "").await), Some(Reason::HostDisabled));
    assert_eq!(
        reason(cell.create(VolumeId::generate(), 1, "data", 1, "none").await),
        Some(Reason::HostDisabled)
    );
}

#[tokio::test]
async fn volumes_outlive_a_crash_and_what_it_left_is_reconciled() {
    let mut cell = Cell::start(quick()).await;
    let [kept, orphan, built, lost] = [(); 4].map(|()| VolumeId::generate());
    for id in [kept, orphan, built] {
        cell.create(id, 1, "data", 5, "").await.unwrap();
        cell.report().await;
    }
    cell.crash_agent();
    let record = |id: VolumeId, state: State| {
        let mut record = Volume { id: id.to_string(), host: HOST.into(), ..Volume::default() };
        (record.generation, record.attempt) = (1, 1);
        record.set_state(state);
        record.set_desired(Desired::Present);
        record
    };
    *cell.records.lock() =
        vec![record(kept, State::InUse), record(built, State::Creating), record(lost, State::Creating)];
    cell.start_agent().await;
    let mut told = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let report = cell.report().await;
        told.insert(report.volume_id.clone(), report.status());
    }
    assert_eq!(told[&orphan.to_string()], ReportStatus::Gone);
    assert_eq!(told[&built.to_string()], ReportStatus::Ready);
    assert_eq!(cell.replay(), 2);
    assert_eq!(cell.agent()["claims"]["volumes"], 2);
    cell.create(lost, 1, "again", 5, "").await.unwrap();
    assert_eq!(cell.report().await.status(), ReportStatus::Ready);
}
