//! Requests about snapshots.

use kilonova_model::check::{Checker, name, request};
use kilonova_model::{Error, ProjectId, SnapshotId, VolumeId};
use kilonova_proto::api::v1::{
    CreateSnapshotRequest, DeleteSnapshotRequest, GetSnapshotRequest, ListSnapshotsRequest,
};

use super::{Checked, fill_project, fill_request_id, page_size};

impl Checked for CreateSnapshotRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<VolumeId>("volume_id", &self.volume_id);
        name(&mut check, "name", &self.name, false);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for DeleteSnapshotRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<SnapshotId>("snapshot_id", &self.snapshot_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for GetSnapshotRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<SnapshotId>("snapshot_id", &self.snapshot_id);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()
    }
}

impl Checked for ListSnapshotsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.optional_id::<VolumeId>("volume_id", &self.volume_id);
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named_as_in_the_request() {
        let fields = |request: &mut dyn Checked| {
            let violations = request.check().err().map(|error| error.violations).unwrap_or_default();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(fields(&mut CreateSnapshotRequest::default()), ["volume_id"]);
        assert_eq!(fields(&mut DeleteSnapshotRequest::default()), ["snapshot_id"]);
        let mut list = ListSnapshotsRequest { page_size: -1, volume_id: "x".into(), ..Default::default() };
        assert_eq!(fields(&mut list), ["page_size", "volume_id"]);
    }
}
