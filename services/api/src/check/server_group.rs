//! Requests about server groups.

use kilonova_model::check::{Checker, request, server_group};
use kilonova_model::{Error, ProjectId, ServerGroupId};
use kilonova_proto::api::v1::{
    CreateServerGroupRequest, DeleteServerGroupRequest, GetServerGroupRequest, ListServerGroupsRequest,
};

use super::{Checked, fill_project, fill_request_id, page_size};

impl Checked for CreateServerGroupRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        match &self.server_group {
            Some(group) => server_group(&mut check, "server_group", group),
            None => check.ensure(false, "server_group", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for DeleteServerGroupRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<ServerGroupId>("server_group_id", &self.server_group_id);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for GetServerGroupRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        check.id::<ServerGroupId>("server_group_id", &self.server_group_id);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()
    }
}

impl Checked for ListServerGroupsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        page_size(&mut check, self.page_size);
        check.optional_id::<ProjectId>("project_id", &self.project_id);
        check.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::ServerGroup;
    use kilonova_proto::types::v1::server_group::Policy;

    fn fields(request: &mut impl Checked) -> Vec<String> {
        let violations = request.check().err().map(|error| error.violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_group_is_made_whole_or_refused_field_by_field() {
        let group = |name: &str, policy: Policy, max_per_host| ServerGroup {
            name: name.into(),
            policy: policy.into(),
            max_per_host,
            ..Default::default()
        };
        let create = |group| CreateServerGroupRequest { server_group: Some(group), ..Default::default() };
        let mut good = create(group("web", Policy::AntiAffinity, 2));
        assert!(fields(&mut good).is_empty());
        assert_eq!(good.project_id, "default");
        assert!(!good.request_id.is_empty());
        let bad = fields(&mut create(group("", Policy::Unspecified, 2)));
        assert_eq!(bad, ["server_group.name", "server_group.policy", "server_group.max_per_host"]);
        assert_eq!(fields(&mut CreateServerGroupRequest::default()), ["server_group"]);
        assert_eq!(fields(&mut DeleteServerGroupRequest::default()), ["server_group_id"]);
    }
}
