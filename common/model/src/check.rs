//! Checks what comes over the wire and names every wrong field at once.

use std::str::FromStr;

use kilonova_proto::types::v1 as pb;

use crate::error::{Error, FieldViolation};
use crate::ids::{
    FlavorId, HostName, ImageId, InstanceId, InvalidId, ProjectId, RequestId, ServerGroupId, SnapshotId,
    VolumeId, ZoneName,
};
use crate::numa_spec::{self, GuestCells};
use crate::pci;

/// Most instances one request may ask for.
pub const MAX_COUNT: u32 = 100;
/// Most alternates one request may ask for.
pub const MAX_ALTERNATES: u32 = 10;
/// Longest name of a resource, in characters.
pub const MAX_NAME: usize = 255;
/// Most instances or volumes one hint may name.
pub const MAX_NAMED: usize = 100;
/// Most entries of user metadata.
pub const MAX_METADATA: usize = 128;
/// Longest key or value of user metadata, in bytes.
pub const MAX_METADATA_TEXT: usize = 255;

/// Collects what is wrong with one request.
#[derive(Debug, Default)]
pub struct Checker {
    violations: Vec<FieldViolation>,
}

impl Checker {
    /// Nothing wrong yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes `description` against `field` unless `ok`.
    pub fn ensure(&mut self, ok: bool, field: &str, description: impl Into<String>) {
        if !ok {
            self.violations.push(FieldViolation { field: field.to_owned(), description: description.into() });
        }
    }

    /// Reads a required id or name.
    pub fn id<T: FromStr<Err = InvalidId>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() {
            self.ensure(false, field, "is required");
            return None;
        }
        match text.parse() {
            Ok(id) => Some(id),
            Err(error) => {
                self.ensure(false, field, error.to_string());
                None
            }
        }
    }

    /// Reads an id or name that may be left empty.
    pub fn optional_id<T: FromStr<Err = InvalidId>>(&mut self, field: &str, text: &str) -> Option<T> {
        if text.is_empty() { None } else { self.id(field, text) }
    }

    /// `Err` with every violation, if there was one.
    pub fn finish(self) -> Result<(), Error> {
        if self.violations.is_empty() { Ok(()) } else { Err(Error::invalid(self.violations)) }
    }
}

/// The parts of a mutation that every request has.
pub fn request(check: &mut Checker, request_id: &str, project_id: &str) {
    check.optional_id::<RequestId>("request_id", request_id);
    check.optional_id::<ProjectId>("project_id", project_id);
}

/// How many places are asked for, and how many further ones for each.
pub fn places(check: &mut Checker, count: u32, alternates: u32) {
    check.ensure(count <= MAX_COUNT, "count", format!("at most {MAX_COUNT}"));
    check.ensure(alternates <= MAX_ALTERNATES, "alternates", format!("at most {MAX_ALTERNATES}"));
}

/// A shown name: printable, not too long.
pub fn name(check: &mut Checker, field: &str, text: &str, required: bool) {
    check.ensure(!required || !text.trim().is_empty(), field, "is required");
    check.ensure(
        text.chars().count() <= MAX_NAME && !text.chars().any(char::is_control),
        field,
        format!("at most {MAX_NAME} printable characters"),
    );
}

/// A user's notes on a resource.
pub fn metadata<'a>(
    check: &mut Checker,
    field: &str,
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
) {
    let mut count = 0;
    for (key, value) in entries {
        count += 1;
        check.ensure(
            !key.is_empty() && key.len() <= MAX_METADATA_TEXT && value.len() <= MAX_METADATA_TEXT,
            &format!("{field}[{key:?}]"),
            format!("key and value at most {MAX_METADATA_TEXT} bytes, the key not empty"),
        );
    }
    check.ensure(count <= MAX_METADATA, field, format!("at most {MAX_METADATA} entries"));
}

/// What a user asks of an instance.
pub fn instance_spec(check: &mut Checker, path: &str, spec: &pb::InstanceSpec) {
    name(check, &format!("{path}.name"), &spec.name, true);
    instance_demands(check, path, spec);
    check.ensure(!spec.image_id.is_empty(), &format!("{path}.image_id"), "is required");
    metadata(check, &format!("{path}.metadata"), &spec.metadata);
}

/// What of an instance its place depends on: the rest of it, and the image, may be left out.
pub fn instance_demands(check: &mut Checker, path: &str, spec: &pb::InstanceSpec) {
    check.id::<FlavorId>(&format!("{path}.flavor_id"), &spec.flavor_id);
    check.optional_id::<ImageId>(&format!("{path}.image_id"), &spec.image_id);
    check.optional_id::<ZoneName>(&format!("{path}.availability_zone"), &spec.availability_zone);
    if let Some(hints) = &spec.hints {
        scheduler_hints(check, &format!("{path}.hints"), hints);
    }
}

