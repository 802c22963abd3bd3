//! Requests about hosts, zones and services.

use kilonova_model::check::{self, Checker, request};
use kilonova_model::{Error, HostName, ZoneName};
use kilonova_proto::api::v1::{
    DisableHostRequest, EnableHostRequest, FenceHostRequest, GetHostRequest, ListHostsRequest,
    ListServicesRequest, ListZonesRequest, UnfenceHostRequest, UpdateHostRequest,
};
use kilonova_proto::types::v1::ServiceKind;

use super::{Checked, fill_request_id, mask, names, page_size};

/// Longest reason an administrator may give, in characters.
const MAX_REASON: usize = 255;

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

macro_rules! names_a_host {
    ($($request:ty),*) => {$(
        impl Checked for $request {
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
    )*};
}

names_a_host!(EnableHostRequest, FenceHostRequest, UnfenceHostRequest);

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

impl Checked for UpdateHostRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, "");
        agent(&mut check, self.service, true);
        check.id::<HostName>("host", &self.host);
        mask(&mut check, self.update_mask.as_ref(), &["assigned_zone", "traits"], true);
        if names(self.update_mask.as_ref(), "assigned_zone") {
            check.optional_id::<ZoneName>("assigned_zone", &self.assigned_zone);
        }
        if names(self.update_mask.as_ref(), "traits") {
            check::traits(&mut check, "traits", &self.traits);
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for ListZonesRequest {
    fn check(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::FieldMask;

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
    fn only_what_the_mask_names_is_looked_at() {
        let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        let mut request = UpdateHostRequest {
            service: ServiceKind::Compute.into(),
            host: "node1".into(),
            assigned_zone: "not a zone".into(),
            traits: vec!["lower".into()],
            ..Default::default()
        };
        assert_eq!(fields(&mut request), ["update_mask"]);
        request.update_mask = Some(FieldMask { paths: paths(&["traits"]) });
        assert_eq!(fields(&mut request), ["traits[0]"]);
        request.update_mask = Some(FieldMask { paths: paths(&["assigned_zone", "name"]) });
        assert_eq!(fields(&mut request), ["update_mask", "assigned_zone"]);
    }
}
