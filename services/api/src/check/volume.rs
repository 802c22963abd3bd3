//! Requests about volumes.

use kilonova_model::check::{Checker, metadata, name, request, volume_size, volume_spec};
use kilonova_model::{Error, ProjectId, VolumeId};
use kilonova_proto::api::v1::{
    CreateVolumeRequest, DeleteVolumeRequest, ExtendVolumeRequest, GetVolumeRequest,
    ListVolumeActionsRequest, ListVolumesRequest, UpdateVolumeRequest, WatchVolumesRequest,
};
use kilonova_proto::types::v1::volume::State;

use super::{Checked, clamp_heartbeat, fill_project, fill_request_id, list, mask, names, states};

fn named(check: &mut Checker, volume_id: &str, project_id: &str) {
    check.id::<VolumeId>("volume_id", volume_id);
    check.optional_id::<ProjectId>("project_id", project_id);
}

impl Checked for CreateVolumeRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        match &self.volume {
            Some(spec) => volume_spec(&mut check, "volume", spec),
            None => check.ensure(false, "volume", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for GetVolumeRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        named(&mut check, &self.volume_id, &self.project_id);
        check.finish()
    }
}

impl Checked for ListVolumesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        list(&mut check, self.page_size, &self.project_id, &self.host);
        states(&mut check, &self.states, |state| State::try_from(state).is_ok());
        check.finish()
    }
}

impl Checked for WatchVolumesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        list(&mut check, 0, &self.project_id, &self.host);
        states(&mut check, &self.states, |state| State::try_from(state).is_ok());
        for (index, id) in self.volume_ids.iter().enumerate() {
            check.id::<VolumeId>(&format!("volume_ids[{index}]"), id);
        }
        check.finish()?;
        clamp_heartbeat(&mut self.heartbeat_interval);
        Ok(())
    }
}

impl Checked for ListVolumeActionsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        named(&mut check, &self.volume_id, &self.project_id);
        check.finish()
    }
}

impl Checked for UpdateVolumeRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<VolumeId>("volume_id", &self.volume_id);
        let update_mask = self.update_mask.as_ref();
        mask(&mut check, update_mask, &["name", "metadata"], true);
        match &self.volume {
            Some(spec) => {
                if names(update_mask, "name") {
                    name(&mut check, "volume.name", &spec.name, false);
                }
                if names(update_mask, "metadata") {
                    metadata(&mut check, "volume.metadata", &spec.metadata);
                }
            }
            None => check.ensure(false, "volume", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for ExtendVolumeRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<VolumeId>("volume_id", &self.volume_id);
        volume_size(&mut check, "size_gib", self.size_gib);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for DeleteVolumeRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<VolumeId>("volume_id", &self.volume_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}
