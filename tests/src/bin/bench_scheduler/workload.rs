//! The hosts, and what is asked of them.

use kilonova_proto::scheduler::v1::SelectHostsRequest;
use kilonova_proto::types::v1::{ComputeResources, Flavor};
use kilonova_tests::placement::Host;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ZONES: u32 = 8;
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

/// So many requests; a third asks for a zone.
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
        SelectHostsRequest {
            flavor: Some(Flavor { vcpus, ram_mib, disk_gib: 20, ..Flavor::default() }),
            availability_zone: if zone < ZONES { format!("zone-{zone}") } else { String::new() },
            ..SelectHostsRequest::default()
        }
    };
    (0..count).map(request).collect()
}
