//! What is asked of snapshots, and what is read of them.

use std::time::SystemTime;

use kilonova_model::check;
use kilonova_model::page::page_size;
use kilonova_model::{Error, SnapshotId};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::types::v1::snapshot::State;

use super::pages::{cut, next_token, read_after};
use super::{Conductor, checked, shown};
use crate::accept::{self, Request as Accepted};
use crate::placed::Placed;
use crate::requests::{self, Named, read_id};
use crate::snapshots::{self, Asked};

impl Conductor {
    pub(super) async fn create_snapshot(
        &self,
        request: proto::CreateSnapshotRequest,
    ) -> Result<proto::CreateSnapshotResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |check| {
            check::name(check, "name", &request.name, false);
        })?;
        let volume = read_id("volume_id", &request.volume_id)?;
        let project = accept::project(&request.project_id)?;
        let bare = proto::CreateSnapshotRequest { request_id: String::new(), ..request.clone() };
        let accepted = Accepted::new("CreateSnapshot", project.as_str(), &request.request_id, &bare)?;
        let acceptance = self.acceptance(&request.request_id, arrived);
        let asked = Asked { volume, name: &request.name, validate_only: request.validate_only, acceptance };
        let entry =
            snapshots::create(&self.acceptor, &accepted, &self.snapshots, &self.volumes, &asked).await?;
        Ok(proto::CreateSnapshotResponse { snapshot: Some(shown(&entry)) })
    }

    pub(super) async fn delete_snapshot(
        &self,
        request: proto::DeleteSnapshotRequest,
    ) -> Result<proto::DeleteSnapshotResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id::<SnapshotId>("snapshot_id", &request.snapshot_id)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.delete_timeout.get();
        let acceptance = self.acceptance(&request.request_id, arrived);
        let guard = snapshots::Unused { volumes: &self.volumes };
        let missing = request.allow_missing;
        let entry = requests::delete(&self.snapshots, named, missing, timeout, acceptance, &guard).await?;
        Ok(proto::DeleteSnapshotResponse { snapshot: entry.as_ref().map(shown) })
    }

    pub(super) async fn get_snapshot(
        &self,
        request: &proto::GetSnapshotRequest,
    ) -> Result<proto::GetSnapshotResponse, Error> {
        let id = read_id("snapshot_id", &request.snapshot_id)?;
        let named = Named { id, project: &request.project_id, etag: "" };
        let entry = requests::get(&self.snapshots, named).await?;
        Ok(proto::GetSnapshotResponse { snapshot: Some(shown(&entry)) })
    }

    pub(super) fn list_snapshots(
        &self,
        request: &proto::ListSnapshotsRequest,
    ) -> Result<proto::ListSnapshotsResponse, Error> {
        let limit = page_size(request.page_size)?;
        let (project, volume) = (request.project_id.as_str(), request.volume_id.as_str());
        let filter = format!("snapshots/{project}/{volume}");
        let after = read_after::<SnapshotId>(&filter, &request.page_token)?;
        let (mut entries, mut more) = self.snapshots.cache.page(after.as_ref(), limit, |_, record| {
            let snapshot = record.resource();
            snapshot.state() != State::Deleted
                && (project.is_empty() || snapshot.project_id == project)
                && (volume.is_empty() || snapshot.volume_id == volume)
        });
        more |= cut(&mut entries, |record| prost::Message::encoded_len(record.resource()));
        let next_page_token = next_token(&filter, &entries, more);
        let snapshots = entries.iter().map(|(_, entry)| shown(entry)).collect();
        Ok(proto::ListSnapshotsResponse { snapshots, next_page_token })
    }
}
