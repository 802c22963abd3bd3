//! The commands of the binary.
//!
//! `volume` and `scheduler` are two things each: alone or with flags they run the service, with a word after them
//! (`volume list`, `scheduler dry-run`) they are the operator's commands.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use kilonova_model::ServiceKind;

use crate::backup::BackupFlags;
use crate::cli::{self, GlobalOptions};
use crate::demo::DemoFlags;
use crate::flags::ServeFlags;
use crate::up::UpFlags;

/// What is to be done.
pub enum Command {
    /// Run one service.
    Serve(ServiceKind, Box<ServeFlags>),
    /// Run all of them.
    Up(Box<UpFlags>),
    /// Show what it does.
    Demo(DemoFlags),
    /// Copy the embedded store.
    Backup(Box<BackupFlags>),
    /// Talk to an api.
    Operate(Box<cli::Command>, GlobalOptions),
}

/// Kilonova: a control plane for virtual machines and block storage.
#[derive(Parser)]
#[command(name = "kilonova", version, max_term_width = 110)]
struct CommandLine {
    #[command(flatten, next_help_heading = "Options of operators' commands")]
    options: GlobalOptions,
    #[command(subcommand)]
    word: Word,
}

#[derive(Subcommand)]
enum Word {
    /// Run every service in this process.
    Up(Box<UpFlags>),
    /// Run a small cloud, show what it does, and stop.
    Demo(DemoFlags),
    /// Copy the embedded store to a file, while it is in use or not.
    Backup(Box<BackupFlags>),
    /// Run the api: the public edge.
    Api(Box<ServeFlags>),
    /// Run a conductor: the owner of records, which drives every request to its end.
    Conductor(Box<ServeFlags>),
    /// Run the agent of a hypervisor.
    Compute(Box<ServeFlags>),
    #[command(flatten)]
    Operate(Box<cli::Command>),
}

/// Services whose name is also a command's.
const SHARED: [(&str, ServiceKind, &str); 2] = [
    (
        "volume",
        ServiceKind::Volume,
        "Run the agent of a storage backend; or, with a command, block storage: create, list, show, explain, delete",
    ),
    (
        "scheduler",
        ServiceKind::Scheduler,
        "Run a scheduler: it answers where things go; or, with a command, say where they would go, and why",
    ),
];
/// Commands that talk to no api.
const SERVING: [&str; 6] = ["up", "demo", "backup", "api", "conductor", "compute"];

/// Reads the process's arguments; ends the process where they ask for help or are wrong.
pub fn parse() -> Command {
    read(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

fn command() -> clap::Command {
    let command = SHARED.iter().fold(CommandLine::command(), |command, (name, _, about)| {
        command.mut_subcommand(name, |shared| {
            ServeFlags::augment_args(shared)
                .about(*about)
                .subcommand_required(false)
                .arg_required_else_help(false)
        })
    });
    let operators: Vec<_> = command
        .get_arguments()
        .filter(|option| option.is_global_set())
        .map(|option| option.clone().hide(true))
        .collect();
    SERVING
        .iter()
        .fold(command, |command, name| command.mut_subcommand(name, |serving| serving.args(&operators)))
}

fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    if let Some((name, given)) = matches.subcommand()
        && let Some((_, service, _)) = SHARED.iter().find(|(shared, ..)| *shared == name)
    {
        match given.subcommand_name() {
            None => {
                return Ok(Command::Serve(*service, Box::new(ServeFlags::from_arg_matches(given)?)));
            }
            Some(word) => refuse_service_flags(name, given, word)?,
        }
    }
    let CommandLine { options, word } = CommandLine::from_arg_matches(&matches)?;
    Ok(match word {
        Word::Up(flags) => Command::Up(flags),
        Word::Demo(flags) => Command::Demo(flags),
        Word::Backup(flags) => Command::Backup(flags),
        Word::Api(flags) => Command::Serve(ServiceKind::Api, flags),
        Word::Conductor(flags) => Command::Serve(ServiceKind::Conductor, flags),
        Word::Compute(flags) => Command::Serve(ServiceKind::Compute, flags),
        Word::Operate(command) => Command::Operate(command, options),
    })
}

/// A flag of the service before a word of the operator's would be ignored.
fn refuse_service_flags(service: &str, given: &ArgMatches, word: &str) -> Result<(), clap::Error> {
    let flags = ServeFlags::augment_args(clap::Command::new("service"));
    let given = flags
        .get_arguments()
        .find(|flag| given.value_source(flag.get_id().as_str()) == Some(ValueSource::CommandLine));
    match given.and_then(|flag| flag.get_long()) {
        None => Ok(()),
        Some(flag) => {
            let message = format!("--{flag} is for the {service} service, not for `{service} {word}`");
            Err(command().error(ErrorKind::ArgumentConflict, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<Command, clap::Error> {
        read(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn volume_is_a_service_or_a_command() {
        let service = read_line("kilonova volume --host node7@file --etcd-endpoints http://a:1,http://b:1");
        let Ok(Command::Serve(ServiceKind::Volume, flags)) = service else { panic!("not the service") };
        assert_eq!(flags.host.as_deref(), Some("node7@file"));
        assert_eq!(flags.shared.etcd_endpoints.unwrap().len(), 2);
        assert!(matches!(read_line("kilonova volume"), Ok(Command::Serve(ServiceKind::Volume, _))));

        let Ok(Command::Operate(command, _)) = read_line("kilonova volume list") else {
            panic!("not the command")
        };
        assert!(matches!(*command, cli::Command::Volume(_)));
        let error = read_line("kilonova volume --host x list").err().expect("refused").to_string();
        assert!(error.contains("--host is for the volume service, not for `volume list`"), "{error}");
    }

    #[test]
    fn scheduler_is_a_service_or_a_command() {
        let service = read_line("kilonova scheduler --host s1");
        let Ok(Command::Serve(ServiceKind::Scheduler, flags)) = service else { panic!("not the service") };
        assert_eq!(flags.host.as_deref(), Some("s1"));
        let Ok(Command::Operate(command, _)) = read_line("kilonova scheduler dry-run --flavor f --host h")
        else {
            panic!("not the command")
        };
        assert!(matches!(*command, cli::Command::Scheduler(_)));
        let error =
            read_line("kilonova scheduler --host x dry-run --flavor f").err().expect("refused").to_string();
        assert!(error.contains("--host is for the scheduler service"), "{error}");
    }

    #[test]
    fn options_of_commands_may_stand_anywhere() {
        for line in ["kilonova --endpoint h:1 instance list", "kilonova instance list --endpoint h:1"] {
            let Ok(Command::Operate(_, options)) = read_line(line) else { panic!("{line}") };
            assert_eq!(options.endpoint, "h:1");
        }
    }
}