/// A user's wishes for the scheduler, for an instance.
pub fn scheduler_hints(check: &mut Checker, path: &str, hints: &pb::SchedulerHints) {
    place_hints::<InstanceId>(check, path, hints);
    check.ensure(hints.same_host.len() <= 1, &format!("{path}.same_host"), "at most one instance");
    check.optional_id::<ServerGroupId>(&format!("{path}.server_group_id"), &hints.server_group_id);
    let volumes = "is of volumes, not of instances; same_host names an instance to be with";
    check.ensure(hints.local_to_instance.is_empty(), &format!("{path}.local_to_instance"), volumes);
}

/// A user's wishes for the scheduler, for a volume.
pub fn volume_hints(check: &mut Checker, path: &str, hints: &pb::SchedulerHints) {
    place_hints::<VolumeId>(check, path, hints);
    let groups = "is of instances, not of volumes";
    check.ensure(hints.server_group_id.is_empty(), &format!("{path}.server_group_id"), groups);
    check.optional_id::<InstanceId>(&format!("{path}.local_to_instance"), &hints.local_to_instance);
}

/// Wishes for places: by their names, and by what is there.
fn place_hints<T: FromStr<Err = InvalidId>>(check: &mut Checker, path: &str, hints: &pb::SchedulerHints) {
    check.optional_id::<HostName>(&format!("{path}.force_host"), &hints.force_host);
    let excluded = hints.exclude_hosts.len();
    check.ensure(excluded <= MAX_NAMED, &format!("{path}.exclude_hosts"), format!("at most {MAX_NAMED}"));
    for host in hints.exclude_hosts.iter().take(MAX_NAMED) {
        check.id::<HostName>(&format!("{path}.exclude_hosts"), host);
    }
    for (field, ids) in [("different_host", &hints.different_host), ("same_host", &hints.same_host)] {
        let field = format!("{path}.{field}");
        check.ensure(ids.len() <= MAX_NAMED, &field, format!("at most {MAX_NAMED}"));
        for id in ids.iter().take(MAX_NAMED) {
            check.id::<T>(&field, id);
        }
    }
}

/// A server group a user creates; its id and members are not the user's to say.
pub fn server_group(check: &mut Checker, path: &str, group: &pb::ServerGroup) {
    use pb::server_group::Policy;
    name(check, &format!("{path}.name"), &group.name, true);
    let policy = Policy::try_from(group.policy).unwrap_or_default();
    check.ensure(policy != Policy::Unspecified, &format!("{path}.policy"), "is required");
    let counts = matches!(policy, Policy::AntiAffinity | Policy::SoftAntiAffinity);
    check.ensure(
        counts || group.max_per_host == 0,
        &format!("{path}.max_per_host"),
        "only with anti-affinity, hard or soft",
    );
    let set = "is set by the service";
    check.ensure(group.id.is_empty(), &format!("{path}.id"), set);
    check.ensure(group.instance_ids.is_empty(), &format!("{path}.instance_ids"), set);
}

/// The size of a volume.
pub fn volume_size(check: &mut Checker, field: &str, size_gib: u32) {
    check.ensure((1..=1_048_576).contains(&size_gib), field, "1 to 1048576 GiB");
}

/// What a user asks of a volume.
pub fn volume_spec(check: &mut Checker, path: &str, spec: &pb::VolumeSpec) {
    name(check, &format!("{path}.name"), &spec.name, false);
    volume_size(check, &format!("{path}.size_gib"), spec.size_gib);
    check.optional_id::<ZoneName>(&format!("{path}.availability_zone"), &spec.availability_zone);
    metadata(check, &format!("{path}.metadata"), &spec.metadata);
    metadata(check, &format!("{path}.extra_specs"), &spec.extra_specs);
    check.optional_id::<SnapshotId>(&format!("{path}.snapshot_id"), &spec.snapshot_id);
    check.optional_id::<ImageId>(&format!("{path}.image_id"), &spec.image_id);
    if let Some(hints) = &spec.hints {
        volume_hints(check, &format!("{path}.hints"), hints);
    }
}

/// A flavor an operator creates.
pub fn flavor(check: &mut Checker, path: &str, flavor: &pb::Flavor) {
    check.id::<FlavorId>(&format!("{path}.id"), &flavor.id);
    name(check, &format!("{path}.name"), &flavor.name, false);
    check.ensure((1..=1024).contains(&flavor.vcpus), &format!("{path}.vcpus"), "1 to 1024");
    check.ensure((1..=16_777_216).contains(&flavor.ram_mib), &format!("{path}.ram_mib"), "1 to 16777216 MiB");
    check.ensure(flavor.disk_gib <= 1_048_576, &format!("{path}.disk_gib"), "at most 1048576 GiB");
    metadata(check, &format!("{path}.extra_specs"), &flavor.extra_specs);
    for (key, value) in &flavor.extra_specs {
        check.ensure(
            !key.starts_with("trait:") || matches!(value.as_str(), "required" | "forbidden"),
            &format!("{path}.extra_specs[{key:?}]"),
            "`required` or `forbidden`",
        );
    }
    topology(check, path, flavor);
}

