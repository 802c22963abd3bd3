//! Requests about flavors, images, quotas and audits.

use kilonova_model::check::{self, Checker, request};
use kilonova_model::{Error, FlavorId, HostName, ImageId, ProjectId};
use kilonova_proto::api::v1::{
    AuditRequest, CreateFlavorRequest, CreateImageRequest, DeleteFlavorRequest, DeleteImageRequest,
    GetFlavorRequest, GetImageRequest, GetQuotaRequest, ListFlavorsRequest, ListImagesRequest,
    UpdateQuotaRequest,
};

use super::{Checked, fill_project, fill_request_id, mask, page_size};

const LIMITS: [&str; 6] = ["instances", "cores", "ram_mib", "volumes", "gigabytes", "snapshots"];

impl Checked for AuditRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.optional_id::<HostName>("host", &self.host);
        check.finish()
    }
}

impl Checked for CreateFlavorRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        match &self.flavor {
            Some(flavor) => check::flavor(&mut check, "flavor", flavor),
            None => check.ensure(false, "flavor", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for DeleteFlavorRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        check.id::<FlavorId>("flavor_id", &self.flavor_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for GetFlavorRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<FlavorId>("flavor_id", &self.flavor_id);
        check.finish()
    }
}

impl Checked for ListFlavorsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        check.finish()
    }
}

impl Checked for CreateImageRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        match &self.image {
            Some(image) => check::image(&mut check, "image", image),
            None => check.ensure(false, "image", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for DeleteImageRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        check.id::<ImageId>("image_id", &self.image_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for GetImageRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<ImageId>("image_id", &self.image_id);
        check.finish()
    }
}

impl Checked for ListImagesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        check.finish()
    }
}

impl Checked for GetQuotaRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()?;
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for UpdateQuotaRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        match &self.limits {
            Some(limits) => check::quota_limits(&mut check, "limits", limits),
            None => check.ensure(false, "limits", "is required"),
        }
        mask(&mut check, self.update_mask.as_ref(), &LIMITS, false);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        fill_project(&mut self.project_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(request: &mut impl Checked) -> Vec<String> {
        let violations = request.check().err().map(|error| error.violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_quota_names_its_limits() {
        assert_eq!(fields(&mut UpdateQuotaRequest::default()), ["limits"]);
        let mut request = GetQuotaRequest::default();
        assert_eq!(request.check(), Ok(()));
        assert_eq!(request.project_id, "default");
    }
}
