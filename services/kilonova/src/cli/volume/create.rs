//! `kilonova volume create`.

use std::collections::BTreeMap;

use clap::Args;
use kilonova_proto::api::v1::CreateVolumeRequest;
use kilonova_proto::types::v1::{SchedulerHints, ServiceKind, VolumeSpec};

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::numbers::whole;
use crate::cli::options::{GlobalOptions, Mutation, key_value};
use crate::cli::output::Output;
use crate::cli::snapshot;
use crate::cli::wait::{Goal, wait};
use crate::cli::wishes::{VolumeCompany, Whereabouts};

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
    #[command(flatten)]
    whereabouts: Whereabouts,
    #[command(flatten)]
    company: VolumeCompany,
    /// A demand on the backend; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    extra_spec: Vec<(String, String)>,
    /// A note to keep with it; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
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
    let mut hints = create.whereabouts.hints(&client, ServiceKind::Volume).await?;
    create.company.add_to(&mut hints, &client, options).await?;
    let validate_only = create.validate_only;
    let snapshot_id = match &create.snapshot {
        Some(text) => snapshot::resolve(&client, options, text).await?,
        None => String::new(),
    };
    let request = request(create, options.project(), hints, snapshot_id);
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

fn request(
    create: Create,
    project_id: String,
    hints: SchedulerHints,
    snapshot_id: String,
) -> CreateVolumeRequest {
    CreateVolumeRequest {
        request_id: create.mutation.id(),
        project_id,
        volume: Some(VolumeSpec {
            name: create.name,
            size_gib: create.size,
            availability_zone: create.whereabouts.zone.unwrap_or_default(),
            extra_specs: BTreeMap::from_iter(create.extra_spec),
            metadata: BTreeMap::from_iter(create.metadata),
            hints: (hints != SchedulerHints::default()).then_some(hints),
            snapshot_id,
            image_id: create.image.unwrap_or_default(),
        }),
        validate_only: create.validate_only,
    }
}
