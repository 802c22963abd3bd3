//! The api: the public edge. It checks the shape of every request, asks a conductor, and passes the answer on. It
//! holds nothing: any number of them may run, and any may be lost.
//!
//! [`config`] says what can be set; `server` is the gRPC adapter; `check` looks at requests; `convert` turns the
//! public messages into the conductor's and back; `conductor` makes the calls; `relay` keeps watches alive while
//! conductors come and go.

mod check;
mod conductor;
pub mod config;
mod convert;
mod relay;
mod server;

use std::time::Duration;

use kilonova_model::ServiceKind;
use kilonova_rpc::peers::Channel;
use kilonova_runtime::readiness::Readiness;
use kilonova_runtime::{Launch, Running, StartError};
use tokio::time::Instant;

pub use config::Config;

use conductor::Conductor;

/// How long one wait for a conductor lasts before the reason is written down anew.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Starts an api. It is ready once it has found a conductor; losing them all later does not make it unready: its
/// callers hear then why nobody answers.
pub async fn start(config: Config, launch: Launch) -> Result<Running, StartError> {
    config.check().map_err(StartError::service)?;
    let context = launch.register().await?;
    let channel = context.peers.call(ServiceKind::Conductor);
    context.readiness.not("conductor", "not looked for yet");
    context.tasks.spawn("conductor search", find(channel, context.readiness.clone()));
    let server = server::add(context.server(), Conductor::new(&context.peers, &config));
    context.serve(server).await
}

async fn find(channel: Channel, readiness: Readiness) {
    loop {
        let again = Instant::now() + LOOK_AGAIN;
        match channel.wait_ready(again).await {
            Ok(()) => break,
            Err(status) => readiness.not("conductor", status.message()),
        }
        tokio::time::sleep_until(again).await;
    }
    readiness.ok("conductor");
}
