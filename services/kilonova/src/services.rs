//! Starting one service of any kind.

use std::fs::{File, TryLockError};
use std::path::Path;

use kilonova_model::ServiceKind;
use kilonova_runtime::{Launch, Running};
use kilonova_store::SharedStore;

use crate::bind::Ports;
use crate::config::{Config, Place};
use crate::failure::Failure;

/// A service that runs, with what it holds of this machine.
pub struct Member {
    /// The service.
    pub running: Running,
    /// Held while it runs: nobody else may work on its data.
    _data: Option<File>,
}

/// Starts a service on ports that were taken before.
pub async fn start(
    config: Config,
    place: &Place,
    ports: Ports,
    store: SharedStore,
) -> Result<Member, Failure> {
    let data = match place.service {
        ServiceKind::Compute => Some(lock(&config.compute.data_dir)?),
        ServiceKind::Volume => Some(lock(&config.volume.data_dir)?),
        ServiceKind::Api | ServiceKind::Conductor | ServiceKind::Scheduler => None,
    };
    let launch = Launch {
        service: place.service,
        host: place.host.clone(),
        cell: config.cell.clone(),
        zone: config.zone.clone(),
        store,
        listener: ports.grpc,
        http: Some(ports.http),
        advertise: place.advertise.clone(),
        options: config.launch_options(place.service, &place.host).map_err(Failure::usage)?,
    };
    let started = match place.service {
        ServiceKind::Api => Box::pin(kilonova_api::start(config.api, launch)).await,
        ServiceKind::Conductor => Box::pin(kilonova_conductor::start(config.conductor, launch)).await,
        ServiceKind::Scheduler => Box::pin(kilonova_scheduler::start(config.scheduler, launch)).await,
        ServiceKind::Compute => Box::pin(kilonova_compute::start(config.compute, launch)).await,
        ServiceKind::Volume => Box::pin(kilonova_volume::start(config.volume, launch)).await,
    };
    match started {
        Ok(running) => Ok(Member { running, _data: data }),
        Err(error) => Err(Failure::failed(format!("{} {}: {error}", place.service, place.host))),
    }
}

fn lock(dir: &Path) -> Result<File, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "cannot keep data in {}: {error}; name another place with --data-dir",
            dir.display()
        ))
    };
    std::fs::create_dir_all(dir).map_err(|error| cannot(&error))?;
    let file = File::create(dir.join("lock")).map_err(|error| cannot(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Failure::failed(format!("the data in {} is in use by another process", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(cannot(&error)),
    }
}
