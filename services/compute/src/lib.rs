//! The agent of one hypervisor. It owns the truth about its host: what is claimed, which guests there are, and what
//! they do. It takes commands from conductors, does each once, and reports how it ended.

pub mod claims;
pub mod config;
pub mod driver;
mod guests;
pub mod manager;
mod meters;
mod reconcile;
mod server;
pub mod share;

use std::sync::Arc;

use kilonova_proto::compute::v1::compute_service_server::ComputeServiceServer;
use kilonova_rpc::server::ServerBuilder;
use kilonova_runtime::agent::data_dir;
use kilonova_runtime::agent::life::{LifeOptions, live, serve_capabilities};
use kilonova_runtime::agent::reporter::Reporter;
use kilonova_runtime::agent::store_memory::StoreMemory;
use kilonova_runtime::agent::work::Site;
use kilonova_runtime::{Context, Launch, Running, StartError};

pub use config::Config;
use config::DriverKind;
use driver::Driver;
use driver::simulated::Simulated;
use manager::{Manager, Parts};
use server::{ComputeServer, served};

/// Starts a compute agent.
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
    let reporter = Reporter::new(site.pending_reports("instance"));
    let parts = Parts {
        site,
        zone: context.zone.clone(),
        epochs: context.epochs(),
        readiness: context.readiness.clone(),
        tasks: context.tasks.clone(),
        driver,
        reporter: reporter.clone(),
    };
    let manager = Arc::new(Manager::start(config, parts).await.map_err(StartError::service)?);

    let (described, reports) = (manager.clone(), reporter.clone());
    context.diagnostics.add("agent", move || {
        let mut agent = described.describe();
        agent["pending_reports"] = reports.pending().into();
        agent
    });
    let options = LifeOptions {
        refresh_interval: config.refresh_interval.get(),
        register_interval: config.register_interval.get(),
        reconcile_interval: config.reconcile_interval.get(),
    };
    live(context, &manager, reporter, memory, options);
    let server = context
        .server()
        .add(ComputeServiceServer::new(ComputeServer::new(manager.clone(), memory.clone())), served());
    Ok(serve_capabilities(server, &manager, manager.publisher()))
}
