//! Whatever is chosen is what a plain implementation, written from the rules alone, would have chosen.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use kilonova_proto::scheduler::v1::{GroupHost, GroupHosts, SelectHostsRequest};
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{
    ComputeResources, Flavor, HostAggregate, Image, NumaCell, PciPool, SchedulerHints,
};
use kilonova_scheduler::config::HostsConfig;
use kilonova_scheduler::placement::{ComputeDemand, Pick, Scan, Wanted, select};
use kilonova_tests::placement::rules::Rules;
use kilonova_tests::placement::{Host, Plain, world_of};
use proptest::prelude::*;

const ZONES: [&str; 2] = ["az1", "az2"];
const TRAITS: [&str; 3] = ["HW_A", "HW_B", "HW_C"];
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];
const HYPERVISORS: [&str; 2] = ["QEMU", "simulated"];
const VERSIONS: [&str; 3] = ["", "6", "10"];
const MACHINES: [&str; 2] = ["pc", "q35"];
const IMAGES: [&str; 2] = ["cirros", "debian"];
const KINDS: [&str; 2] = ["nvme", "hdd"];
const PROJECTS: [&str; 3] = ["p1", "p2", "p3"];
const AGGREGATES: [&[(&str, &str)]; 8] = [
    &[("disk", "nvme")],
    &[("disk", "hdd"), ("ram_weight_multiplier", "-1")],
    &[("filter_tenant_id", "p1,p2")],
    &[
        ("filter_tenant_id_2", "p2"),
        ("max_instances_per_host", "2"),
        ("num_instances_weight_multiplier", "-2"),
    ],
    &[("trait:HW_A", "required")],
    &[("hw_architecture", "x86_64"), ("cpu_weight_multiplier", "0.5")],
    &[("ram_weight_multiplier", "2"), ("disk", "nvme"), ("pci_weight_multiplier", "-1")],
    &[("image_cached_weight_multiplier", "1.5"), ("zone_spread_weight_multiplier", "0.75")],
];
const CELLS: [&[(&str, &str)]; 4] = [
    &[("hw:numa_nodes", "1")],
    &[("hw:cpu_policy", "dedicated")],
    &[("hw:numa_nodes", "2"), ("hw:cpu_policy", "dedicated")],
    &[("hw:numa_nodes", "2")],
];
const ALIASES: [&str; 4] = ["gpu:1", "gpu:2", "nic:1", "gpu:1,nic:2"];
const PROPERTIES: [(&str, &str); 6] = [
    ("hw_architecture", "x86_64"),
    ("hw_architecture", "aarch64"),
    ("img_hv_type", "qemu"),
    ("hw_machine_type", "q35"),
    ("img_hv_requested_version", ">=6"),
    ("img_hv_requested_version", ">=7"),
];

fn instance(vcpus: u32, ram_mib: u32, disk_gib: u32) -> SelectHostsRequest {
    let flavor = Flavor { vcpus, ram_mib, disk_gib, ..Flavor::default() };
    SelectHostsRequest { flavor: Some(flavor), ..SelectHostsRequest::default() }
}

fn group(policy: Policy, max_per_host: u32, hosts: Vec<(String, u32)>) -> GroupHosts {
    let hosts = hosts.into_iter().map(|(host, members)| GroupHost { host, members }).collect();
    GroupHosts { policy: policy.into(), max_per_host, hosts }
}

fn aggregate(n: usize) -> HostAggregate {
    let entry = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    HostAggregate { id: format!("a{n}"), metadata: AGGREGATES[n].iter().map(entry).collect() }
}

/// Cells of a host; with them, more is used of its CPUs than is pinned.
fn any_cells() -> impl Strategy<Value = Vec<NumaCell>> {
    proptest::collection::vec((0_u32..6, 0_u32..3, 0_u32..4, 0_u32..8, 0_u32..3), 0..4).prop_map(|cells| {
        let cells = cells.into_iter().zip(0..).map(|((cpus, pinned, shared, memory, used), id)| NumaCell {
            id,
            cpus,
            cpus_pinned: pinned.min(cpus),
            vcpus_shared: shared,
            memory_mib: memory * 512,
            memory_used_mib: used * 256,
            ..NumaCell::default()
        });
        cells.collect()
    })
}

