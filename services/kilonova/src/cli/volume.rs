//! `kilonova volume …`.

mod create;
mod explain;
mod extend;
mod resource;
mod show;

use clap::{Args, Subcommand};
use kilonova_model::{Reason, VolumeId};
use kilonova_proto::api::v1::{DeleteVolumeRequest, GetVolumeRequest, ListVolumesRequest};
use kilonova_proto::types::v1::Volume;
use kilonova_proto::types::v1::volume::State;

use super::client::{Client, PAGE, every_page};
use super::failure::Failure;
use super::options::{GlobalOptions, Removal, new_request_id, state_numbers};
use super::output::Output;
use super::resolve::{self, unique};
use super::wait::{Goal, wait};

/// What can be done with volumes.
#[derive(Debug, Clone, Subcommand)]
pub enum VolumeCommand {
    /// Ask for a volume.
    Create(Box<create::Create>),
    /// List volumes, oldest first.
    List(List),
    /// Show one volume: where it stands, and what was done step by step.
    Show {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        volume: String,
    },
    /// Say why a volume is where it is, or why there is no place for it.
    Explain {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        volume: String,
    },
    /// Make a volume larger.
    Extend(extend::Extend),
    /// Delete volumes, at any moment, also while they are made.
    Delete(Removal),
}

/// Which volumes to list.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only in these states: creating, available, in-use, deleting, error, deleted, ... Any but deleted when not
    /// given.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    states: Vec<String>,
    /// Only on this backend.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

pub(super) async fn run(command: VolumeCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    match command {
        VolumeCommand::Create(create) => create::run(*create, options, output).await,
        VolumeCommand::List(list) => run_list(list, options, output).await,
        VolumeCommand::Show { volume } => show::run(&volume, options, output).await,
        VolumeCommand::Explain { volume } => explain::run(&volume, options, output).await,
        VolumeCommand::Extend(extend) => extend::run(extend, options, output).await,
        VolumeCommand::Delete(removal) => delete(removal, options, output).await,
    }
}

async fn run_list(list: List, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let states = state_numbers(&list.states, "STATE_", |name| State::from_str_name(name).map(i32::from))?;
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let filter = ListVolumesRequest {
        page_size: PAGE,
        project_id: options.project(),
        states,
        host: list.host.unwrap_or_default(),
        ..Default::default()
    };
    output.list(&every(&client, filter).await?)
}

async fn every(client: &Client, filter: ListVolumesRequest) -> Result<Vec<Volume>, Failure> {
    every_page(async |page_token| {
        let request = ListVolumesRequest { page_token, ..filter.clone() };
        let page =
            client.call(request, None, async |request| client.volumes().list_volumes(request).await).await?;
        Ok((page.volumes, page.next_page_token))
    })
    .await
}

/// The id behind an id or a name.
pub(super) async fn resolve(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    if VolumeId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let filter = ListVolumesRequest { page_size: PAGE, project_id: options.project(), ..Default::default() };
    let all = every(client, filter).await?;
    let named = all.iter().map(|one| (one.id.as_str(), one.spec.as_ref().map_or("", |spec| &spec.name)));
    unique("volume", Reason::VolumeNotFound, text, named)
}

/// The same, of one that is there.
async fn existing(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    let id = resolve(client, options, text).await?;
    let request = GetVolumeRequest { volume_id: id.clone(), project_id: options.project() };
    client.call(request, None, async |request| client.volumes().get_volume(request).await).await?;
    Ok(id)
}

async fn delete(removal: Removal, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(removal.wait))).await?;
    let find = async |text: &str| existing(&client, options, text).await;
    let ids = resolve::all(&removal.targets, removal.allow_missing, find).await?;
    let mut deleted = Vec::new();
    for volume_id in ids {
        let request = DeleteVolumeRequest {
            request_id: new_request_id(),
            project_id: options.project(),
            volume_id,
            allow_missing: removal.allow_missing,
            ..Default::default()
        };
        let call = async |request| client.volumes().delete_volume(request).await;
        deleted.extend(client.call(request, None, call).await?.volume);
    }
    if removal.wait {
        let ended = wait(&client, Goal::Gone, deleted).await;
        output.deleted(&ended.resources)?;
        return ended.verdict;
    }
    output.deleted(&deleted)
}
