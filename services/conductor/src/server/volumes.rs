//! Volumes: created, described, extended, deleted and read.

use std::time::SystemTime;

use kilonova_model::check::{self, Checker};
use kilonova_model::{Error, ImageId, Reason};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::VolumeRecord;
use kilonova_proto::types::v1 as pb;

use super::pages::{Filter, page};
use super::{Conductor, checked, shown};
use crate::accept::{self, Request as Accepted};
use crate::cache::Entry;
use crate::extend::Extend;
use crate::hints::Directory;
use crate::once::change_once;
use crate::placed::Placed;
use crate::requests::{self, Description, Guard, Named, read_id};
use crate::snapshots;

impl Conductor {
    pub(super) async fn create_volume(
        &self,
        request: proto::CreateVolumeRequest,
    ) -> Result<proto::CreateVolumeResponse, Error> {
        let arrived = SystemTime::now();
        let spec = request.volume.clone().unwrap_or_default();
        checked(&request.request_id, &request.project_id, |check| {
            check::volume_spec(check, "volume", &spec)
        })?;
        let (request_id, validate_only) = (request.request_id.clone(), request.validate_only);
        let project = accept::project(&request.project_id)?;
        let bare = proto::CreateVolumeRequest { request_id: String::new(), ..request };
        let accepted = Accepted::new("CreateVolume", project.as_str(), &request_id, &bare)?;
        if self.acceptor.replay(&accepted).await?.is_none() {
            self.check_named(&spec, project.as_str()).await?;
        }
        let new = requests::new_volume(&spec, project.as_str(), self.acceptance(&request_id, arrived));
        let entries = match spec.snapshot_id.as_str() {
            "" => self.acceptor.create(&accepted, &self.volumes, vec![new], validate_only).await?,
            _ if validate_only => self.acceptor.create(&accepted, &self.volumes, vec![new], true).await?,
            snapshot => {
                let id = read_id("volume.snapshot_id", snapshot)?;
                vec![
                    snapshots::use_in(&self.acceptor, &accepted, &self.snapshots, id, &self.volumes, new)
                        .await?,
                ]
            }
        };
        Ok(proto::CreateVolumeResponse { volume: entries.first().map(shown) })
    }

    /// Whether all that a volume's description names is there, and fits.
    pub(super) async fn check_named(&self, spec: &pb::VolumeSpec, project: &str) -> Result<(), Error> {
        self.check_contents(spec, project).await?;
        let directory = Directory { volumes: &self.volumes, instances: &self.instances };
        directory.check(&spec.hints.clone().unwrap_or_default(), project).await
    }

    /// Whether what a volume is to be made of is there, and fits.
    async fn check_contents(&self, spec: &pb::VolumeSpec, project: &str) -> Result<(), Error> {
        let mut check = Checker::new();
        let both = !spec.snapshot_id.is_empty() && !spec.image_id.is_empty();
        check.ensure(!both, "volume.image_id", "is for a volume without snapshot_id");
        check.finish()?;
        let smallest = if !spec.snapshot_id.is_empty() {
            let id = read_id("volume.snapshot_id", &spec.snapshot_id)?;
            let snapshot = requests::get(&self.snapshots, Named { id, project, etag: "" }).await?;
            let snapshot = snapshot.record.resource();
            snapshots::check_available(snapshot)?;
            snapshot.size_gib
        } else if !spec.image_id.is_empty() {
            self.images.get(&read_id::<ImageId>("volume.image_id", &spec.image_id)?).await?.min_disk_gib
        } else {
            0
        };
        let mut check = Checker::new();
        check.ensure(spec.size_gib >= smallest, "volume.size_gib", format!("at least {smallest}"));
        check.finish()
    }

    pub(super) async fn update_volume(
        &self,
        request: proto::UpdateVolumeRequest,
    ) -> Result<proto::UpdateVolumeResponse, Error> {
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("volume_id", &request.volume_id)?;
        let bare = proto::UpdateVolumeRequest { request_id: String::new(), ..request.clone() };
        let accepted = Accepted::new("UpdateVolume", &request.project_id, &request.request_id, &bare)?;
        let spec = request.volume.unwrap_or_default();
        let mask = request.update_mask.as_ref();
        let new = Description::read("volume", mask, &spec.name, &spec.metadata, false)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let (acceptor, volumes) = (&self.acceptor, &self.volumes);
        let entry =
            requests::describe(acceptor, &accepted, volumes, named, &new, |record: &mut VolumeRecord| {
                let volume = record.volume.get_or_insert_default();
                let spec = volume.spec.get_or_insert_default();
                (&mut spec.name, &mut spec.metadata, &mut volume.update_time)
            })
            .await?;
        Ok(proto::UpdateVolumeResponse { volume: Some(shown(&entry)) })
    }