/// The devices and cells that a flavor asks for; those that make no sense are noted and left out.
pub fn topology(check: &mut Checker, path: &str, flavor: &pb::Flavor) -> (pci::Devices, Option<GuestCells>) {
    let mut wrong =
        |key: &str, problem: String| check.ensure(false, &format!("{path}.extra_specs[{key:?}]"), problem);
    let devices = pci::requested(&flavor.extra_specs).unwrap_or_else(|problem| {
        wrong(pci::PCI_ALIAS, problem);
        pci::Devices::new()
    });
    let cells = numa_spec::requested(flavor).unwrap_or_else(|(key, problem)| {
        wrong(key, problem);
        None
    });
    (devices, cells)
}

/// What an administrator says that hosts can do.
pub fn traits(check: &mut Checker, path: &str, traits: &[String]) {
    check.ensure(traits.len() <= 64, path, "at most 64");
    let is_trait = |name: &str| {
        let known = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        (1..=255).contains(&name.len()) && name.chars().all(known)
    };
    for (n, name) in traits.iter().enumerate() {
        check.ensure(is_trait(name), &format!("{path}[{n}]"), "1 to 255 of A-Z, 0-9 and _");
    }
}

/// An image an operator describes.
pub fn image(check: &mut Checker, path: &str, image: &pb::Image) {
    check.id::<ImageId>(&format!("{path}.id"), &image.id);
    name(check, &format!("{path}.name"), &image.name, false);
    check.ensure(image.min_disk_gib <= 1_048_576, &format!("{path}.min_disk_gib"), "at most 1048576 GiB");
    check.ensure(image.min_ram_mib <= 16_777_216, &format!("{path}.min_ram_mib"), "at most 16777216 MiB");
    check.ensure(image.location.len() <= 1024, &format!("{path}.location"), "at most 1024 bytes");
    metadata(check, &format!("{path}.properties"), &image.properties);
}

/// What a project may use.
pub fn quota_limits(check: &mut Checker, path: &str, limits: &pb::QuotaLimits) {
    let fields = [
        ("instances", limits.instances),
        ("cores", limits.cores),
        ("ram_mib", limits.ram_mib),
        ("volumes", limits.volumes),
        ("gigabytes", limits.gigabytes),
        ("snapshots", limits.snapshots),
    ];
    for (field, limit) in fields {
        check.ensure(limit >= -1, &format!("{path}.{field}"), "0 or more, or -1 for no limit");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_named() {
        let spec = pb::InstanceSpec { flavor_id: "no/slash".into(), ..Default::default() };
        let mut check = Checker::new();
        instance_spec(&mut check, "instance", &spec);
        let error = check.finish().unwrap_err();
        let fields: Vec<&str> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["instance.name", "instance.flavor_id", "instance.image_id"]);
    }

    #[test]
    fn a_server_group_needs_a_rule_and_counts_only_where_it_spreads() {
        use pb::server_group::Policy;
        let violations = |policy: i32, max_per_host| {
            let group = pb::ServerGroup { name: "g".into(), policy, max_per_host, ..Default::default() };
            let mut check = Checker::new();
            server_group(&mut check, "g", &group);
            let violations = check.finish().err().map(|error| error.violations).unwrap_or_default();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        for policy in [Policy::AntiAffinity, Policy::SoftAntiAffinity] {
            assert!(violations(policy.into(), 3).is_empty());
        }
        for policy in [Policy::Affinity, Policy::SoftAffinity] {
            assert!(violations(policy.into(), 0).is_empty());
            assert_eq!(violations(policy.into(), 1), ["g.max_per_host"]);
        }
        assert_eq!(violations(0, 0), ["g.policy"]);
        assert_eq!(violations(99, 0), ["g.policy"]);
    }

    #[test]
    fn hints_name_what_they_are_for() {
        let (instance, volume) = (InstanceId::generate().to_string(), VolumeId::generate().to_string());
        let hints = pb::SchedulerHints {
            different_host: vec![volume.clone(), "no id".into()],
            same_host: vec![volume.clone(), volume],
            server_group_id: "no id".into(),
            local_to_instance: instance,
            ..Default::default()
        };
        let wrong = |of: fn(&mut Checker, &str, &pb::SchedulerHints), hints| {
            let mut check = Checker::new();
            of(&mut check, "hints", hints);
            let violations = check.finish().unwrap_err().violations;
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(wrong(volume_hints, &hints), ["hints.different_host", "hints.server_group_id"]);
        assert_eq!(
            wrong(scheduler_hints, &hints),
            ["hints.different_host", "hints.same_host", "hints.server_group_id", "hints.local_to_instance"]
        );
        let same_host = vec![VolumeId::generate().to_string(); MAX_NAMED + 1];
        let hints = pb::SchedulerHints { same_host, ..Default::default() };
        assert_eq!(wrong(volume_hints, &hints), ["hints.same_host"]);
    }

    #[test]
    fn a_good_request_passes() {
        let spec = pb::VolumeSpec { size_gib: 1, ..Default::default() };
        let mut check = Checker::new();
        volume_spec(&mut check, "volume", &spec);
        assert_eq!(check.finish(), Ok(()));
    }
}
