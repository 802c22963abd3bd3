//! What schedulers see of a host.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use kilonova_model::{InstanceId, Reason, time};
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event;
use kilonova_proto::capability::v1::{
    RefreshCapabilitiesRequest, WatchCapabilitiesRequest, WatchCapabilitiesResponse,
};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ComputeResources};
use kilonova_rpc::status::reason_of;
use support::{Cell, HOST, quick};
use tonic::{Status, Streaming};

async fn watch(cell: &Cell, resume_token: &str) -> Result<Streaming<WatchCapabilitiesResponse>, Status> {
    let request = WatchCapabilitiesRequest {
        resume_token: resume_token.to_owned(),
        heartbeat_interval: Some(time::duration(Duration::from_millis(500))),
    };
    let mut client = CapabilityServiceClient::new(cell.channel());
    Ok(client.watch_capabilities(request).await?.into_inner())
}

async fn event(stream: &mut Streaming<WatchCapabilitiesResponse>) -> (Event, String) {
    let message = stream.message().await.unwrap().unwrap();
    (message.event.unwrap(), message.resume_token)
}

fn figures(capabilities: &Capabilities) -> &ComputeResources {
    match capabilities.resources.as_ref().unwrap() {
        Resources::Compute(resources) => resources,
        other => panic!("{other:?}"),
    }
}

/// Reads updates until one satisfies `wanted`; gives it and its token.
async fn until(
    stream: &mut Streaming<WatchCapabilitiesResponse>,
    wanted: impl Fn(&Capabilities) -> bool,
) -> (Capabilities, String) {
    loop {
        if let (Event::Update(capabilities) | Event::Snapshot(capabilities), token) = event(stream).await
            && wanted(&capabilities)
        {
            return (capabilities, token);
        }
    }
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_then_changes_and_heartbeats() {
    let mut cell = Cell::start(quick()).await;
    let mut stream = watch(&cell, "").await.unwrap();
    let (Event::Snapshot(first), _) = event(&mut stream).await else { panic!("no snapshot") };
    assert_eq!((first.host.as_str(), first.availability_zone.as_str()), (HOST, "zone-a"));
    assert_eq!(first.epoch, cell.agent.as_ref().unwrap().epoch().0);
    assert_eq!((figures(&first).vcpus, figures(&first).vcpus_used), (16, 0));
    assert_eq!(figures(&first).hypervisor_type, "simulated");
    assert!(matches!(event(&mut stream).await.0, Event::SnapshotEnd(_)));

    cell.build(InstanceId::generate(), 1, "web").await.unwrap();
    cell.report().await;
    let built = |c: &Capabilities| figures(c).vcpus_used == 1 && figures(c).io_ops == 0;
    let (update, token) = until(&mut stream, built).await;
    assert!(update.generation > first.generation && update.enabled);
    assert_eq!((figures(&update).ram_used_mib, figures(&update).instances), (512, 1));
    while !matches!(event(&mut stream).await.0, Event::Heartbeat(_)) {}

    let mut resumed = watch(&cell, &token).await.unwrap();
    assert!(matches!(event(&mut resumed).await.0, Event::SnapshotEnd(_)));
    let mut client = CapabilityServiceClient::new(cell.channel());
    let refreshed = client.refresh_capabilities(RefreshCapabilitiesRequest {}).await.unwrap().into_inner();
    assert!(refreshed.capabilities.unwrap().generation > update.generation);
    let mut behind = watch(&cell, &token).await.unwrap();
    assert!(matches!(event(&mut behind).await.0, Event::Snapshot(_)));
}

#[tokio::test]
async fn a_token_of_an_earlier_incarnation_has_expired_and_streams_end_with_the_agent() {
    let mut cell = Cell::start(quick()).await;
    let mut stream = watch(&cell, "").await.unwrap();
    assert!(matches!(event(&mut stream).await.0, Event::Snapshot(_)));
    let (_, token) = event(&mut stream).await;
    cell.stop_agent().await;
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason_of(&end), Some(Reason::Draining));
    cell.start_agent().await;
    let expired = watch(&cell, &token).await.err().unwrap();
    assert_eq!(reason_of(&expired), Some(Reason::ResumeTokenExpired));
}

#[tokio::test]
async fn a_host_is_not_offered_before_a_conductor_knows_it() {
    let cell = Cell::without_agent(quick()).await;
    *cell.conductor.word.lock() = (false, "new".into());
    let mut cell = cell;
    cell.start_agent().await;
    let mut stream = watch(&cell, "").await.unwrap();
    let (seen, _) = until(&mut stream, |c| c.disabled_reason == "new").await;
    assert!(!seen.enabled);
    *cell.conductor.word.lock() = (true, String::new());
    until(&mut stream, |c| c.enabled).await;
}
