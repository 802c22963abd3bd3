//! `kilonova instance explain`: why an instance is where it is, or why there is no place for it.

use std::time::SystemTime;

use kilonova_model::Reason;
use kilonova_proto::api::v1::{GetInstancePlacementRequest, GetInstanceRequest};
use kilonova_proto::types::v1::{Instance, PlacementDecision};
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
    instance: Json<'a, Instance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    placement: Option<Json<'a, PlacementDecision>>,
}

pub(super) async fn run(text: &str, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let id = super::resolve(&client, options, text).await?;
    let request = GetInstancePlacementRequest { instance_id: id.clone(), project_id: options.project() };
    let call = async |request| client.placements().get_instance_placement(request).await;
    let placement = client.call(request, None, call).await?.placement;
    let request = GetInstanceRequest { instance_id: id, project_id: options.project() };
    let found =
        client.call(request, None, async |request| client.instances().get_instance(request).await).await?;
    let Some(instance) = found.instance else {
        return Err(not_found(Reason::InstanceNotFound, format!("no instance `{text}`")));
    };
    if output.is_json() {
        return output
            .json(&Explained { instance: Json(&instance), placement: placement.as_ref().map(Json) });
    }
    output.text(&describe(&instance, placement.as_ref(), SystemTime::now(), output.style()))
}

fn describe(
    instance: &Instance,
    placement: Option<&PlacementDecision>,
    now: SystemTime,
    style: Style,
) -> String {
    let name = instance.spec.as_ref().map_or("", |spec| &spec.name);
    let name = if name.is_empty() { &instance.id } else { name };
    let mut head = format!("{name} is {}", label(instance.state().as_str_name(), "STATE_"));
    if !instance.host.is_empty() {
        head.push_str(&format!(" on {}", instance.host));
    }
    let wrong = (instance.fault.as_ref(), instance.failed_attempts.as_slice());
    format!("{}\n{}", safe(&head), why(&instance.host, placement, wrong, now, style))
}
