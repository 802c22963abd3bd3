//! The key layout: the one place where keys are made and parsed.
//!
//! ```text
//! kilonova/v1/<cell>/endpoints/<service>/<host>      discovery, leased; nothing else lies under endpoints/
//!                    shards/<n>                      ownership, leased; four digits, so that keys sort
//!                    owners/<conductor>              who shares the shards, leased
//!                    aggregates/<id> flavors/<id> images/<id> instances/<id> volumes/<id> snapshots/<id> server_groups/<id>
//!                    hosts/<service>/<host>          what the conductors know of an agent
//!                    fences/<service>/<host>         hosts that are off by an operator's word
//!                    quotas/<project> usage/<project>
//!                    requests/<project>/<request-id> idempotency
//!                    ages                            how long ago the store was at some revisions
//!                    store                           which store this is
//!                    marks/<n>                       by what an earlier copy of the store is known
//! ```

use kilonova_model::{
    AggregateId, CellName, FlavorId, HostName, ImageId, InstanceId, ProjectId, RequestId, ServerGroupId,
    ServiceKind, SnapshotId, VolumeId,
};

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A member of a service.
    Endpoint(ServiceKind, HostName),
    /// The owner of a shard.
    Shard(u16),
    /// A conductor that takes part in sharing out the shards.
    Owner(HostName),
    /// An aggregate of compute hosts.
    Aggregate(AggregateId),
    /// A flavor.
    Flavor(FlavorId),
    /// An image.
    Image(ImageId),
    /// An instance.
    Instance(InstanceId),
    /// A volume.
    Volume(VolumeId),
    /// A snapshot of a volume.
    Snapshot(SnapshotId),
    /// A server group.
    ServerGroup(ServerGroupId),
    /// A registered agent.
    Host(ServiceKind, HostName),
    /// An operator's word that a host is off.
    Fence(ServiceKind, HostName),
    /// Which store this is.
    Store,
    /// A mark of the store, by its number.
    Mark(u64),
    /// The limits of a project.
    Quota(ProjectId),
    /// What a project uses.
    Usage(ProjectId),
    /// A request already accepted.
    Request(ProjectId, RequestId),
    /// The ages of some of the store's revisions.
    Ages,
}

/// Makes and parses the keys of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

macro_rules! record {
    ($one:ident, $all:ident, $dir:literal, $id:ty, $noun:literal) => {
        #[doc = concat!("The key of one ", $noun, ".")]
        #[must_use]
        pub fn $one(&self, id: $id) -> String {
            format!("{}{}/{}", self.root, $dir, id)
        }

        #[doc = concat!("The prefix of every ", $noun, ".")]
        #[must_use]
        pub fn $all(&self) -> String {
            format!("{}{}/", self.root, $dir)
        }
    };
}

impl Keys {
    /// The keys of this cell.
    #[must_use]
    pub fn new(cell: &CellName) -> Self {
        Self { root: format!("kilonova/v1/{cell}/") }
    }

    /// The prefix of all keys of the cell.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    record!(aggregate, aggregates, "aggregates", &AggregateId, "aggregate");
    record!(flavor, flavors, "flavors", &FlavorId, "flavor");
    record!(image, images, "images", &ImageId, "image");
    record!(instance, instances, "instances", InstanceId, "instance");
    record!(volume, volumes, "volumes", VolumeId, "volume");
    record!(snapshot, snapshots, "snapshots", SnapshotId, "snapshot");
    record!(server_group, server_groups, "server_groups", ServerGroupId, "server group");
    record!(quota, quotas, "quotas", &ProjectId, "project's quota");
    record!(usage, usages, "usage", &ProjectId, "project's usage");

    /// The key of one member of a service.
    #[must_use]
    pub fn endpoint(&self, service: ServiceKind, host: &HostName) -> String {
        format!("{}endpoints/{service}/{host}", self.root)
    }

