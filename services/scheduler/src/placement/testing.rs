//! Worlds for tests.

use kilonova_proto::scheduler::v1::{GroupHost, GroupHosts, SelectBackendsRequest, SelectHostsRequest};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{
    Capabilities, ComputeResources, Flavor, HostAggregate, NumaCell, PciPool, SchedulerHints, StoragePool,
    VolumeResources, VolumeSpec,
};

use super::{AggregatesId, ComputeRow, Head, HostId, PoolRow, World};

pub fn resources() -> ComputeResources {
    ComputeResources {
        vcpus: 16,
        ram_mib: 65_536,
        disk_gib: 500,
        cpu_architecture: "x86_64".into(),
        ..ComputeResources::default()
    }
}

pub fn numa_cell(id: u32, cpus: u32, memory_mib: u32) -> NumaCell {
    NumaCell { id, cpus, memory_mib, ..NumaCell::default() }
}

pub fn pci_pool(alias: &str, total: u32, used: u32) -> PciPool {
    PciPool { alias: alias.into(), total, used }
}

pub fn pool(name: &str) -> StoragePool {
    StoragePool { name: name.into(), total_gib: 1000, free_gib: 1000, ..StoragePool::default() }
}

fn head<R: super::Row>(world: &mut World<R>, name: &str, zone: &str) -> Head {
    let host = world.add(name);
    let zone = world.vocabulary_mut().intern(zone);
    let aggregates = AggregatesId::default();
    Head { host, zone, aggregates, up: true, enabled: true, quarantined: false }
}

pub fn host(world: &mut World<ComputeRow>, name: &str, resources: ComputeResources) -> HostId {
    host_with(world, name, "az1", &[], resources)
}

pub fn host_with(
    world: &mut World<ComputeRow>,
    name: &str,
    zone: &str,
    traits: &[&str],
    resources: ComputeResources,
) -> HostId {
    let capabilities = Capabilities {
        host: name.into(),
        traits: traits.iter().map(|name| (*name).to_owned()).collect(),
        resources: Some(Resources::Compute(resources)),
        ..Capabilities::default()
    };
    let head = head(world, name, zone);
    let row = ComputeRow::new(head, &capabilities, world.vocabulary_mut());
    world.set_rows(head.host, vec![row]);
    head.host
}

/// A host in aggregates of these ids, with this metadata.
pub fn host_in(world: &mut World<ComputeRow>, name: &str, aggregates: &[(&str, &[(&str, &str)])]) -> HostId {
    let id = host(world, name, resources());
    let published: Vec<HostAggregate> = aggregates
        .iter()
        .map(|(id, entries)| HostAggregate {
            id: (*id).to_owned(),
            metadata: entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        })
        .collect();
    let set = world.vocabulary_mut().intern_aggregates(&published);
    world.update_rows(id, |row| row.head.aggregates = set);
    id
}

pub fn backend(world: &mut World<PoolRow>, name: &str, pools: &[StoragePool]) -> HostId {
    let head = head(world, name, "az1");
    let resources = VolumeResources { storage_protocol: "nbd".into(), ..VolumeResources::default() };
    let rows = pools.iter().map(|pool| PoolRow::new(head, name, &resources, pool)).collect();
    world.set_rows(head.host, rows);
    head.host
}

pub fn instance(vcpus: u32, ram_mib: u32, disk_gib: u32) -> SelectHostsRequest {
    let flavor = Flavor { vcpus, ram_mib, disk_gib, ..Flavor::default() };
    SelectHostsRequest { flavor: Some(flavor), ..SelectHostsRequest::default() }
}

pub fn group(policy: Policy, max_per_host: u32, hosts: &[(&str, u32)]) -> GroupHosts {
    let host = |(host, members): &(&str, u32)| GroupHost { host: (*host).to_owned(), members: *members };
    GroupHosts { policy: policy.into(), max_per_host, hosts: hosts.iter().map(host).collect() }
}

pub fn volume(size_gib: u32, extra_specs: &[(&str, &str)]) -> SelectBackendsRequest {
    let extra_specs =
        extra_specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let volume = VolumeSpec { size_gib, extra_specs, ..VolumeSpec::default() };
    SelectBackendsRequest { volume: Some(volume), ..SelectBackendsRequest::default() }
}

pub fn hinted(hints: SchedulerHints) -> SelectBackendsRequest {
    let volume = VolumeSpec { size_gib: 1, hints: Some(hints), ..VolumeSpec::default() };
    SelectBackendsRequest { volume: Some(volume), ..SelectBackendsRequest::default() }
}

pub fn with_ram_used(resources: ComputeResources, ram_used_mib: u32) -> ComputeResources {
    ComputeResources { ram_used_mib, ..resources }
}
