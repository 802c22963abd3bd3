//! The scheduler: keeps the state of every host and backend in memory, fed by their capability streams, and
//! answers "where". It owns nothing durable; a restart refills it from the streams.
//!
//! [`placement`] decides, purely; [`hosts`] keeps the state; `follow` feeds it from the registry and the streams;
//! `server` answers.

pub mod config;
mod follow;
pub mod hosts;
mod house;
pub mod placement;
mod server;
mod state;
mod validate;

use std::sync::Arc;

use kilonova_proto::scheduler::v1::scheduler_service_server::SchedulerServiceServer;
use kilonova_rpc::server::Served;
use kilonova_runtime::{Launch, Running, StartError};

pub use config::Config;

/// Most publishers one scheduler keeps a connection to.
const MAX_PUBLISHERS: usize = 200_000;

/// Starts a scheduler. It is ready once every known publisher has answered, or has had its time to, and while any
/// of them is up.
pub async fn start(config: Config, mut launch: Launch) -> Result<Running, StartError> {
    config.check().map_err(StartError::service)?;
    let state = Arc::new(state::State::new(launch.host.clone(), &config).map_err(StartError::service)?);
    // A connection to every publisher is in use all the time: none may be closed to make room for another.
    launch.options.peers.max_directed = launch.options.peers.max_directed.max(MAX_PUBLISHERS);
    let context = launch.register().await?;
    follow::start(&context, &config, &state);
    house::keep(&context, &state);
    let scheduler = server::Scheduler { state, readiness: context.readiness.clone() };
    let server = context.server().add(SchedulerServiceServer::new(scheduler), Served::all(server::SERVICE));
    context.serve(server).await
}
