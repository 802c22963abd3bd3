//! Volumes as rows, as something to watch, and as something to wait for.

use std::time::SystemTime;

use kilonova_model::time::duration;
use kilonova_proto::api::v1::watch_volumes_response::Event as Watched;
use kilonova_proto::api::v1::{WatchVolumesRequest, WatchVolumesResponse};
use kilonova_proto::types::v1::volume::State;
use kilonova_proto::types::v1::{Fault, Volume};
use tonic::{Status, Streaming};

use crate::cli::client::Client;
use crate::cli::follow::{Event, Filter, Followed, HEARTBEAT};
use crate::cli::format::{age, label, or_dash};
use crate::cli::output::Row;
use crate::cli::wait::{Standing, Waited};

impl Row for Volume {
    const ONE: &'static str = "volume";
    const MANY: &'static str = "volumes";
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "STATE", "GIB", "BACKEND", "POOL", "PROJECT", "AGE"];

    fn row(&self, now: SystemTime) -> Vec<String> {
        let spec = self.spec.clone().unwrap_or_default();
        vec![
            or_dash(&self.id),
            or_dash(&spec.name),
            label(self.state().as_str_name(), "STATE_"),
            spec.size_gib.to_string(),
            or_dash(&self.host),
            or_dash(&self.pool),
            or_dash(&self.project_id),
            age(self.create_time.as_ref(), now),
        ]
    }
}

impl Followed for Volume {
    type Message = WatchVolumesResponse;

    async fn open(
        client: &Client,
        filter: &Filter,
        token: String,
    ) -> Result<Streaming<Self::Message>, Status> {
        let filter = filter.clone();
        let request = WatchVolumesRequest {
            resume_token: token,
            heartbeat_interval: Some(duration(HEARTBEAT)),
            project_id: filter.project_id,
            states: filter.states,
            host: filter.host,
            volume_ids: filter.ids,
        };
        Ok(client.volumes().watch_volumes(request).await?.into_inner())
    }

    fn token(message: &Self::Message) -> &str {
        &message.resume_token
    }

    fn ends_snapshot(message: &Self::Message) -> bool {
        matches!(message.event, Some(Watched::SnapshotEnd(_)))
    }

    fn event(message: Self::Message) -> Event<Self> {
        match message.event {
            Some(Watched::Snapshot(volume)) => Event::Snapshot(volume),
            Some(Watched::SnapshotEnd(_)) => Event::SnapshotEnd,
            Some(Watched::Update(volume)) => Event::Update(volume),
            Some(Watched::Delete(id)) => Event::Gone(id),
            Some(Watched::Heartbeat(_)) | None => Event::Heartbeat,
        }
    }
}

impl Waited for Volume {
    const STATES: &'static [i32] = &[
        State::Creating as i32,
        State::Available as i32,
        State::Reserved as i32,
        State::Attaching as i32,
        State::InUse as i32,
        State::Detaching as i32,
        State::Extending as i32,
        State::Deleting as i32,
        State::Error as i32,
        State::Deleted as i32,
    ];

    fn id(&self) -> &str {
        &self.id
    }

    fn title(&self) -> &str {
        match &self.spec {
            Some(spec) if !spec.name.is_empty() => &spec.name,
            _ => &self.id,
        }
    }

    fn phase(&self) -> String {
        label(self.state().as_str_name(), "STATE_")
    }

    fn standing(&self) -> Standing {
        match self.state() {
            State::Creating | State::Extending | State::Deleting | State::Unspecified => Standing::Going,
            State::Error => Standing::Failed,
            State::Deleted => Standing::Gone,
            State::Available | State::Reserved | State::Attaching | State::InUse | State::Detaching => {
                Standing::Ready
            }
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}
