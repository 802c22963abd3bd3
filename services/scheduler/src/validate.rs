//! What a request must look like to be answered.

use kilonova_model::check::{self, Checker};
use kilonova_model::{Error, HostName, ProjectId, RequestId, ZoneName};
use kilonova_proto::scheduler::v1::{SelectBackendsRequest, SelectHostsRequest};
use kilonova_proto::types::v1::server_group::Policy;

/// Checks a request for hosts; its id.
pub(crate) fn select_hosts(request: &SelectHostsRequest) -> Result<RequestId, Error> {
    let mut check = Checker::new();
    let id = common(&mut check, &request.request_id, &request.project_id, request.count, request.alternates);
    match &request.flavor {
        None => check.ensure(false, "flavor", "is required"),
        Some(flavor) => check::flavor(&mut check, "flavor", flavor),
    }
    if let Some(image) = &request.image {
        check::image(&mut check, "image", image);
    }
    check.optional_id::<ZoneName>("availability_zone", &request.availability_zone);
    hosts(&mut check, "excluded_hosts", &request.excluded_hosts);
    if let Some(hints) = &request.hints {
        check::scheduler_hints(&mut check, "hints", hints);
    }
    if let Some(group) = &request.server_group {
        check.ensure(request.count <= 1, "count", "members of a server group are placed one by one");
        check.ensure(group.policy() != Policy::Unspecified, "server_group.policy", "is required");
        let names: Vec<String> = group.hosts.iter().map(|host| host.host.clone()).collect();
        hosts(&mut check, "server_group.hosts", &names);
    }
    finish(check, id)
}

/// Checks a request for backends; its id.
pub(crate) fn select_backends(request: &SelectBackendsRequest) -> Result<RequestId, Error> {
    let mut check = Checker::new();
    let id = common(&mut check, &request.request_id, &request.project_id, request.count, request.alternates);
    match &request.volume {
        None => check.ensure(false, "volume", "is required"),
        Some(volume) => check::volume_spec(&mut check, "volume", volume),
    }
    hosts(&mut check, "excluded_backends", &request.excluded_backends);
    hosts(&mut check, "same_backends", &request.same_backends);
    hosts(&mut check, "different_backends", &request.different_backends);
    check.optional_id::<HostName>("instance_host", &request.instance_host);
    finish(check, id)
}

fn common(
    check: &mut Checker,
    request: &str,
    project: &str,
    count: u32,
    alternates: u32,
) -> Option<RequestId> {
    check.optional_id::<ProjectId>("project_id", project);
    check::places(check, count, alternates);
    check.id("request_id", request)
}

fn hosts(check: &mut Checker, field: &str, names: &[String]) {
    for (n, name) in names.iter().enumerate() {
        check.id::<HostName>(&format!("{field}[{n}]"), name);
    }
}

fn finish(check: Checker, id: Option<RequestId>) -> Result<RequestId, Error> {
    check.finish()?;
    Ok(id.expect("a request id that was not read is a violation"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::testing::{group, instance, volume};

    fn wrong_fields(result: Result<RequestId, Error>) -> Vec<String> {
        result.unwrap_err().violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn every_wrong_field_is_named() {
        let mut request = instance(0, 1, 0);
        request.excluded_hosts = vec!["fine".into(), "not/fine".into()];
        request.count = 101;
        request.alternates = 11;
        let flavor = request.flavor.as_mut().unwrap();
        flavor.id = "small".into();
        flavor.extra_specs.insert("trait:HW_A".into(), "maybe".into());
        flavor.extra_specs.insert("trait:HW_B".into(), "required".into());
        flavor.extra_specs.insert("trait:HW_C".into(), "forbidden".into());
        assert_eq!(
            wrong_fields(select_hosts(&request)),
            [
                "count",
                "alternates",
                "request_id",
                "flavor.vcpus",
                "flavor.extra_specs[\"trait:HW_A\"]",
                "excluded_hosts[1]"
            ]
        );
        assert_eq!(wrong_fields(select_hosts(&SelectHostsRequest::default())), ["request_id", "flavor"]);
        let mut request = volume(0, &[]);
        request.same_backends = vec!["n1@file".into(), "not/fine".into()];
        request.different_backends = vec!["not/fine".into()];
        request.instance_host = "not/fine".into();
        assert_eq!(
            wrong_fields(select_backends(&request)),
            ["request_id", "volume.size_gib", "same_backends[1]", "different_backends[0]", "instance_host"]
        );
    }

    #[test]
    fn members_of_a_group_are_placed_one_by_one() {
        let mut request = instance(1, 1, 0);
        request.request_id = "r1".into();
        request.flavor.as_mut().unwrap().id = "small".into();
        request.server_group = Some(group(Policy::Affinity, 0, &[("c1", 1), ("not/fine", 1)]));
        request.count = 2;
        assert_eq!(wrong_fields(select_hosts(&request)), ["count", "server_group.hosts[1]"]);
        request.server_group = Some(group(Policy::Unspecified, 0, &[]));
        request.count = 1;
        assert_eq!(wrong_fields(select_hosts(&request)), ["server_group.policy"]);
    }

    #[test]
    fn a_good_request_passes() {
        let mut request = volume(1, &[]);
        request.request_id = "r1".into();
        assert_eq!(select_backends(&request).unwrap().as_str(), "r1");
    }
}
