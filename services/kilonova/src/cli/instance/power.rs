//! `kilonova instance start|stop|reboot|rebuild|resize|migrate|confirm|revert|evacuate`.

use clap::Args;
use kilonova_proto::api::v1::{
    ConfirmResizeRequest, EvacuateInstanceRequest, ListInstanceActionsRequest, MigrateInstanceRequest,
    RebootInstanceRequest, RebuildInstanceRequest, ResizeInstanceRequest, RevertResizeRequest,
    StartInstanceRequest, StopInstanceRequest,
};
use kilonova_proto::types::v1::Instance;

use crate::cli::client::Client;
use crate::cli::explain::not_done;
use crate::cli::failure::Failure;
use crate::cli::options::{GlobalOptions, new_request_id};
use crate::cli::output::Output;
use crate::cli::resolve;
use crate::cli::wait::{Goal, Waited, wait};

/// Which instances.
#[derive(Debug, Clone, Args)]
pub struct Targets {
    /// Their ids, or their names where no other has them.
    #[arg(required = true, value_name = "ID|NAME")]
    targets: Vec<String>,
    /// Wait until it is done, and fail if it was not.
    #[arg(long)]
    wait: bool,
}

/// What to do with them.
#[derive(Debug, Clone)]
pub enum Act {
    /// Start.
    Start,
    /// Stop.
    Stop,
    /// Reboot.
    Reboot {
        /// Without asking the guest.
        hard: bool,
        /// Hosts that surely do not run it, whose copies are removed.
        vouch: Vec<String>,
    },
    /// Rebuild.
    Rebuild {
        /// From this image; from its own when empty.
        image: String,
    },
    /// Resize.
    Resize {
        /// To this flavor.
        flavor: String,
    },
    /// Migrate.
    Migrate {
        /// While it runs.
        live: bool,
        /// Only to this host; to any when empty.
        host: String,
    },
    /// Confirm a resize.
    Confirm,
    /// Revert a resize.
    Revert,
    /// Evacuate.
    Evacuate {
        /// Only to this host; to any when empty.
        host: String,
        /// Hosts that surely do not run it.
        vouch: Vec<String>,
    },
}

pub(super) async fn run(
    targets: Targets,
    act: Act,
    options: &GlobalOptions,
    output: Output,
) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.limit(targets.wait))).await?;
    let find = async |text: &str| super::existing(&client, options, text).await;
    let mut accepted = Vec::new();
    for instance_id in resolve::all(&targets.targets, false, find).await? {
        accepted.extend(ask(&client, options, instance_id, act.clone()).await?);
    }
    if !targets.wait {
        return output.list(&accepted);
    }
    let ended = wait(&client, Goal::Ready, accepted).await;
    output.list(&ended.resources)?;
    ended.verdict?;
    let mut failed = Vec::new();
    for instance in &ended.resources {
        failed.extend(failure(&client, options, instance).await?);
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Ended(failed.join("; "))) }
}

async fn ask(
    client: &Client,
    options: &GlobalOptions,
    instance_id: String,
    act: Act,
) -> Result<Option<Instance>, Failure> {
    let (request_id, project_id, etag) = (new_request_id(), options.project(), String::new());
    Ok(match act {
        Act::Start => {
            let request = StartInstanceRequest { request_id, project_id, instance_id, etag };
            let call = async |request| client.instances().start_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Stop => {
            let request = StopInstanceRequest { request_id, project_id, instance_id, etag };
            let call = async |request| client.instances().stop_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Reboot { hard, vouch: vouched_hosts } => {
            let request =
                RebootInstanceRequest { request_id, project_id, instance_id, etag, hard, vouched_hosts };
            let call = async |request| client.instances().reboot_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Rebuild { image: image_id } => {
            let request = RebuildInstanceRequest { request_id, project_id, instance_id, etag, image_id };
            let call = async |request| client.instances().rebuild_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Resize { flavor: flavor_id } => {
            let request = ResizeInstanceRequest { request_id, project_id, instance_id, etag, flavor_id };
            let call = async |request| client.instances().resize_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Migrate { live, host: target_host } => {
            let request =
                MigrateInstanceRequest { request_id, project_id, instance_id, etag, live, target_host };
            let call = async |request| client.instances().migrate_instance(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Confirm => {
            let request = ConfirmResizeRequest { request_id, project_id, instance_id, etag };
            let call = async |request| client.instances().confirm_resize(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Revert => {
            let request = RevertResizeRequest { request_id, project_id, instance_id, etag };
            let call = async |request| client.instances().revert_resize(request).await;
            client.call(request, None, call).await?.instance
        }
        Act::Evacuate { host: target_host, vouch: vouched_hosts } => {
            let request = EvacuateInstanceRequest {
                request_id,
                project_id,
                instance_id,
                etag,
                target_host,
                vouched_hosts,
            };
            let call = async |request| client.instances().evacuate_instance(request).await;
            client.call(request, None, call).await?.instance
        }
    })
}

/// Why the newest action on an instance was not done, if it was not.
pub(super) async fn failure(
    client: &Client,
    options: &GlobalOptions,
    instance: &Instance,
) -> Result<Option<String>, Failure> {
    let request =
        ListInstanceActionsRequest { instance_id: instance.id.clone(), project_id: options.project() };
    let call = async |request| client.instances().list_instance_actions(request).await;
    let actions = client.call(request, None, call).await?.actions;
    Ok(actions.last().and_then(not_done).map(|why| format!("{}: {why}", instance.title())))
}
