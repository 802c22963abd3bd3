//! `kilonova instance create`.

use std::collections::BTreeMap;

use clap::Args;
use kilonova_proto::api::v1::CreateInstanceRequest;
use kilonova_proto::types::v1::{InstanceSpec, SchedulerHints, ServiceKind};

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::numbers::within;
use crate::cli::options::{GlobalOptions, Mutation, key_value};
use crate::cli::output::Output;
use crate::cli::wait::{Goal, wait};
use crate::cli::wishes::{Company, Whereabouts};

/// What to create.
#[derive(Debug, Clone, Args)]
pub struct Create {
    /// The name; with --count, `-1`, `-2`, ... is appended.
    name: String,
    /// The flavor's id.
    #[arg(long, value_name = "ID")]
    flavor: String,
    /// The image's id.
    #[arg(long, value_name = "ID")]
    image: String,
    /// How many, 1 to 100.
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true, value_parser = within(1_u32..=100))]
    count: u32,
    #[command(flatten)]
    whereabouts: Whereabouts,
    #[command(flatten)]
    company: Company,
    /// A note to keep with it; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only check; create nothing.
    #[arg(long, conflicts_with = "wait")]
    validate_only: bool,
    /// Wait until it runs or has failed.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    mutation: Mutation,
}

pub(super) async fn run(create: Create, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let waits = create.wait;
    let client = Client::connect(options, Some(options.limit(waits))).await?;
    let mut hints = create.whereabouts.hints(&client, ServiceKind::Compute).await?;
    create.company.add_to(&mut hints, &client, options).await?;
    let validate_only = create.validate_only;
    let request = request(create, options.project(), hints);
    let request_id = request.request_id.clone();
    let call = async |request| client.instances().create_instance(request).await;
    let created = client.call(request, Some(&request_id), call).await?.instances;
    if !waits {
        return output.created(&created, validate_only);
    }
    let ended = wait(&client, Goal::Ready, created).await;
    output.list(&ended.resources)?;
    ended.verdict
}

fn request(create: Create, project_id: String, hints: SchedulerHints) -> CreateInstanceRequest {
    CreateInstanceRequest {
        request_id: create.mutation.id(),
        project_id,
        instance: Some(InstanceSpec {
            name: create.name,
            flavor_id: create.flavor,
            image_id: create.image,
            availability_zone: create.whereabouts.zone.unwrap_or_default(),
            metadata: BTreeMap::from_iter(create.metadata),
            hints: (hints != SchedulerHints::default()).then_some(hints),
        }),
        count: create.count,
        validate_only: create.validate_only,
    }
}