fn any_host() -> impl Strategy<Value = Host> {
    let figures =
        (0_u32..8, 0_u32..16, 0_u32..16, 0_u32..20, 0_u32..3, 0_u32..40, 0_u32..30, 0_u32..4, 0_u32..3);
    let ratios = (0_usize..3, 0_usize..3, 0_usize..2);
    let software = (0_usize..3, 0_usize..2, 0_usize..3, 0_usize..3, 0_u32..5);
    let aggregates = proptest::sample::subsequence((0..AGGREGATES.len()).collect::<Vec<_>>(), 0..=2);
    (
        0_usize..2,
        proptest::sample::subsequence(TRAITS.to_vec(), 0..=3),
        0_u8..10,
        0_u8..10,
        figures,
        (
            ratios,
            software,
            aggregates,
            proptest::collection::btree_map(0_usize..2, (0_u32..6, 0_u32..4), 0..3),
            any_cells(),
        ),
    )
        .prop_map(
            |(zone, traits, up, enabled, figures, (ratios, software, aggregates, pools, numa_cells))| {
                let (version, hypervisor, machine, kind, instances) = software;
                let (vcpus, vcpus_used, ram, ram_used, reserved, disk, disk_used, io_ops, failed) = figures;
                Host {
                    name: String::new(),
                    zone: ZONES[zone].to_owned(),
                    aggregates: aggregates.into_iter().map(aggregate).collect(),
                    traits: traits.into_iter().map(str::to_owned).collect(),
                    up: up > 0,
                    enabled: enabled > 0,
                    figures: ComputeResources {
                        vcpus,
                        // A host counts those that have threads of their own too.
                        vcpus_used: vcpus_used.max(numa_cells.iter().map(|cell| cell.cpus_pinned).sum()),
                        cpu_allocation_ratio: [0.0, 1.0, 2.5][ratios.0],
                        ram_mib: ram * 512,
                        ram_used_mib: ram_used * 512,
                        ram_reserved_mib: reserved * 256,
                        ram_allocation_ratio: [0.0, 1.0, 1.5][ratios.1],
                        disk_gib: disk,
                        disk_used_gib: disk_used,
                        io_ops,
                        failed_builds: failed.saturating_sub(1),
                        cpu_architecture: ARCHITECTURES[ratios.2].into(),
                        hypervisor_type: HYPERVISORS[hypervisor].into(),
                        hypervisor_version: VERSIONS[version].into(),
                        machine_types: MACHINES[..machine].iter().map(|name| (*name).to_owned()).collect(),
                        capabilities: KINDS
                            .get(kind)
                            .map(|kind| ("disk".to_owned(), (*kind).to_owned()))
                            .into_iter()
                            .collect(),
                        cached_images: IMAGES[..instances as usize % 3]
                            .iter()
                            .map(|id| (*id).to_owned())
                            .collect(),
                        instances,
                        numa_cells,
                        pci_pools: pools
                            .into_iter()
                            .map(|(n, (total, used))| PciPool {
                                alias: ["gpu", "nic"][n].into(),
                                total,
                                used,
                            })
                            .collect(),
                        ..ComputeResources::default()
                    },
                }
            },
        )
}

