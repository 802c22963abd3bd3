//! Requests about where something goes.

use kilonova_model::check::{self, Checker};
use kilonova_model::{Error, InstanceId, ProjectId, VolumeId};
use kilonova_proto::api::v1::{
    EvaluateInstancePlacementRequest, EvaluateVolumePlacementRequest, GetInstancePlacementRequest,
    GetVolumePlacementRequest,
};

use super::{Checked, fill_project};

impl Checked for EvaluateInstancePlacementRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        match &self.instance {
            Some(spec) => check::instance_demands(&mut check, "instance", spec),
            None => check.ensure(false, "instance", "is required"),
        }
        check::places(&mut check, self.count, self.alternates);
        check.finish()?;
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for EvaluateVolumePlacementRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        match &self.volume {
            Some(spec) => check::volume_spec(&mut check, "volume", spec),
            None => check.ensure(false, "volume", "is required"),
        }
        check::places(&mut check, self.count, self.alternates);
        check.finish()?;
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for GetInstancePlacementRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<InstanceId>("instance_id", &self.instance_id);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()
    }
}

impl Checked for GetVolumePlacementRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<VolumeId>("volume_id", &self.volume_id);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::{InstanceSpec, VolumeSpec};

    fn fields(request: &mut impl Checked) -> Vec<String> {
        let violations = request.check().err().map(|error| error.violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_flavor_alone_is_enough_to_ask_for_a_place() {
        let instance = InstanceSpec { flavor_id: "m1".into(), ..Default::default() };
        let mut request = EvaluateInstancePlacementRequest { instance: Some(instance), ..Default::default() };
        assert_eq!(fields(&mut request), Vec::<String>::new());
        assert_eq!(request.project_id, "default");
        let volume = VolumeSpec { size_gib: 1, ..Default::default() };
        let mut request = EvaluateVolumePlacementRequest { volume: Some(volume), ..Default::default() };
        assert_eq!(fields(&mut request), Vec::<String>::new());
        assert_eq!(request.project_id, "default");
    }

    #[test]
    fn every_wrong_field_is_named_as_in_the_request() {
        let mut request =
            EvaluateInstancePlacementRequest { count: 101, alternates: 11, ..Default::default() };
        assert_eq!(fields(&mut request), ["instance", "count", "alternates"]);
        request.instance = Some(InstanceSpec::default());
        assert_eq!(fields(&mut request), ["instance.flavor_id", "count", "alternates"]);
        let mut request = EvaluateVolumePlacementRequest { count: 101, ..Default::default() };
        assert_eq!(fields(&mut request), ["volume", "count"]);
        assert_eq!(fields(&mut GetInstancePlacementRequest::default()), ["instance_id"]);
        assert_eq!(fields(&mut GetVolumePlacementRequest::default()), ["volume_id"]);
    }
}
