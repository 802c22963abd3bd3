//! The operator's command line: reads and changes resources through the api, as any other client does.
//!
//! Commands turn arguments into requests and answers into [`output`]; [`failure`] gives every way to fail its text
//! and exit code; [`follow`] and [`wait`] keep up with a resource until it is where it should be.

pub mod aggregate;
pub mod audit;
pub mod client;
pub mod explain;
pub mod failure;
pub mod flavor;
pub mod follow;
pub mod format;
pub mod host;
pub mod image;
pub mod instance;
pub mod json;
pub mod numbers;
pub mod options;
pub mod output;
pub mod progress;
pub mod quota;
pub mod resolve;
pub mod scheduler;
pub mod server_group;
pub mod service;
pub mod snapshot;
pub mod store;
pub mod timeline;
pub mod volume;
pub mod wait;
pub mod wishes;
pub mod zone;

use std::process::ExitCode;

use clap::Subcommand;

pub use failure::{EXIT_CODES, Failure};
pub use options::{ENVIRONMENT, GlobalOptions};

/// The groups of commands, by the resource they are about.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Virtual machines: create, list, show, explain, delete, watch.
    #[command(subcommand, after_help = EXIT_CODES)]
    Instance(instance::InstanceCommand),
    /// Block storage: create, list, show, explain, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    Volume(volume::VolumeCommand),
    /// What volumes held at a moment: create, list, show, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    Snapshot(snapshot::SnapshotCommand),
    /// The sizes instances can have: create, list, show, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    Flavor(flavor::FlavorCommand),
    /// What instances boot from: create, list, show, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    Image(image::ImageCommand),
    /// Rules about which instances may share a host: create, list, show, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    ServerGroup(server_group::ServerGroupCommand),
    /// What compute hosts have in common: create, list, show, set, add-host, remove-host, delete.
    #[command(subcommand, after_help = EXIT_CODES)]
    Aggregate(aggregate::AggregateCommand),
    /// Availability zones: list.
    #[command(subcommand, after_help = EXIT_CODES)]
    Zone(zone::ZoneCommand),
    /// Compute hosts and storage backends: list, show, enable, disable, set.
    #[command(subcommand, after_help = EXIT_CODES)]
    Host(host::HostCommand),
    /// The running members of every service: list.
    #[command(subcommand, after_help = EXIT_CODES)]
    Service(service::ServiceCommand),
    /// Say where things would go, and why.
    #[command(subcommand, after_help = EXIT_CODES)]
    Scheduler(scheduler::SchedulerCommand),
    /// What a project may use and what it uses: show, set.
    #[command(subcommand, after_help = EXIT_CODES)]
    Quota(quota::QuotaCommand),
    /// Which store the cell has, and whether agents may go by it: show, accept.
    #[command(subcommand, after_help = EXIT_CODES)]
    Store(store::StoreCommand),
    /// Find what does not agree: records, usage, groups, guests, volumes, exports.
    #[command(after_help = EXIT_CODES)]
    Audit(audit::AuditCommand),
}

/// Runs one command to its end on a runtime of its own and prints what came of it.
pub fn run(command: Command, options: GlobalOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failure::report(&Failure::Usage(format!("cannot start the runtime: {error}"))),
    };
    match runtime.block_on(execute(command, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure::report(&failure),
    }
}

/// Runs one command to its end, for callers that have a runtime.
pub async fn execute(command: Command, options: &GlobalOptions) -> Result<(), Failure> {
    match command {
        Command::Instance(command) => instance::run(command, options).await,
        Command::Volume(command) => volume::run(command, options).await,
        Command::Snapshot(command) => snapshot::run(command, options).await,
        Command::Flavor(command) => flavor::run(command, options).await,
        Command::Image(command) => image::run(command, options).await,
        Command::ServerGroup(command) => server_group::run(command, options).await,
        Command::Aggregate(command) => aggregate::run(command, options).await,
        Command::Zone(command) => zone::run(command, options).await,
        Command::Host(command) => host::run(command, options).await,
        Command::Service(command) => service::run(command, options).await,
        Command::Scheduler(command) => scheduler::run(command, options).await,
        Command::Quota(command) => quota::run(command, options).await,
        Command::Store(command) => store::run(command, options).await,
        Command::Audit(command) => audit::run(command, options).await,
    }
}

#[cfg(test)]
mod tests;