    pub(super) async fn extend_volume(
        &self,
        mut request: proto::ExtendVolumeRequest,
    ) -> Result<proto::ExtendVolumeResponse, Error> {
        let arrived = SystemTime::now();
        let request_id = std::mem::take(&mut request.request_id);
        checked(&request_id, &request.project_id, |check| {
            check::volume_size(check, "size_gib", request.size_gib);
        })?;
        let id = read_id("volume_id", &request.volume_id)?;
        let accepted = Accepted::new("ExtendVolume", &request.project_id, &request_id, &request)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.operation_timeout.get();
        let acceptance = self.acceptance(&request_id, arrived);
        let asked = Extend { acceptor: &self.acceptor, size_gib: request.size_gib, timeout, acceptance };
        let entry = change_once(&self.acceptor, &accepted, &self.volumes, named, &asked).await?;
        Ok(proto::ExtendVolumeResponse { volume: Some(shown(&entry)) })
    }

    pub(super) async fn delete_volume(
        &self,
        request: proto::DeleteVolumeRequest,
    ) -> Result<proto::DeleteVolumeResponse, Error> {
        let arrived = SystemTime::now();
        checked(&request.request_id, &request.project_id, |_| {})?;
        let id = read_id("volume_id", &request.volume_id)?;
        let named = Named { id, project: &request.project_id, etag: &request.etag };
        let timeout = self.config.delete_timeout.get();
        let acceptance = self.acceptance(&request.request_id, arrived);
        let missing = request.allow_missing;
        let entry = requests::delete(&self.volumes, named, missing, timeout, acceptance, &NotInUse).await?;
        Ok(proto::DeleteVolumeResponse { volume: entry.as_ref().map(shown) })
    }

    pub(super) async fn volume(&self, id: &str, project: &str) -> Result<Entry<VolumeRecord>, Error> {
        let named = Named { id: read_id("volume_id", id)?, project, etag: "" };
        requests::get(&self.volumes, named).await
    }

    pub(super) async fn get_volume(
        &self,
        request: &proto::GetVolumeRequest,
    ) -> Result<proto::GetVolumeResponse, Error> {
        let entry = self.volume(&request.volume_id, &request.project_id).await?;
        Ok(proto::GetVolumeResponse { volume: Some(shown(&entry)) })
    }

    pub(super) fn list_volumes(
        &self,
        request: proto::ListVolumesRequest,
    ) -> Result<proto::ListVolumesResponse, Error> {
        let (project, host) = (request.project_id, request.host);
        let filter = Filter { project, states: request.states, host, ids: Vec::new() };
        let (size, token) = (request.page_size, request.page_token.as_str());
        let (volumes, next_page_token) =
            page(&self.volumes.cache, size, token, &filter, |record| filter.volume(record))?;
        Ok(proto::ListVolumesResponse { volumes, next_page_token })
    }

    pub(super) async fn list_volume_actions(
        &self,
        request: &proto::ListVolumeActionsRequest,
    ) -> Result<proto::ListVolumeActionsResponse, Error> {
        let entry = self.volume(&request.volume_id, &request.project_id).await?;
        Ok(proto::ListVolumeActionsResponse { actions: entry.record.actions().to_vec() })
    }
}

/// A volume that an instance has, or that has snapshots, stays.
struct NotInUse;

#[tonic::async_trait]
impl Guard<VolumeRecord> for NotInUse {
    async fn may_go(&self, record: &VolumeRecord) -> Result<(), Error> {
        not_in_use(record)
    }
}

fn not_in_use(record: &VolumeRecord) -> Result<(), Error> {
    use pb::volume::State;
    let snapshots = record.snapshot_ids.len();
    if snapshots > 0 {
        let message = format!("the volume has {snapshots} snapshots; delete them first");
        return Err(Error::new(Reason::InvalidState, message).with("snapshots", snapshots));
    }
    // Also one that was given up as lost: its backend may have it again, and the guest uses it.
    if let Some(attachment) = record.resource().attachments.first() {
        let message = format!("instance {} has the volume; detach it first", attachment.instance_id);
        return Err(Error::new(Reason::InvalidState, message).with("instance_id", &attachment.instance_id));
    }
    match record.resource().state() {
        State::Creating | State::Available | State::Error | State::Deleting => Ok(()),
        state => {
            let message = format!("the volume is {}; detach it first", state.as_str_name());
            Err(Error::new(Reason::InvalidState, message).with("state", state.as_str_name()))
        }
    }
}

#[cfg(test)]
mod tests {
    use kilonova_proto::types::v1::volume::State;

    use super::*;

    #[test]
    fn what_an_instance_has_is_not_deleted_whatever_its_state() {
        for state in [State::Available, State::Error, State::InUse] {
            for attachments in [Vec::new(), vec![pb::Attachment::default()]] {
                let is_free = attachments.is_empty() && state != State::InUse;
                let mut volume = pb::Volume { attachments, ..Default::default() };
                volume.set_state(state);
                let record = VolumeRecord { volume: Some(volume), ..Default::default() };
                assert_eq!(not_in_use(&record).is_ok(), is_free, "{record:?}");
            }
        }
    }
}
