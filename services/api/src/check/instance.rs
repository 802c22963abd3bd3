//! Requests about instances.

use kilonova_model::check::{Checker, MAX_COUNT, instance_spec, metadata, name, request};
use kilonova_model::{Error, FlavorId, HostName, ImageId, InstanceId, ProjectId, VolumeId};
use kilonova_proto::api::v1::{
    AttachVolumeRequest, ConfirmResizeRequest, CreateInstanceRequest, DeleteInstanceRequest,
    DetachVolumeRequest, EvacuateInstanceRequest, GetInstanceRequest, ListInstanceActionsRequest,
    ListInstancesRequest, MigrateInstanceRequest, RebootInstanceRequest, RebuildInstanceRequest,
    ResizeInstanceRequest, RevertResizeRequest, StartInstanceRequest, StopInstanceRequest,
    UpdateInstanceRequest, WatchInstancesRequest,
};
use kilonova_proto::types::v1::instance::State;

use super::{Checked, clamp_heartbeat, fill_project, fill_request_id, list, mask, names, states};

fn named(check: &mut Checker, instance_id: &str, project_id: &str) {
    check.id::<InstanceId>("instance_id", instance_id);
    check.optional_id::<ProjectId>("project_id", project_id);
}

impl Checked for CreateInstanceRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        match &self.instance {
            Some(spec) => instance_spec(&mut check, "instance", spec),
            None => check.ensure(false, "instance", "is required"),
        }
        check.ensure(self.count <= MAX_COUNT, "count", format!("0 to {MAX_COUNT}"));
        check.finish()?;
        fill_request_id(&mut self.request_id);
        fill_project(&mut self.project_id);
        Ok(())
    }
}

impl Checked for GetInstanceRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        named(&mut check, &self.instance_id, &self.project_id);
        check.finish()
    }
}

impl Checked for ListInstancesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        list(&mut check, self.page_size, &self.project_id, &self.host);
        states(&mut check, &self.states, |state| State::try_from(state).is_ok());
        check.finish()
    }
}

impl Checked for WatchInstancesRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        list(&mut check, 0, &self.project_id, &self.host);
        states(&mut check, &self.states, |state| State::try_from(state).is_ok());
        for (index, id) in self.instance_ids.iter().enumerate() {
            check.id::<InstanceId>(&format!("instance_ids[{index}]"), id);
        }
        check.finish()?;
        clamp_heartbeat(&mut self.heartbeat_interval);
        Ok(())
    }
}

impl Checked for ListInstanceActionsRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        named(&mut check, &self.instance_id, &self.project_id);
        check.finish()
    }
}

impl Checked for UpdateInstanceRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<InstanceId>("instance_id", &self.instance_id);
        let update_mask = self.update_mask.as_ref();
        mask(&mut check, update_mask, &["name", "metadata"], true);
        match &self.instance {
            Some(spec) => {
                if names(update_mask, "name") {
                    name(&mut check, "instance.name", &spec.name, true);
                }
                if names(update_mask, "metadata") {
                    metadata(&mut check, "instance.metadata", &spec.metadata);
                }
            }
            None => check.ensure(false, "instance", "is required"),
        }
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

/// What only names an instance, and perhaps something else.
macro_rules! changes {
    ($($request:ident { $($check:ident $field:ident $type:ident)? }),*) => {$(
        impl Checked for $request {
            fn check(&mut self) -> Result<(), Error> {
                let mut check = Checker::new();
                request(&mut check, &self.request_id, &self.project_id);
                check.id::<InstanceId>("instance_id", &self.instance_id);
                $(check.$check::<$type>(stringify!($field), &self.$field);)?
                check.finish()?;
                fill_request_id(&mut self.request_id);
                Ok(())
            }
        }
    )*};
}

changes!(
    DeleteInstanceRequest {},
    StartInstanceRequest {},
    StopInstanceRequest {},
    RebuildInstanceRequest { optional_id image_id ImageId },
    ResizeInstanceRequest { id flavor_id FlavorId },
    MigrateInstanceRequest { optional_id target_host HostName },
    ConfirmResizeRequest {},
    RevertResizeRequest {},
    AttachVolumeRequest { id volume_id VolumeId },
    DetachVolumeRequest { id volume_id VolumeId }
);

/// Most hosts that are vouched for.
const MAX_VOUCHED: usize = 16;

fn vouched(check: &mut Checker, hosts: &[String]) {
    check.ensure(hosts.len() <= MAX_VOUCHED, "vouched_hosts", format!("at most {MAX_VOUCHED}"));
    for (index, host) in hosts.iter().take(MAX_VOUCHED).enumerate() {
        check.id::<HostName>(&format!("vouched_hosts[{index}]"), host);
    }
}

impl Checked for RebootInstanceRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<InstanceId>("instance_id", &self.instance_id);
        vouched(&mut check, &self.vouched_hosts);
        let is_meant = self.hard || self.vouched_hosts.is_empty();
        check.ensure(is_meant, "vouched_hosts", "must be empty unless hard is set".to_owned());
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

impl Checked for EvacuateInstanceRequest {
    fn check(&mut self) -> Result<(), Error> {
        let mut check = Checker::new();
        request(&mut check, &self.request_id, &self.project_id);
        check.id::<InstanceId>("instance_id", &self.instance_id);
        check.optional_id::<HostName>("target_host", &self.target_host);
        vouched(&mut check, &self.vouched_hosts);
        check.finish()?;
        fill_request_id(&mut self.request_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::InstanceSpec;

    fn fields(request: &mut impl Checked) -> Vec<String> {
        let violations = request.check().err().map(|error| error.violations).unwrap_or_default();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn a_create_is_made_whole() {
        let spec = InstanceSpec {
            name: "web".into(),
            flavor_id: "m1".into(),
            image_id: "i".into(),
            ..Default::default()
        };
        let mut request = CreateInstanceRequest { instance: Some(spec), ..Default::default() };
        assert_eq!(fields(&mut request), Vec::<String>::new());
        assert_eq!(request.project_id, "default");
        let made_up = request.request_id.clone();
        assert!(!made_up.is_empty());
        assert_eq!(request.check(), Ok(()));
        assert_eq!(request.request_id, made_up, "an id that is there is kept");
    }

    #[test]
    fn every_wrong_field_is_named_as_in_the_request() {
        let mut create = CreateInstanceRequest { request_id: "a/b".into(), count: 101, ..Default::default() };
        assert_eq!(fields(&mut create), ["request_id", "instance", "count"]);
        let mut list = ListInstancesRequest { page_size: -1, states: vec![2, 0, 99], ..Default::default() };
        assert_eq!(fields(&mut list), ["page_size", "states[1]", "states[2]"]);
        let mut watch = WatchInstancesRequest { instance_ids: vec!["vm-1".into()], ..Default::default() };
        assert_eq!(fields(&mut watch), ["instance_ids[0]"]);
        assert_eq!(fields(&mut GetInstanceRequest::default()), ["instance_id"]);
        assert_eq!(fields(&mut DeleteInstanceRequest::default()), ["instance_id"]);
        let mut migrate = MigrateInstanceRequest { target_host: "a b".into(), ..Default::default() };
        assert_eq!(fields(&mut migrate), ["instance_id", "target_host"]);
        assert_eq!(fields(&mut ResizeInstanceRequest::default()), ["instance_id", "flavor_id"]);
        assert_eq!(fields(&mut UpdateInstanceRequest::default()), ["instance_id", "update_mask", "instance"]);
    }
}