fn any_request() -> impl Strategy<Value = SelectHostsRequest> {
    let sizes = (1_u32..4, 1_u32..6, 0_u32..8);
    let wishes =
        (0_usize..6, 0_usize..12, proptest::collection::vec(0_usize..30, 0..3), 0_usize..40, 0_usize..12);
    (sizes, wishes, 0_usize..12, 0_usize..8).prop_map(|((vcpus, ram, disk), wishes, alias, cells)| {
        let (zone, wanted_trait, excluded, forced, property) = wishes;
        let mut request = instance(vcpus, ram * 512, disk);
        request.availability_zone = ZONES.get(zone).copied().unwrap_or_default().into();
        let name = |n: usize| format!("c{n}");
        request.excluded_hosts = excluded.iter().copied().map(name).collect();
        let force_host = if forced < 8 { name(forced) } else { String::new() };
        request.hints = Some(SchedulerHints { force_host, ..SchedulerHints::default() });
        let value = if wanted_trait % 2 == 0 { "required" } else { "forbidden" };
        if let Some(name) = TRAITS.get(wanted_trait / 2) {
            let flavor = request.flavor.as_mut().unwrap();
            flavor.extra_specs.insert(format!("trait:{name}"), value.into());
        }
        if let Some((name, text)) = PROPERTIES.get(property) {
            let properties = [((*name).to_owned(), (*text).to_owned())].into();
            let id = IMAGES[zone % 2].to_owned();
            request.image = Some(Image { id, properties, ..Image::default() });
        }
        if let Some(cells) = CELLS.get(cells) {
            let flavor = request.flavor.as_mut().unwrap();
            // So that both cells get as many.
            flavor.vcpus = flavor.vcpus.next_multiple_of(2);
            flavor.extra_specs.extend(cells.iter().map(|(key, value)| ((*key).into(), (*value).into())));
        }
        if let Some(alias) = ALIASES.get(alias) {
            let flavor = request.flavor.as_mut().unwrap();
            flavor.extra_specs.insert("pci_passthrough:alias".to_owned(), (*alias).to_owned());
        }
        if let Some(kind) = KINDS.get(property / 4) {
            let flavor = request.flavor.as_mut().unwrap();
            let scope = ["", "aggregate_instance_extra_specs:"][property % 2];
            flavor.extra_specs.insert(format!("{scope}disk"), (*kind).to_owned());
        }
        request.project_id = PROJECTS[zone % 3].to_owned();
        request
    })
}

fn any_group() -> impl Strategy<Value = Option<GroupHosts>> {
    let policies = [Policy::Affinity, Policy::AntiAffinity, Policy::SoftAffinity, Policy::SoftAntiAffinity];
    let hosts = proptest::collection::btree_map(0_usize..30, 1_u32..4, 0..6);
    (0_usize..6, 0_u32..4, hosts).prop_map(move |(policy, max_per_host, hosts)| {
        let hosts: Vec<(String, u32)> =
            hosts.into_iter().map(|(n, members)| (format!("c{n}"), members)).collect();
        policies.get(policy).map(|policy| group(*policy, max_per_host, hosts))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn agrees_with_the_plain_reference(
        mut hosts in proptest::collection::vec(any_host(), 0..30),
        mut request in any_request(),
        server_group in any_group(),
        count in 1_usize..5,
        alternates in 0_usize..4,
        most in proptest::option::of((1_u32..6, 1_u32..6)),
        seed: u64,
    ) {
        for (n, host) in hosts.iter_mut().enumerate() {
            host.name = format!("c{n}");
        }
        let mut world = world_of(&hosts);
        let count = if server_group.is_some() { 1 } else { count };
        request.server_group = server_group;
        let demand = ComputeDemand::new(&request, &world);
        let wanted = Wanted { count, alternates };
        let mut config = HostsConfig::default();
        if let Some((instances, io_ops)) = most {
            (config.max_instances_per_host, config.max_io_ops_per_host) = (instances, io_ops);
            config.filters.extend(["NumInstancesFilter", "IoOpsFilter"].map(str::to_owned));
        }
        let chain = config.chain().unwrap();
        let mut scan = Scan::default();
        let decision = select(&mut world, &chain, &demand, wanted, seed, &mut scan);

        let removed: u32 = decision.explanation.filters.iter().map(|filter| filter.removed).sum();
        prop_assert_eq!(removed + decision.explanation.remaining, decision.explanation.considered);
        prop_assert!(world.rows().iter().all(|row| row.held_instances == 0 && row.ram.held == 0));
        prop_assert_eq!(&decision, &select(&mut world, &chain, &demand, wanted, seed, &mut scan));
        let name = |pick: &Pick| world.name(pick.host).to_owned();
        Plain { request: &request, hosts, most }.verify(&decision, wanted, name);
    }
}
