//! Instances as rows, as something to watch, and as something to wait for.

use std::time::SystemTime;

use kilonova_model::time::duration;
use kilonova_proto::api::v1::watch_instances_response::Event as Watched;
use kilonova_proto::api::v1::{WatchInstancesRequest, WatchInstancesResponse};
use kilonova_proto::types::v1::instance::{State, Task};
use kilonova_proto::types::v1::{Attachment, Fault, Instance, attachment};
use tonic::{Status, Streaming};

use crate::cli::client::Client;
use crate::cli::follow::{Event, Filter, Followed, HEARTBEAT};
use crate::cli::format::{age, label, or_dash};
use crate::cli::output::Row;
use crate::cli::wait::{Standing, Waited};

impl Row for Instance {
    const ONE: &'static str = "instance";
    const MANY: &'static str = "instances";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "STATE", "TASK", "POWER", "HOST", "FLAVOR", "PROJECT", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            or_dash(&self.id),
            spec.name,
            label(self.state().as_str_name(), "STATE_"),
            label(self.task().as_str_name(), "TASK_"),
            label(self.power_state().as_str_name(), "POWER_STATE_"),
            or_dash(&self.host),
            or_dash(&spec.flavor_id),
            or_dash(&self.project_id),
            age(self.create_time.as_ref(), now),
        ]
    }
}

impl Followed for Instance {
    type Message = WatchInstancesResponse;

    async fn open(
        client: &Client,
        filter: &Filter,
        token: String,
    ) -> Result<Streaming<Self::Message>, Status> {
        let filter = filter.clone();
        let request = WatchInstancesRequest {
            resume_token: token,
            heartbeat_interval: Some(duration(HEARTBEAT)),
            project_id: filter.project_id,
            states: filter.states,
            host: filter.host,
            instance_ids: filter.ids,
        };
        Ok(client.instances().watch_instances(request).await?.into_inner())
    }

    fn token(message: &Self::Message) -> &str {
        &message.resume_token
    }

    fn ends_snapshot(message: &Self::Message) -> bool {
        matches!(message.event, Some(Watched::SnapshotEnd(_)))
    }

    fn event(message: Self::Message) -> Event<Self> {
        match message.event {
            Some(Watched::Snapshot(instance)) => Event::Snapshot(instance),
            Some(Watched::SnapshotEnd(_)) => Event::SnapshotEnd,
            Some(Watched::Update(instance)) => Event::Update(instance),
            Some(Watched::Delete(id)) => Event::Gone(id),
            Some(Watched::Heartbeat(_)) | None => Event::Heartbeat,
        }
    }
}

fn moving(attachment: &Attachment) -> bool {
    matches!(attachment.state(), attachment::State::Attaching | attachment::State::Detaching)
}

impl Waited for Instance {
    const STATES: &'static [i32] = &[
        State::Building as i32,
        State::Active as i32,
        State::Stopped as i32,
        State::Error as i32,
        State::Deleted as i32,
        State::Resized as i32,
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn title(&self) -> &str {
        self.spec.as_ref().map_or(&self.id, |spec| &spec.name)
    }

    fn phase(&self) -> String {
        let state = label(self.state().as_str_name(), "STATE_");
        match self.task() {
            Task::Unspecified => state,
            task => format!("{state}/{}", label(task.as_str_name(), "TASK_")),
        }
    }

    fn standing(&self) -> Standing {
        match self.state() {
            State::Deleted => Standing::Gone,
            _ if self.task() != Task::Unspecified || self.attachments.iter().any(moving) => Standing::Going,
            State::Active | State::Stopped | State::Resized => Standing::Ready,
            State::Error => Standing::Failed,
            State::Building | State::Unspecified => Standing::Going,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}
