//! `kilonova volume create`.

use std::collections::BTreeMap;

use clap::Args;
use kilonova_proto::api::v1::CreateVolumeRequest;
use kilonova_proto::types::v1::{SchedulerHints, ServiceKind, VolumeSpec};

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::host::known;
use crate::cli::numbers::whole;
use crate::cli::options::{GlobalOptions, Mutation, key_value};
use crate::cli::output::Output;
use crate::cli::wait::{Goal, wait};
use crate::cli::{instance, snapshot};

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The name.
    #[arg(default_value = "")]
    name: String,
    /// Make it of this snapshot: its id, or its name if no other has it.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "image")]
    snapshot: Option<String>,
    /// Make it of this image.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The size in GiB.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, value_parser = whole::<u32>)]
    size: u32,
    /// The availability zone to be in; any when not given.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// A demand on the backend; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    extra_spec: Vec<(String, String)>,
    /// A note to keep with it; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only this backend; it still has to pass the filters.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Not this backend; may be repeated.
    #[arg(long, value_name = "HOST")]
    exclude_host: Vec<String>,
    /// Not on the backend of this volume; may be repeated.
    #[arg(long, value_name = "ID|NAME")]
    different_host: Vec<String>,
    /// Only on the backend of this volume; may be repeated, then on one of theirs.
    #[arg(long, value_name = "ID|NAME")]
    same_host: Vec<String>,
    /// Only on a backend of the compute host of this instance.
    #[arg(long, value_name = "ID|NAME")]
    local_to_instance: Option<String>,
    /// Only check; create nothing.
    #[arg(long, conflicts_with = "wait")]
    validate_only: bool,
    /// Wait until it is available or has failed.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    mutation: Mutation,
}

pub(super) async fn run(create: Create, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let waits = create.wait;
    let client = Client::connect(options, Some(options.limit(waits))).await?;
    let create = create.resolved(&client, options).await?;
    let validate_only = create.validate_only;
    let snapshot_id = match &create.snapshot {
        Some(text) => snapshot::resolve(&client, options, text).await?,
        None => String::new(),
    };
    let request = request(create, options.project(), snapshot_id);
    let request_id = request.request_id.clone();
    let call = async |request| client.volumes().create_volume(request).await;
    let created = Vec::from_iter(client.call(request, Some(&request_id), call).await?.volume);
    if !waits {
        return output.created(&created, validate_only);
    }
    let ended = wait(&client, Goal::Ready, created).await;
    output.list(&ended.resources)?;
    ended.verdict
}

impl Create {
    /// With ids where names were given; a backend nobody knows is refused here and not by the build.
    async fn resolved(mut self, client: &Client, options: &GlobalOptions) -> Result<Self, Failure> {
        if let Some(host) = &self.host {
            known(client, ServiceKind::Volume, host).await?;
        }
        for volume in self.different_host.iter_mut().chain(&mut self.same_host) {
            *volume = super::resolve(client, options, volume).await?;
        }
        if let Some(instance) = &mut self.local_to_instance {
            *instance = instance::resolve(client, options, instance).await?;
        }
        Ok(self)
    }
}

fn request(create: Create, project_id: String, snapshot_id: String) -> CreateVolumeRequest {
    let hints = SchedulerHints {
        force_host: create.host.unwrap_or_default(),
        exclude_hosts: create.exclude_host,
        different_host: create.different_host,
        same_host: create.same_host,
        local_to_instance: create.local_to_instance.unwrap_or_default(),
        ..Default::default()
    };
    CreateVolumeRequest {
        request_id: create.mutation.id(),
        project_id,
        volume: Some(VolumeSpec {
            name: create.name,
            size_gib: create.size,
            availability_zone: create.zone.unwrap_or_default(),
            extra_specs: BTreeMap::from_iter(create.extra_spec),
            metadata: BTreeMap::from_iter(create.metadata),
            hints: (hints != SchedulerHints::default()).then_some(hints),
            snapshot_id,
            image_id: create.image.unwrap_or_default(),
        }),
        validate_only: create.validate_only,
    }
}
