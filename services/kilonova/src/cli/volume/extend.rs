//! `kilonova volume extend`.

use clap::Args;
use kilonova_proto::api::v1::{ExtendVolumeRequest, ListVolumeActionsRequest};
use kilonova_proto::types::v1::Volume;

use crate::cli::client::Client;
use crate::cli::explain::not_done;
use crate::cli::failure::Failure;
use crate::cli::options::{GlobalOptions, new_request_id};
use crate::cli::output::Output;
use crate::cli::wait::{Goal, Waited, wait};

/// Which volume, and how large it is to be.
#[derive(Debug, Clone, Args)]
pub struct Extend {
    /// Its id, or its name if no other has it.
    #[arg(value_name = "ID|NAME")]
    volume: String,
    /// The new size in GiB, more than it has.
    #[arg(long, value_name = "GIB")]
    size: u32,
    /// Wait until it is done, and fail if it was not.
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(extend: Extend, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(extend.wait))).await?;
    let request = ExtendVolumeRequest {
        request_id: new_request_id(),
        project_id: options.project(),
        volume_id: super::existing(&client, options, &extend.volume).await?,
        etag: String::new(),
        size_gib: extend.size,
    };
    let call = async |request| client.volumes().extend_volume(request).await;
    let accepted: Vec<Volume> = client.call(request, None, call).await?.volume.into_iter().collect();
    if !extend.wait {
        return output.list(&accepted);
    }
    let ended = wait(&client, Goal::Ready, accepted).await;
    output.list(&ended.resources)?;
    ended.verdict?;
    for volume in &ended.resources {
        let request =
            ListVolumeActionsRequest { volume_id: volume.id.clone(), project_id: options.project() };
        let call = async |request| client.volumes().list_volume_actions(request).await;
        let actions = client.call(request, None, call).await?.actions;
        if let Some(why) = actions.last().and_then(not_done) {
            return Err(Failure::Ended(format!("{}: {why}", volume.title())));
        }
    }
    Ok(())
}
