//! `kilonova snapshot …`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use kilonova_model::{Reason, SnapshotId};
use kilonova_proto::api::v1::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest,
};
use kilonova_proto::types::v1::Snapshot;
use kilonova_proto::types::v1::snapshot::State;
use tokio::time::Instant;

use super::client::{Client, PAGE, every_page};
use super::explain::{fault_line, faults};
use super::failure::Failure;
use super::format::{age, label, moment, or_dash};
use super::options::{GlobalOptions, Mutation, Removal, new_request_id};
use super::output::{Output, Row, Style, details};
use super::{resolve, volume};

/// How often a snapshot that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What can be done with snapshots.
#[derive(Debug, Clone, Subcommand)]
pub enum SnapshotCommand {
    /// Keep a volume's contents as they are now.
    Create(Create),
    /// List snapshots, oldest first.
    List {
        /// Only of this volume.
        #[arg(long, value_name = "ID|NAME")]
        volume: Option<String>,
    },
    /// Show one snapshot.
    Show {
        /// Its id, or its name if no other has it.
        #[arg(value_name = "ID|NAME")]
        snapshot: String,
    },
    /// Delete snapshots.
    Delete(Removal),
}

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The volume: its id, or its name if no other has it.
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// The snapshot's name.
    #[arg(default_value = "")]
    name: String,
    /// Only check; create nothing.
    #[arg(long, conflicts_with = "wait")]
    validate_only: bool,
    /// Wait until it is available or has failed.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    mutation: Mutation,
}

impl Row for Snapshot {
    const ONE: &'static str = "snapshot";
    const MANY: &'static str = "snapshots";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "STATE", "VOLUME", "GIB", "HOST", "PROJECT", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        vec![
            or_dash(&self.id),
            self.name.clone(),
            label(self.state().as_str_name(), "STATE_"),
            or_dash(&self.volume_id),
            self.size_gib.to_string(),
            or_dash(&self.host),
            or_dash(&self.project_id),
            age(self.create_time.as_ref(), now),
        ]
    }
}

pub(super) async fn run(command: SnapshotCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    match command {
        SnapshotCommand::Create(create) => run_create(create, options, output).await,
        SnapshotCommand::List { volume } => {
            let client = Client::connect(options, Some(options.request_limit())).await?;
            let volume_id = match volume {
                Some(text) => volume::resolve(&client, options, &text).await?,
                None => String::new(),
            };
            output.list(&every(&client, options, volume_id).await?)
        }
        SnapshotCommand::Show { snapshot } => {
            let client = Client::connect(options, Some(options.request_limit())).await?;
            let id = resolve(&client, options, &snapshot).await?;
            let snapshot = get(&client, options, id).await?;
            output.one(&snapshot, || describe(&snapshot, output.style()))
        }
        SnapshotCommand::Delete(removal) => delete(removal, options, output).await,
    }
}

async fn run_create(create: Create, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(create.wait))).await?;
    let request = CreateSnapshotRequest {
        request_id: create.mutation.id(),
        project_id: options.project(),
        volume_id: volume::resolve(&client, options, &create.volume).await?,
        name: create.name,
        validate_only: create.validate_only,
    };
    let request_id = request.request_id.clone();
    let call = async |request| client.snapshots().create_snapshot(request).await;
    let created = Vec::from_iter(client.call(request, Some(&request_id), call).await?.snapshot);
    if !create.wait {
        return output.created(&created, create.validate_only);
    }
    let ended = until(&client, options, created, |state| state != State::Creating).await?;
    output.list(&ended)?;
    match ended.iter().find(|snapshot| snapshot.state() != State::Available) {
        Some(failed) => {
            let why = failed.fault.as_ref().map_or_else(|| "it is gone".to_owned(), fault_line);
            Err(Failure::Ended(format!("{}: {why}", failed.id)))
        }
        None => Ok(()),
    }
}

async fn delete(removal: Removal, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(removal.wait))).await?;
    let find = async |text: &str| {
        let id = resolve(&client, options, text).await?;
        get(&client, options, id).await.map(|snapshot| snapshot.id)
    };
    let mut deleted = Vec::new();
    for snapshot_id in resolve::all(&removal.targets, removal.allow_missing, find).await? {
        let request = DeleteSnapshotRequest {
            request_id: new_request_id(),
            project_id: options.project(),
            snapshot_id,
            allow_missing: removal.allow_missing,
            ..Default::default()
        };
        let call = async |request| client.snapshots().delete_snapshot(request).await;
        deleted.extend(client.call(request, None, call).await?.snapshot);
    }
    if removal.wait {
        deleted = until(&client, options, deleted, |state| state == State::Deleted).await?;
    }
    output.deleted(&deleted)
}

/// The snapshots once each is as wished.
async fn until(
    client: &Client,
    options: &GlobalOptions,
    snapshots: Vec<Snapshot>,
    wished: impl Fn(State) -> bool,
) -> Result<Vec<Snapshot>, Failure> {
    let mut ended = Vec::with_capacity(snapshots.len());
    for mut snapshot in snapshots {
        while !wished(snapshot.state()) {
            if client.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
                let state = label(snapshot.state().as_str_name(), "STATE_");
                return Err(Failure::TimedOut(format!("snapshot {} is still {state}", snapshot.id)));
            }
            tokio::time::sleep(LOOK).await;
            snapshot = get(client, options, snapshot.id).await?;
        }
        ended.push(snapshot);
    }
    Ok(ended)
}

async fn every(
    client: &Client,
    options: &GlobalOptions,
    volume_id: String,
) -> Result<Vec<Snapshot>, Failure> {
    every_page(async |page_token| {
        let request = ListSnapshotsRequest {
            page_size: PAGE,
            page_token,
            project_id: options.project(),
            volume_id: volume_id.clone(),
        };
        let call = async |request| client.snapshots().list_snapshots(request).await;
        let page = client.call(request, None, call).await?;
        Ok((page.snapshots, page.next_page_token))
    })
    .await
}

async fn get(client: &Client, options: &GlobalOptions, snapshot_id: String) -> Result<Snapshot, Failure> {
    let request = GetSnapshotRequest { snapshot_id, project_id: options.project() };
    let call = async |request| client.snapshots().get_snapshot(request).await;
    Ok(client.call(request, None, call).await?.snapshot.unwrap_or_default())
}

/// The id behind an id or a name.
pub(super) async fn resolve(client: &Client, options: &GlobalOptions, text: &str) -> Result<String, Failure> {
    if SnapshotId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let all = every(client, options, String::new()).await?;
    let named = all.iter().map(|one| (one.id.as_str(), one.name.as_str()));
    resolve::unique("snapshot", Reason::SnapshotNotFound, text, named)
}

fn describe(snapshot: &Snapshot, style: Style) -> String {
    let now = SystemTime::now();
    let rows = vec![
        ("id", snapshot.id.clone()),
        ("name", snapshot.name.clone()),
        ("project", or_dash(&snapshot.project_id)),
        ("state", label(snapshot.state().as_str_name(), "STATE_")),
        ("volume", or_dash(&snapshot.volume_id)),
        ("size", format!("{} GiB", snapshot.size_gib)),
        ("host", or_dash(&snapshot.host)),
        ("created", moment(snapshot.create_time.as_ref(), now)),
    ];
    details(rows, style) + &faults(snapshot.fault.as_ref(), &[], now, style)
}