    /// The prefix of every member of a service.
    #[must_use]
    pub fn endpoints(&self, service: ServiceKind) -> String {
        format!("{}endpoints/{service}/", self.root)
    }

    /// The prefix of every member of every service.
    #[must_use]
    pub fn all_endpoints(&self) -> String {
        format!("{}endpoints/", self.root)
    }

    /// The key of the owner of a shard.
    #[must_use]
    pub fn shard(&self, shard: u16) -> String {
        format!("{}shards/{shard:04}", self.root)
    }

    /// The prefix of every shard's owner.
    #[must_use]
    pub fn shards(&self) -> String {
        format!("{}shards/", self.root)
    }

    /// The key by which one conductor takes part in sharing out the shards.
    #[must_use]
    pub fn owner(&self, conductor: &HostName) -> String {
        format!("{}owners/{conductor}", self.root)
    }

    /// The prefix of every conductor that takes part in sharing out the shards.
    #[must_use]
    pub fn owners(&self) -> String {
        format!("{}owners/", self.root)
    }

    /// The key of one registered agent.
    #[must_use]
    pub fn host(&self, service: ServiceKind, host: &HostName) -> String {
        format!("{}hosts/{service}/{host}", self.root)
    }

    /// The prefix of every registered agent of a service.
    #[must_use]
    pub fn hosts(&self, service: ServiceKind) -> String {
        format!("{}hosts/{service}/", self.root)
    }

    /// The prefix of every registered agent.
    #[must_use]
    pub fn all_hosts(&self) -> String {
        format!("{}hosts/", self.root)
    }

    /// The key of one accepted request.
    #[must_use]
    pub fn request(&self, project: &ProjectId, request: &RequestId) -> String {
        format!("{}requests/{project}/{request}", self.root)
    }

    /// The prefix of every accepted request of a project.
    #[must_use]
    pub fn requests(&self, project: &ProjectId) -> String {
        format!("{}requests/{project}/", self.root)
    }

    /// The prefix of every accepted request.
    #[must_use]
    pub fn all_requests(&self) -> String {
        format!("{}requests/", self.root)
    }

    /// The key of how long ago the store was at some of its revisions.
    #[must_use]
    pub fn ages(&self) -> String {
        format!("{}ages", self.root)
    }

    /// The key of an operator's word that a host is off.
    #[must_use]
    pub fn fence(&self, service: ServiceKind, host: &HostName) -> String {
        format!("{}fences/{service}/{host}", self.root)
    }

    /// The prefix of every such word.
    #[must_use]
    pub fn fences(&self) -> String {
        format!("{}fences/", self.root)
    }

    /// The key of the store's own identity.
    #[must_use]
    pub fn store_identity(&self) -> String {
        format!("{}store", self.root)
    }

    /// The key of a mark of the store, by its number.
    #[must_use]
    pub fn mark(&self, number: u64) -> String {
        format!("{}marks/{number:012}", self.root)
    }

    /// The prefix of every mark of the store, oldest first.
    #[must_use]
    pub fn marks(&self) -> String {
        format!("{}marks/", self.root)
    }

