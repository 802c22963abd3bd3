//! `kilonova instance create`.

use std::collections::BTreeMap;

use clap::Args;
use kilonova_proto::api::v1::CreateInstanceRequest;
use kilonova_proto::types::v1::{InstanceSpec, SchedulerHints, ServiceKind};

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::host::known;
use crate::cli::numbers::within;
use crate::cli::options::{GlobalOptions, Mutation, key_value};
use crate::cli::output::Output;
use crate::cli::server_group;
use crate::cli::wait::{Goal, wait};

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
    /// The availability zone to run in; any when not given.
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// A note to keep with it; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    metadata: Vec<(String, String)>,
    /// Only this host; it still has to pass the filters.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Not this host; may be repeated.
    #[arg(long, value_name = "HOST")]
    exclude_host: Vec<String>,
    /// Not where this instance is; may be repeated.
    #[arg(long, value_name = "ID|NAME")]
    different_host: Vec<String>,
    /// Only where this instance is; at most one.
    #[arg(long, value_name = "ID|NAME")]
    same_host: Option<String>,
    /// Join this server group.
    #[arg(long, value_name = "ID|NAME")]
    group: Option<String>,
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
    let create = create.resolved(&client, options).await?;
    let validate_only = create.validate_only;
    let request = request(create, options.project());
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

impl Create {
    /// With ids where names were given; a host nobody knows is refused here and not by the build.
    async fn resolved(mut self, client: &Client, options: &GlobalOptions) -> Result<Self, Failure> {
        if let Some(host) = &self.host {
            known(client, ServiceKind::Compute, host).await?;
        }
        for instance in self.different_host.iter_mut().chain(&mut self.same_host) {
            *instance = super::resolve(client, options, instance).await?;
        }
        if let Some(group) = &mut self.group {
            *group = server_group::resolve(client, options, group).await?;
        }
        Ok(self)
    }
}

fn request(create: Create, project_id: String) -> CreateInstanceRequest {
    let hints = SchedulerHints {
        force_host: create.host.unwrap_or_default(),
        exclude_hosts: create.exclude_host,
        different_host: create.different_host,
        same_host: Vec::from_iter(create.same_host),
        server_group_id: create.group.unwrap_or_default(),
        ..Default::default()
    };
    CreateInstanceRequest {
        request_id: create.mutation.id(),
        project_id,
        instance: Some(InstanceSpec {
            name: create.name,
            flavor_id: create.flavor,
            image_id: create.image,
            availability_zone: create.zone.unwrap_or_default(),
            metadata: BTreeMap::from_iter(create.metadata),
            hints: (hints != SchedulerHints::default()).then_some(hints),
        }),
        count: create.count,
        validate_only: create.validate_only,
    }
}
