//! `kilonova instance show`: the instance, its faults, and its history as timelines.

use std::time::SystemTime;

use kilonova_proto::api::v1::{GetInstanceRequest, ListInstanceActionsRequest};
use kilonova_proto::types::v1::{Action, Attachment, Instance, attachment, host};
use serde::Serialize;

use crate::cli::client::Client;
use crate::cli::explain::faults;
use crate::cli::failure::{Failure, not_found};
use crate::cli::format::{NONE, label, moment, or_dash, pairs};
use crate::cli::json::Json;
use crate::cli::options::GlobalOptions;
use crate::cli::output::{Output, Style, details};
use crate::cli::timeline::draw;

/// What `-o json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    instance: Json<'a, Instance>,
    actions: Vec<Json<'a, Action>>,
}

pub(super) async fn run(text: &str, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let id = super::resolve(&client, options, text).await?;
    let request = GetInstanceRequest { instance_id: id.clone(), project_id: options.project() };
    let found =
        client.call(request, None, async |request| client.instances().get_instance(request).await).await?;
    let Some(instance) = found.instance else {
        return Err(not_found(kilonova_model::Reason::InstanceNotFound, format!("no instance `{text}`")));
    };
    let request = ListInstanceActionsRequest { instance_id: id, project_id: options.project() };
    let call = async |request| client.instances().list_instance_actions(request).await;
    let actions = client.call(request, None, call).await?.actions;
    if output.is_json() {
        let actions = actions.iter().map(Json).collect();
        return output.json(&Shown { instance: Json(&instance), actions });
    }
    output.text(&describe(&instance, &actions, SystemTime::now(), output.style()))
}

/// An instance in full, as `instance show` prints it.
#[must_use]
pub fn describe(instance: &Instance, actions: &[Action], now: SystemTime, style: Style) -> String {
    let spec = instance.spec.clone().unwrap_or_default();
    let flavor = instance.flavor.as_ref().map_or_else(
        || spec.flavor_id.clone(),
        |flavor| {
            format!(
                "{} ({} vCPU, {} MiB, {} GiB)",
                spec.flavor_id, flavor.vcpus, flavor.ram_mib, flavor.disk_gib
            )
        },
    );
    let mut host = match (instance.host.as_str(), instance.availability_zone.as_str()) {
        ("", _) => NONE.to_owned(),
        (host, "") => host.to_owned(),
        (host, zone) => format!("{host} (zone {zone})"),
    };
    if instance.host_state() == host::State::Down {
        host.push_str(", which is gone");
    }
    if !instance.previous_host.is_empty() {
        host.push_str(&format!(", before that {}", instance.previous_host));
    }
    let addresses: Vec<String> =
        instance.addresses.iter().map(|one| format!("{}={}", one.network, one.address)).collect();
    let state = |one: &Attachment| match one.state() {
        attachment::State::Attached => String::new(),
        state => format!(" ({})", label(state.as_str_name(), "STATE_")),
    };
    let volumes: Vec<String> = instance
        .attachments
        .iter()
        .map(|one| format!("{}={}{}", one.device, one.volume_id, state(one)))
        .collect();
    let mut rows = vec![
        ("id", instance.id.clone()),
        ("name", spec.name),
        ("project", or_dash(&instance.project_id)),
        ("state", label(instance.state().as_str_name(), "STATE_")),
        ("task", label(instance.task().as_str_name(), "TASK_")),
        ("power", label(instance.power_state().as_str_name(), "POWER_STATE_")),
        ("wanted", label(instance.desired().as_str_name(), "DESIRED_")),
        ("host", host),
        ("flavor", flavor),
        ("image", or_dash(&spec.image_id)),
        ("group", or_dash(&spec.hints.unwrap_or_default().server_group_id)),
        ("addresses", or_dash(&addresses.join(", "))),
        ("volumes", or_dash(&volumes.join(", "))),
        ("metadata", pairs(&spec.metadata)),
        ("attempt", instance.attempt.to_string()),
        ("created", moment(instance.create_time.as_ref(), now)),
        ("launched", moment(instance.launch_time.as_ref(), now)),
        ("updated", moment(instance.update_time.as_ref(), now)),
        ("etag", or_dash(&instance.etag)),
    ];
    if instance.delete_time.is_some() {
        rows.push(("deleted", moment(instance.delete_time.as_ref(), now)));
    }
    let mut text = details(rows, style);
    text.push_str(&faults(instance.fault.as_ref(), &instance.failed_attempts, now, style));
    for action in actions {
        text.push('\n');
        text.push_str(&draw(action, now, style));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::instance::State;
    use kilonova_proto::types::v1::{Fault, Flavor, InstanceSpec};

    #[test]
    fn an_instance_in_error_shows_its_fault_and_its_history() {
        let instance = Instance {
            id: "i-1".into(),
            spec: Some(InstanceSpec {
                name: "web".into(),
                flavor_id: "m1.small".into(),
                ..Default::default()
            }),
            flavor: Some(Flavor { vcpus: 1, ram_mib: 512, disk_gib: 1, ..Default::default() }),
            state: State::Error.into(),
            fault: Some(Fault {
                reason: "NO_VALID_HOST".into(),
                message: "none".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = describe(&instance, &[Action::default()], SystemTime::UNIX_EPOCH, Style::PLAIN);
        for line in [
            "state       ERROR",
            "flavor      m1.small (1 vCPU, 512 MiB, 1 GiB)",
            "host        -",
            "fault: NO_VALID_HOST: none",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
        assert!(text.contains("STEP"), "{text}");
    }
}