    /// What a key stands for; none for a key of another cell or of no known form.
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<Key> {
        let rest = key.strip_prefix(&self.root)?;
        match rest {
            "store" => return Some(Key::Store),
            "ages" => return Some(Key::Ages),
            _ => {}
        }
        let mut parts = rest.split('/');
        let parsed = match (parts.next()?, parts.next()?) {
            ("endpoints", service) => Key::Endpoint(service.parse().ok()?, parts.next()?.parse().ok()?),
            ("shards", shard) if shard.len() == 4 => Key::Shard(shard.parse().ok()?),
            ("owners", conductor) => Key::Owner(conductor.parse().ok()?),
            ("aggregates", id) => Key::Aggregate(id.parse().ok()?),
            ("flavors", id) => Key::Flavor(id.parse().ok()?),
            ("images", id) => Key::Image(id.parse().ok()?),
            ("instances", id) => Key::Instance(id.parse().ok()?),
            ("volumes", id) => Key::Volume(id.parse().ok()?),
            ("snapshots", id) => Key::Snapshot(id.parse().ok()?),
            ("server_groups", id) => Key::ServerGroup(id.parse().ok()?),
            ("hosts", service) => Key::Host(service.parse().ok()?, parts.next()?.parse().ok()?),
            ("fences", service) => Key::Fence(service.parse().ok()?, parts.next()?.parse().ok()?),
            ("quotas", project) => Key::Quota(project.parse().ok()?),
            ("usage", project) => Key::Usage(project.parse().ok()?),
            ("marks", number) if number.len() == 12 => Key::Mark(number.parse().ok()?),
            ("requests", project) => Key::Request(project.parse().ok()?, parts.next()?.parse().ok()?),
            _ => return None,
        };
        parts.next().is_none().then_some(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_parses_back_and_lies_under_its_prefix() {
        let keys = Keys::new(&CellName::parse("c1").unwrap());
        let host = HostName::parse("h1@lvm").unwrap();
        let (project, request) = (ProjectId::parse("p").unwrap(), RequestId::parse("r-1").unwrap());
        let (flavor, image) = (FlavorId::parse("m1.small").unwrap(), ImageId::parse("cirros").unwrap());
        let (instance, volume) = (InstanceId::generate(), VolumeId::generate());
        let aggregate = AggregateId::parse("ssd").unwrap();
        let (snapshot, group) = (SnapshotId::generate(), ServerGroupId::generate());
        let compute = ServiceKind::Compute;
        let cases = [
            (keys.endpoint(compute, &host), keys.endpoints(compute), Key::Endpoint(compute, host.clone())),
            (keys.shard(7), keys.shards(), Key::Shard(7)),
            (keys.store_identity(), keys.store_identity(), Key::Store),
            (keys.ages(), keys.ages(), Key::Ages),
            (keys.mark(17), keys.marks(), Key::Mark(17)),
            (keys.owner(&host), keys.owners(), Key::Owner(host.clone())),
            (keys.aggregate(&aggregate), keys.aggregates(), Key::Aggregate(aggregate)),
            (keys.flavor(&flavor), keys.flavors(), Key::Flavor(flavor)),
            (keys.image(&image), keys.images(), Key::Image(image)),
            (keys.instance(instance), keys.instances(), Key::Instance(instance)),
            (keys.volume(volume), keys.volumes(), Key::Volume(volume)),
            (keys.snapshot(snapshot), keys.snapshots(), Key::Snapshot(snapshot)),
            (keys.server_group(group), keys.server_groups(), Key::ServerGroup(group)),
            (keys.host(compute, &host), keys.hosts(compute), Key::Host(compute, host.clone())),
            (keys.fence(compute, &host), keys.fences(), Key::Fence(compute, host.clone())),
            (keys.quota(&project), keys.quotas(), Key::Quota(project.clone())),
            (keys.usage(&project), keys.usages(), Key::Usage(project.clone())),
            (keys.request(&project, &request), keys.requests(&project), Key::Request(project, request)),
        ];
        for (key, prefix, expected) in cases {
            assert!(key.starts_with(&prefix) && key.starts_with(keys.root()), "{key} {prefix}");
            assert_eq!(keys.parse(&key), Some(expected), "{key}");
            assert_eq!(keys.parse(&format!("{key}/x")), None, "{key}/x");
        }
        assert_eq!(keys.endpoint(compute, &host), "kilonova/v1/c1/endpoints/compute/h1@lvm");
    }

    #[test]
    fn foreign_keys_are_not_parsed() {
        let keys = Keys::new(&CellName::parse("c1").unwrap());
        let foreign = [
            "kilonova/v1/c2/shards/0001",
            "kilonova/v1/c1/shards/1",
            "kilonova/v1/c1/else/1",
            "kilonova/v1/c1/",
        ];
        for key in foreign {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }
}
