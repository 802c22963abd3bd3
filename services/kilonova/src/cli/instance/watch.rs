//! `kilonova instance watch`: a line for every change.

use std::time::SystemTime;

use clap::Args;
use kilonova_model::time::timestamp;
use kilonova_proto::types::v1::Instance;

use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::follow::{Event, Filter, Followed, Follower};
use crate::cli::format::{or_dash, rfc3339, safe};
use crate::cli::json::Json;
use crate::cli::options::GlobalOptions;
use crate::cli::output::Output;
use crate::cli::wait::{Waited, until};

/// What to watch.
#[derive(Debug, Clone, Args)]
pub struct Watch {
    /// Only these, by id or by name; all when none is given.
    #[arg(value_name = "ID|NAME")]
    instances: Vec<String>,
    /// Only on this host.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only in these states: building, active, stopped, error, deleted. Any but deleted when not given.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    states: Vec<String>,
}

pub(super) async fn run(watch: Watch, options: &GlobalOptions, output: Output) -> Result<(), Failure> {
    let states = super::parse_states(&watch.states)?;
    let limit = options.timeout.map(kilonova_runtime::config::Period::get);
    let client = Client::connect(options, limit).await?;
    let mut ids = Vec::new();
    for text in &watch.instances {
        ids.push(super::resolve(&client, options, text).await?);
    }
    let filter = Filter { project_id: options.project(), ids, host: watch.host.unwrap_or_default(), states };
    let deadline = client.deadline();
    let mut follower = Follower::<Instance>::new(client, filter);
    loop {
        let message = tokio::select! {
            message = follower.next() => message?,
            () = until(deadline) => return Ok(()),
        };
        if output.is_json() {
            let line = serde_json::to_string(&Json(&message)).expect("a message of the contracts");
            output.text(&line)?;
        } else if let Some(line) = line(Instance::event(message), SystemTime::now()) {
            output.text(&line)?;
        }
    }
}

/// What to print of an event; nothing for a heartbeat.
fn line(event: Event<Instance>, now: SystemTime) -> Option<String> {
    let time = rfc3339(&timestamp(now));
    let describe = |what: &str, instance: &Instance| {
        format!(
            "{time}  {what:<8}  {}  {:<20}  {:<12}  {}",
            instance.id,
            instance.phase(),
            or_dash(&instance.host),
            instance.title()
        )
    };
    let line = match event {
        Event::Snapshot(instance) => Some(describe("is", &instance)),
        Event::Update(instance) => Some(describe("changed", &instance)),
        Event::Gone(id) => Some(format!("{time}  {:<8}  {id}", "gone")),
        Event::SnapshotEnd => Some(format!("{time}  {:<8}", "-- changes from here --")),
        Event::Heartbeat => None,
    };
    line.map(|line| safe(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_not_shown_and_changes_are() {
        let now = SystemTime::UNIX_EPOCH;
        assert_eq!(line(Event::Heartbeat, now), None);
        let gone = line(Event::Gone("i-1".into()), now).unwrap();
        assert_eq!(gone, "1970-01-01T00:00:00.000Z  gone      i-1");
    }
}
