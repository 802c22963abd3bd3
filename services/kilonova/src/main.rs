//! The one binary of Kilonova: it runs a service, or all of them, and is the operator's command line.

mod address;
mod backup;
mod bind;
mod cli;
mod command_line;
mod config;
mod demo;
mod failure;
mod flags;
mod limits;
mod output;
mod renamed;
mod serve;
mod services;
mod stores;
mod targets;
mod up;

use std::process::ExitCode;

use command_line::Command;
use failure::Failure;

fn main() -> ExitCode {
    let ended = match command_line::parse() {
        Command::Operate(command, options) => return cli::run(*command, options),
        Command::Serve(service, flags) => on_runtime(serve::run(service, *flags)),
        Command::Up(flags) => on_runtime(up::run(*flags)),
        Command::Backup(flags) => backup::run(&flags),
        Command::Demo(flags) => on_runtime(demo::run(flags)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(Box::pin(work))
}
