//! The agent of one storage backend. It owns the truth about its storage: what is promised in its pools and which
//! volumes there are. It takes commands from conductors, does each once, and reports how it ended.

pub mod config;
mod connections;
pub mod driver;
mod locks;
pub mod manager;
pub mod pools;
mod reconcile;
mod server;
mod snapshots;
mod stored;

use std::sync::Arc;

use kilonova_proto::volume::v1::volume_service_server::VolumeServiceServer;
use kilonova_rpc::server::ServerBuilder;
use kilonova_runtime::agent::data_dir;
use kilonova_runtime::agent::life::{LifeOptions, keep_reporting, live, serve_capabilities};
use kilonova_runtime::agent::reporter::Reporter;
use kilonova_runtime::agent::store_memory::StoreMemory;
use kilonova_runtime::agent::work::Site;
use kilonova_runtime::{Context, Launch, Running, StartError};

pub use config::Config;
use config::DriverKind;
use driver::Driver;
use driver::simulated::Simulated;
use manager::{Manager, Parts};
use server::{VolumeServer, served};

/// Starts a volume agent.
pub async fn start(config: Config, launch: Launch) -> Result<Running, StartError> {
    config.check().map_err(StartError::service)?;
    data_dir::claim(&config.data_dir, launch.service, &launch.host, &launch.cell)
        .map_err(StartError::service)?;
    let memory = StoreMemory::open(&config.data_dir).map_err(StartError::service)?;
    let context = launch.register().await?;
    let built = build(&config, &context, &memory).await;
    context.serve_built(built).await
}

async fn build(
    config: &Config,
    context: &Context,
    memory: &StoreMemory,
) -> Result<ServerBuilder, StartError> {
    let site = Site { service: context.service, host: context.host.clone() };
    let driver: Arc<dyn Driver> = match config.driver.kind {
        DriverKind::Simulated => {
            let driver = Simulated::open(config, context.host.clone(), context.epochs());
            let driver = driver.map_err(StartError::service)?;
            driver.note_start().map_err(StartError::service)?;
            Arc::new(driver)
        }
    };
    let reporter = Reporter::new(site.pending_reports("volume"));
    let snapshot_reporter = Reporter::new(site.pending_reports("snapshot"));
    let parts = Parts {
        site,
        zone: context.zone.clone(),
        epochs: context.epochs(),
        readiness: context.readiness.clone(),
        tasks: context.tasks.clone(),
        driver,
        reporter: reporter.clone(),
        snapshot_reporter: snapshot_reporter.clone(),
    };
    let manager = Arc::new(Manager::start(config, parts).await.map_err(StartError::service)?);

    let (described, reports, snapshot_reports) =
        (manager.clone(), reporter.clone(), snapshot_reporter.clone());
    context.diagnostics.add("agent", move || {
        let mut agent = described.describe();
        agent["pending_reports"] = (reports.pending() + snapshot_reports.pending()).into();
        agent
    });
    let options = LifeOptions {
        refresh_interval: config.refresh_interval.get(),
        register_interval: config.register_interval.get(),
        reconcile_interval: config.reconcile_interval.get(),
    };
    live(context, &manager, reporter, memory, options);
    keep_reporting(context, "snapshot reports", snapshot_reporter, memory);
    let server = context
        .server()
        .add(VolumeServiceServer::new(VolumeServer::new(manager.clone(), memory.clone())), served());
    Ok(serve_capabilities(server, &manager, manager.publisher()))
}
