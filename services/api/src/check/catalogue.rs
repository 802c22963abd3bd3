//! Requests about flavors, images, hosts, services, quotas and audits.

use kilonova_model::check::{self, Checker, request};
use kilonova_model::{Error, FlavorId, HostName, ImageId, ProjectId};
use kilonova_proto::api::v1::{
    AuditRequest, CreateFlavorRequest, CreateImageRequest, DeleteFlavorRequest, DeleteImageRequest,
    DisableHostRequest, EnableHostRequest, GetFlavorRequest, GetHostRequest, GetImageRequest,
    GetQuotaRequest, ListFlavorsRequest, ListHostsRequest, ListImagesRequest, ListServicesRequest,
    UpdateQuotaRequest,
};
use kilonova_proto::types::v1::ServiceKind;

use super::{Checked, fill_project, fill_request_id, mask, page_size};

/// Longest reason an administrator may give, in characters.
const MAX_REASON: usize = 255;

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

/// Only computes and volume backends are hosts.
fn agent(check: &mut Checker, service: i32, required: bool) {
    let known = match ServiceKind::try_from(service) {
        Ok(ServiceKind::Compute | ServiceKind::Volume) => true,
        Ok(ServiceKind::Unspecified) => !required,
        Ok(ServiceKind::Api | ServiceKind::Conductor | ServiceKind::Scheduler) | Err(_) => false,
    };
    check.ensure(known, "service", "SERVICE_KIND_COMPUTE or SERVICE_KIND_VOLUME");
}

impl Checked for GetHostRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        agent(&mut check, self.service, true);
        check.id::<HostName>("host", &self.host);
        check.finish()
    }
}

impl Checked for ListHostsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        agent(&mut check, self.service, false);
        check.finish()
    }
}

impl Checked for ListServicesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        let known = ServiceKind::try_from(self.service).is_ok();
        check.ensure(known, "service", "no service of this version");
        check.finish()
    }
}

impl Checked for EnableHostRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        agent(&mut check, self.service, true);
        check.id::<HostName>("host", &self.host);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for DisableHostRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        agent(&mut check, self.service, true);
        check.id::<HostName>("host", &self.host);
        check.ensure(!self.reason.trim().is_empty(), "reason", "is required");
        check.ensure(
            self.reason.chars().count() <= MAX_REASON,
            "reason",
            format!("at most {MAX_REASON} characters"),
        );
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
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
    fn only_agents_are_hosts() {
        let host = |service: ServiceKind| GetHostRequest { service: service.into(), host: "node1".into() };
        assert!(fields(&mut host(ServiceKind::Compute)).is_empty());
        for service in [ServiceKind::Unspecified, ServiceKind::Api] {
            assert_eq!(fields(&mut host(service)), ["service"]);
        }
        assert!(fields(&mut ListHostsRequest::default()).is_empty());
    }

    #[test]
    fn disabling_needs_a_reason() {
        let mut request = DisableHostRequest {
            service: ServiceKind::Volume.into(),
            host: "node1@lvm".into(),
            reason: " ".into(),
            ..Default::default()
        };
        assert_eq!(fields(&mut request), ["reason"]);
        request.reason = "x".repeat(256);
        assert_eq!(fields(&mut request), ["reason"]);
        request.reason = "maintenance".into();
        assert!(fields(&mut request).is_empty());
        assert!(!request.request_id.is_empty());
    }

    #[test]
    fn a_quota_names_its_limits() {
        assert_eq!(fields(&mut UpdateQuotaRequest::default()), ["limits"]);
        let mut request = GetQuotaRequest::default();
        assert_eq!(request.check(), Ok(()));
        assert_eq!(request.project_id, "default");
    }
}
