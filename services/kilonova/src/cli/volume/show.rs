//! `kilonova volume show`: the volume, its faults, and its history as timelines.

use std::time::SystemTime;

use kilonova_proto::api::v1::{GetVolumeRequest, ListVolumeActionsRequest};
use kilonova_proto::types::v1::{Action, Volume};
use serde::Serialize;

use crate::cli::client::Client;
use crate::cli::explain::faults;
use crate::cli::failure::{Failure, not_found};
use crate::cli::format::{label, moment, or_dash, pairs};
use crate::cli::json::Json;
use crate::cli::options::GlobalOptions;
use crate::cli::output::{Output, Style, details};
use crate::cli::timeline::draw;

/// What `-o json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    volume: Json<'a, Volume>,
    actions: Vec<Json<'a, Action>>,
}

pub(super) async fn run(text: &str, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let id = super::resolve(&client, options, text).await?;
    let request = GetVolumeRequest { volume_id: id.clone(), project_id: options.project() };
    let found =
        client.call(request, None, async |request| client.volumes().get_volume(request).await).await?;
    let Some(volume) = found.volume else {
        return Err(not_found(kilonova_model::Reason::VolumeNotFound, format!("no volume `{text}`")));
    };
    let request = ListVolumeActionsRequest { volume_id: id, project_id: options.project() };
    let call = async |request| client.volumes().list_volume_actions(request).await;
    let actions = client.call(request, None, call).await?.actions;
    if output.is_json() {
        let actions = actions.iter().map(Json).collect();
        return output.json(&Shown { volume: Json(&volume), actions });
    }
    output.text(&describe(&volume, &actions, SystemTime::now(), output.style()))
}

/// A volume in full, as `volume show` prints it.
#[must_use]
pub fn describe(volume: &Volume, actions: &[Action], now: SystemTime, style: Style) -> String {
    let spec = volume.spec.clone().unwrap_or_default();
    let attached: Vec<String> =
        volume.attachments.iter().map(|one| format!("{} as {}", one.instance_id, one.device)).collect();
    let mut rows = vec![
        ("id", volume.id.clone()),
        ("name", or_dash(&spec.name)),
        ("project", or_dash(&volume.project_id)),
        ("state", label(volume.state().as_str_name(), "STATE_")),
        ("wanted", label(volume.desired().as_str_name(), "DESIRED_")),
        ("size", format!("{} GiB", spec.size_gib)),
        ("backend", or_dash(&volume.host)),
        ("pool", or_dash(&volume.pool)),
        ("zone", or_dash(&volume.availability_zone)),
        ("attached to", or_dash(&attached.join(", "))),
        ("extra specs", pairs(&spec.extra_specs)),
        ("metadata", pairs(&spec.metadata)),
        ("attempt", volume.attempt.to_string()),
        ("created", moment(volume.create_time.as_ref(), now)),
        ("available", moment(volume.launch_time.as_ref(), now)),
        ("updated", moment(volume.update_time.as_ref(), now)),
        ("etag", or_dash(&volume.etag)),
    ];
    if volume.delete_time.is_some() {
        rows.push(("deleted", moment(volume.delete_time.as_ref(), now)));
    }
    let mut text = details(rows, style);
    text.push_str(&faults(volume.fault.as_ref(), &volume.failed_attempts, now, style));
    for action in actions {
        text.push('\n');
        text.push_str(&draw(action, now, style));
    }
    text
}
