//! `kilonova volume explain`: why a volume is where it is, or why there is no place for it.

use std::time::SystemTime;

use kilonova_model::Reason;
use kilonova_proto::api::v1::{GetVolumePlacementRequest, GetVolumeRequest};
use kilonova_proto::types::v1::{PlacementDecision, Volume};
use serde::Serialize;

use crate::cli::client::Client;
use crate::cli::explain::why;
use crate::cli::failure::{Failure, not_found};
use crate::cli::format::{label, safe};
use crate::cli::json::Json;
use crate::cli::options::GlobalOptions;
use crate::cli::output::{Output, Style};

/// What `-o json` prints.
#[derive(Serialize)]
struct Explained<'a> {
    volume: Json<'a, Volume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<Json<'a, PlacementDecision>>,
}

pub(super) async fn run(text: &str, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let id = super::resolve(&client, options, text).await?;
    let request = GetVolumePlacementRequest { volume_id: id.clone(), project_id: options.project() };
    let call = async |request| client.placements().get_volume_placement(request).await;
    let placement = client.call(request, None, call).await?.placement;
    let request = GetVolumeRequest { volume_id: id, project_id: options.project() };
    let found =
        client.call(request, None, async |request| client.volumes().get_volume(request).await).await?;
    let Some(volume) = found.volume else {
        return Err(not_found(Reason::VolumeNotFound, format!("no volume `{text}`")));
    };
    if output.is_json() {
        return output.json(&Explained { volume: Json(&volume), placement: placement.as_ref().map(Json) });
    }
    output.text(&describe(&volume, placement.as_ref(), SystemTime::now(), output.style()))
}

fn describe(volume: &Volume, placement: Option<&PlacementDecision>, now: SystemTime, style: Style) -> String {
    let name = volume.spec.as_ref().map_or("", |spec| &spec.name);
    let name = if name.is_empty() { &volume.id } else { name };
    let mut head = format!("{name} is {}", label(volume.state().as_str_name(), "STATE_"));
    if !volume.host.is_empty() {
        head.push_str(&format!(" on {}", volume.host));
    }
    let wrong = (volume.fault.as_ref(), volume.failed_attempts.as_slice());
    format!("{}\n{}", safe(&head), why(&volume.host, placement, wrong, now, style))
}
