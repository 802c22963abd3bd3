//! The hosts, and what is asked of them.

use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::{ComputeResources, Flavor, HostAggregate};
use kilonova_tests::placement::Host;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ZONES: u32 = 8;
/// Each host is in one that says what its disks are, and in one of the others.
const AGGREGATES: u32 = 20;
/// How many kinds of disk there are.
const KINDS: u32 = 4;
/// Of a hundred requests: how many, with how many CPUs and MiB.
const FLAVORS: [(u32, u32, u32); 5] =
    [(45, 1, 2_048), (25, 2, 4_096), (15, 4, 16_384), (10, 8, 32_768), (5, 16, 65_536)];

/// So many hosts, 70 % full, no two alike.
pub fn hosts(count: u32) -> Vec<Host> {
    let mut rng = StdRng::seed_from_u64(7);
    let host = |n| {
        let part: f64 = rng.random_range(0.4..1.0);
        let (ram_mib, vcpus, disk_gib) = (262_144, 64, 4_000);
        let share = |total: u32, of: f64| (f64::from(total) * of) as u32;
        Host {
            name: format!("compute-{n:06}"),
            zone: format!("zone-{}", n % ZONES),
            aggregates: vec![aggregate(n / ZONES % KINDS), aggregate(KINDS + n % (AGGREGATES - KINDS))],
            traits: vec!["HW_CPU_X86_AVX2".to_owned(), "COMPUTE_NODE".to_owned()],
            up: true,
            enabled: true,
            figures: ComputeResources {
                vcpus,
                vcpus_used: share(vcpus * 4, part * rng.random_range(0.3..0.9)),
                cpu_allocation_ratio: 4.0,
                ram_mib,
                ram_used_mib: share(ram_mib, part) / 512 * 512,
                ram_reserved_mib: 512,
                ram_allocation_ratio: 1.0,
                disk_gib,
                disk_used_gib: share(disk_gib, part * rng.random_range(0.5..1.0)),
                disk_allocation_ratio: 1.0,
                instances: rng.random_range(5..60),
                io_ops: rng.random_range(0..4),
                cpu_architecture: "x86_64".to_owned(),
                hypervisor_type: "QEMU".to_owned(),
                ..ComputeResources::default()
            },
        }
    };
    (0..count).map(host).collect()
}

/// One aggregate. One of them is for one project, and one has hosts that are packed.
fn aggregate(n: u32) -> HostAggregate {
    let entry = match n {
        0..KINDS => ("disk", format!("kind-{n}")),
        KINDS => ("filter_tenant_id", "project-0".to_owned()),
        5 => ("ram_weight_multiplier", "-1.0".to_owned()),
        _ => ("rack", n.to_string()),
    };
    HostAggregate { id: format!("aggregate-{n}"), metadata: [(entry.0.to_owned(), entry.1)].into() }
}

/// So many requests; of three one asks for a zone, and of the others one in five for a kind of disk.
pub fn requests(count: usize) -> Vec<SelectHostsRequest> {
    let mut rng = StdRng::seed_from_u64(11);
    let request = |_| {
        let mut drawn = rng.random_range(0..100);
        let flavor = FLAVORS.iter().find(|(part, _, _)| {
            let is_it = drawn < *part;
            drawn = drawn.saturating_sub(*part);
            is_it
        });
        let (_, vcpus, ram_mib) = *flavor.unwrap_or(&FLAVORS[0]);
        let zone = rng.random_range(0..ZONES * 3);
        let kind = rng.random_range(if zone < ZONES { KINDS } else { 0 }..KINDS * 5);
        let spec = ("aggregate_instance_extra_specs:disk".to_owned(), format!("kind-{kind}"));
        let extra_specs = (kind < KINDS).then_some(spec).into_iter().collect();
        SelectHostsRequest {
            flavor: Some(Flavor { vcpus, ram_mib, disk_gib: 20, extra_specs, ..Flavor::default() }),
            project_id: format!("project-{}", rng.random_range(0..20)),
            availability_zone: if zone < ZONES { format!("zone-{zone}") } else { String::new() },
            ..SelectHostsRequest::default()
        }
    };
    (0..count).map(request).collect()
}
