//! `kilonova up`: all services in one process, until it is told to stop.

mod banner;
mod cloud;
mod plan;
pub mod seed;

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use kilonova_runtime::config::to_toml_redacted;

pub use cloud::{Cloud, Plan};
pub use plan::{Counts, PortChoice};

use crate::cli::client::Client;
use crate::cli::numbers::within;
use crate::cli::options::{Format, GlobalOptions};
use crate::failure::Failure;
use crate::flags::ConfigFlags;
use crate::output;
use crate::serve::{Process, start_log};

/// What `kilonova up` takes.
#[derive(Clone, Debug, Args)]
pub struct UpFlags {
    #[command(flatten)]
    shared: ConfigFlags,
    /// How many compute hosts.
    #[arg(long, value_name = "N", default_value_t = 3, allow_negative_numbers = true, value_parser = within(0_u16..=400))]
    hosts: u16,
    /// How many storage backends.
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true, value_parser = within(0_u16..=400))]
    backends: u16,
    /// How many conductors.
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true, value_parser = within(1_u16..=16))]
    conductors: u16,
    /// How many schedulers.
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true, value_parser = within(1_u16..=16))]
    schedulers: u16,
    /// The address on which all of them listen.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen_ip: IpAddr,
    /// Take any free ports instead of the usual ones.
    #[arg(long)]
    ephemeral_ports: bool,
}

/// Runs a cloud until it is told to stop.
pub async fn run(flags: UpFlags) -> Result<(), Failure> {
    let config = flags.shared.load_quiet()?;
    config.check().map_err(Failure::usage)?;
    if flags.shared.print_config {
        output::say(&to_toml_redacted(&config));
        return Ok(());
    }
    let log = start_log(&config.log)?;
    let shared = flags.shared.clone();
    let process = Process::watch()?;
    process.reload_log(log, move || shared.load_quiet())?;
    let cloud = tokio::select! {
        cloud = start(&flags, config) => cloud?,
        () = process.stop.cancelled() => return Ok(()),
    };
    let members = cloud.members();
    let program = std::env::args().next().unwrap_or_else(|| "kilonova".to_owned());
    output::say(&banner::banner(
        &members,
        &cloud.config().store,
        cloud.data_dir(),
        cloud.is_temporary(),
        cloud.foreign_store(),
        &program,
    ));
    let end = tokio::select! {
        () = process.stop.cancelled() => Ok(()),
        reason = cloud.failed() => Err(Failure::failed(reason)),
    };
    cloud.stop().await;
    end
}

async fn start(flags: &UpFlags, config: crate::config::Config) -> Result<Cloud, Failure> {
    let counts = Counts {
        conductors: flags.conductors,
        schedulers: flags.schedulers,
        hosts: flags.hosts,
        backends: flags.backends,
    };
    let ports = if flags.ephemeral_ports { PortChoice::Ephemeral } else { PortChoice::Usual };
    let cloud = Box::pin(Cloud::start(Plan { counts, ip: flags.listen_ip, ports, config })).await?;
    let client = client_of(&cloud, Duration::from_secs(30)).await?;
    seed::flavors_and_image(&client).await?;
    if cloud.foreign_store().is_some() {
        return Ok(cloud);
    }
    seed::hosts_up(&client, usize::from(flags.hosts + flags.backends)).await?;
    Ok(cloud)
}

/// A connection to the cloud's api, as any client has.
pub async fn client_of(cloud: &Cloud, limit: Duration) -> Result<Client, Failure> {
    let options = GlobalOptions {
        endpoint: format!("http://{}", cloud.api()),
        project: None,
        output: Format::Table,
        timeout: None,
    };
    Ok(Client::connect(&options, Some(limit)).await?)
}
