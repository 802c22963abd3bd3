//! `kilonova instance attach|detach`.

use clap::Args;
use kilonova_proto::api::v1::{AttachVolumeRequest, DetachVolumeRequest};
use kilonova_proto::types::v1::Instance;

use super::power::failure;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::options::{GlobalOptions, new_request_id};
use crate::cli::output::Output;
use crate::cli::volume;
use crate::cli::wait::{Goal, wait};

/// An instance and a volume.
#[derive(Debug, Clone, Args)]
pub struct Pair {
    /// The instance: its id, or its name if no other has it.
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// The volume: its id, or its name if no other has it.
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Wait until it is done, and fail if it was not.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(
    pair: Pair,
    attach: bool,
    options: &GlobalOptions,
    output: Output,
) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(pair.wait))).await?;
    let instance_id = super::existing(&client, options, &pair.instance).await?;
    let volume_id = volume::resolve(&client, options, &pair.volume).await?;
    let accepted: Vec<Instance> =
        ask(&client, options, attach, instance_id, volume_id).await?.into_iter().collect();
    if !pair.wait {
        return output.list(&accepted);
    }
    let ended = wait(&client, Goal::Ready, accepted).await;
    output.list(&ended.resources)?;
    ended.verdict?;
    for instance in &ended.resources {
        if let Some(why) = failure(&client, options, instance).await? {
            return Err(Failure::Ended(why));
        }
    }
    Ok(())
}

async fn ask(
    client: &Client,
    options: &GlobalOptions,
    attach: bool,
    instance_id: String,
    volume_id: String,
) -> Result<Option<Instance>, Failure> {
    let (request_id, project_id, etag) = (new_request_id(), options.project(), String::new());
    if attach {
        let request = AttachVolumeRequest { request_id, project_id, instance_id, etag, volume_id };
        let call = async |request| client.instances().attach_volume(request).await;
        Ok(client.call(request, None, call).await?.instance)
    } else {
        let request = DetachVolumeRequest { request_id, project_id, instance_id, etag, volume_id };
        let call = async |request| client.instances().detach_volume(request).await;
        Ok(client.call(request, None, call).await?.instance)
    }
}
