//! `kilonova instance …`.

mod create;
mod explain;
mod power;
mod resource;
mod show;
mod volumes;
mod watch;

use clap::{Args, Subcommand};
use kilonova_model::{InstanceId, Reason};
use kilonova_proto::api::v1::{DeleteInstanceRequest, GetInstanceRequest, ListInstancesRequest};
use kilonova_proto::types::v1::Instance;
use kilonova_proto::types::v1::instance::State;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::options::{GlobalOptions, Removal, new_request_id, state_numbers};
use super::output::Output;
use super::resolve::{self, unique};
use super::wait::{Goal, wait};
use power::Act;

/// What can be done with instances.
#[derive(Debug, Clone, Subcommand)]
pub enum InstanceCommand {
    /// Ask for one or more instances.
    Create(Box<create::Create>),
    /// List instances, oldest first.
    List(List),
    /// Show one instance: where it stands, and what was done step by step.
    Show {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        instance: String,
    },
    /// Say why an instance is where it is, or why there is no place for it.
    Explain {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        instance: String,
    },
    /// Start instances that are stopped.
    Start(power::Targets),
    /// Shut instances down; they keep their place.
    Stop(power::Targets),
    /// Restart instances.
    Reboot {
        #[command(flatten)]
        targets: power::Targets,
        /// Without asking the guest; one that is stopped is started.
        #[arg(long)]
        hard: bool,
        /// With --hard: a host that was found to have a copy of them, which surely does not run there, and is removed; may be repeated.
        #[arg(long, value_name = "HOST", requires = "hard")]
        vouch: Vec<String>,
    },
    /// Make instances anew from an image, where they are.
    Rebuild {
        #[command(flatten)]
        targets: power::Targets,
        /// The image; the one each has when not given.
        #[arg(long, value_name = "IMAGE")]
        image: Option<String>,
    },
    /// Give instances another flavor, on another host. Then confirm or revert it.
    Resize {
        #[command(flatten)]
        targets: power::Targets,
        /// The new flavor.
        #[arg(long, value_name = "FLAVOR")]
        flavor: String,
    },
    /// Move instances to another host. Then confirm or revert it, unless --live.
    Migrate {
        #[command(flatten)]
        targets: power::Targets,
        /// Move them while they run.
        #[arg(long)]
        live: bool,
        /// The only host they may go to.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
    },
    /// Keep what a resize or a migration made.
    Confirm(power::Targets),
    /// Go back to what was before a resize or a migration.
    Revert(power::Targets),
    /// Build instances again elsewhere, because their host is gone. Make sure first that it is off.
    Evacuate {
        #[command(flatten)]
        targets: power::Targets,
        /// The only host they may go to.
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// A host that may hold a copy of them and surely does not run it; may be repeated.
        #[arg(long, value_name = "HOST")]
        vouch: Vec<String>,
    },
    /// Give an instance a volume.
    Attach(volumes::Pair),
    /// Take a volume from an instance.
    Detach(volumes::Pair),
    /// Delete instances, at any moment, also while they are built.
    Delete(Removal),
    /// Print every change until interrupted, or until --timeout.
    Watch(watch::Watch),
}

/// Which instances to list.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only in these states: building, active, stopped, resized, error, deleted. Any but deleted when not given.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    states: Vec<String>,
    /// Only on this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

pub(super) async fn run(command: InstanceCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    match command {
        InstanceCommand::Create(create) => create::run(*create, options, output).await,
        InstanceCommand::List(list) => run_list(list, options, output).await,
        InstanceCommand::Show { instance } => show::run(&instance, options, output).await,
        InstanceCommand::Explain { instance } => explain::run(&instance, options, output).await,
        InstanceCommand::Start(targets) => power::run(targets, Act::Start, options, output).await,
        InstanceCommand::Stop(targets) => power::run(targets, Act::Stop, options, output).await,
        InstanceCommand::Reboot { targets, hard, vouch } => {
            power::run(targets, Act::Reboot { hard, vouch }, options, output).await
        }
        InstanceCommand::Rebuild { targets, image } => {
            power::run(targets, Act::Rebuild { image: image.unwrap_or_default() }, options, output).await
        }
        InstanceCommand::Resize { targets, flavor } => {
            power::run(targets, Act::Resize { flavor }, options, output).await
        }
        InstanceCommand::Migrate { targets, live, host } => {
            power::run(targets, Act::Migrate { live, host: host.unwrap_or_default() }, options, output).await
        }
        InstanceCommand::Confirm(targets) => power::run(targets, Act::Confirm, options, output).await,
        InstanceCommand::Revert(targets) => power::run(targets, Act::Revert, options, output).await,
        InstanceCommand::Evacuate { targets, host, vouch } => {
            let act = Act::Evacuate { host: host.unwrap_or_default(), vouch };
            power::run(targets, act, options, output).await
        }
        InstanceCommand::Attach(pair) => volumes::run(pair, true, options, output).await,
        InstanceCommand::Detach(pair) => volumes::run(pair, false, options, output).await,
        InstanceCommand::Delete(removal) => delete(removal, options, output).await,
        InstanceCommand::Watch(watch) => watch::run(watch, options, output).await,
    }
}

async fn run_list(list: List, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let states = parse_states(&list.states)?;
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let filter = ListInstancesRequest {
        page_size: PAGE,
        project_id: options.project(),
        states,
        host: list.host.unwrap_or_default(),
        ..Default::default()
    };
    output.list(&every(&client, filter).await?)
}

fn parse_states(names: &[String]) -> Result<Vec<i32>, Failure> {
    state_numbers(names, "STATE_", |name| State::from_str_name(name).map(i32::from))
}

async fn every(client: &Client, filter: ListInstancesRequest) -> Result<Vec<Instance>, Failure> {
    every_page(async |page_token| {
        let request = ListInstancesRequest { page_token, ..filter.clone() };
        let page = client
            .call(request, None, async |request| client.instances().list_instances(request).await)
            .await?;
        Ok((page.instances, page.next_page_token))
    })
    .await
}

/// The id behind an id or a name.
pub(super) async fn resolve(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    if InstanceId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let filter =
        ListInstancesRequest { page_size: PAGE, project_id: options.project(), ..Default::default() };
    let all = every(client, filter).await?;
    let named = all.iter().map(|one| (one.id.as_str(), one.spec.as_ref().map_or("", |spec| &spec.name)));
    unique("instance", Reason::InstanceNotFound, text, named)
}

/// The same, of one that is there.
async fn existing(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    let id = resolve(client, options, text).await?;
    let request = GetInstanceRequest { instance_id: id.clone(), project_id: options.project() };
    client.call(request, None, async |request| client.instances().get_instance(request).await).await?;
    Ok(id)
}

async fn delete(removal: Removal, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(removal.wait))).await?;
    let find = async |text: &str| existing(&client, options, text).await;
    let ids = resolve::all(&removal.targets, removal.allow_missing, find).await?;
    let mut deleted = Vec::new();
    for instance_id in ids {
        let request = DeleteInstanceRequest {
            request_id: new_request_id(),
            project_id: options.project(),
            instance_id,
            allow_missing: removal.allow_missing,
            ..Default::default()
        };
        let call = async |request| client.instances().delete_instance(request).await;
        deleted.extend(client.call(request, None, call).await?.instance);
    }
    if removal.wait {
        let ended = wait(&client, Goal::Gone, deleted).await;
        output.deleted(&ended.resources)?;
        return ended.verdict;
    }
    output.deleted(&deleted)
}
