//! Wherever a volume goes is where a plain implementation, written from the rules alone, would have put it.

use kilonova_proto::scheduler::v1::SelectBackendsRequest;
use kilonova_proto::types::v1::{SchedulerHints, StoragePool, VolumeSpec};
use kilonova_scheduler::config::{BackendMultipliers, BackendsConfig};
use kilonova_scheduler::placement::{Pick, Scan, StorageDemand, Wanted, select};
use kilonova_tests::placement::rules::Rules;
use kilonova_tests::placement::storage::{Backend, Plain, world_of};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select as any_of;

const ZONES: [&str; 2] = ["az1", "az2"];
const MEDIA: [&str; 2] = ["ssd", "hdd"];
/// What is asked for in words; the first few of them ask for nothing.
const EXTRA_SPECS: [Option<(&str, &str)>; 8] = [
    None,
    None,
    None,
    Some(("media", "ssd")),
    Some(("media", "hdd")),
    Some(("pool_name", "p0")),
    Some(("thin_provisioning_support", "<is> True")),
    Some(("thin_provisioning_support", "<is> False")),
];

/// Two backends to a host, so that a host has some.
fn name(n: usize) -> String {
    format!("n{}@b{n}", n / 2)
}

/// Few figures, so that many are equal.
fn any_pool() -> impl Strategy<Value = StoragePool> {
    let figures = (0_u32..4, 0_u32..4, 0_u32..6, 0_u32..3, 0_u32..3);
    let kind = (any::<bool>(), any_of(vec![0.0, 0.5, 1.0, 1.5, 3.0]), any_of(vec![0, 7, 10, 29, 100]));
    (figures, kind, option::of(any_of(MEDIA.to_vec())), option::of(any_of(vec![0, 50, 100, 101]))).prop_map(
        |((total, free, provisioned, allocated, volumes), (thin, ratio, reserved), media, goodness)| {
            StoragePool {
                total_gib: total * 40,
                free_gib: free.min(total) * 40,
                allocated_gib: allocated * 20,
                provisioned_gib: provisioned * 20,
                reserved_percentage: reserved,
                thin_provisioning: thin,
                max_over_subscription_ratio: ratio,
                volumes,
                capabilities: media.map(|media| ("media".to_owned(), media.to_owned())).into_iter().collect(),
                goodness,
                ..StoragePool::default()
            }
        },
    )
}

fn any_backend() -> impl Strategy<Value = Backend> {
    (any_of(ZONES.to_vec()), 0_u8..10, 0_u8..10, vec(any_pool(), 1..4)).prop_map(
        |(zone, up, enabled, mut pools)| {
            for (n, pool) in pools.iter_mut().enumerate() {
                pool.name = format!("p{n}");
            }
            Backend { name: String::new(), zone: zone.into(), up: up > 0, enabled: enabled > 0, pools }
        },
    )
}

fn any_world() -> impl Strategy<Value = Vec<Backend>> {
    vec(any_backend(), 0..10).prop_map(|mut backends| {
        for (n, backend) in backends.iter_mut().enumerate() {
            backend.name = name(n);
        }
        backends
    })
}

/// Names of backends, some of which there may not be.
fn names(most: usize) -> impl Strategy<Value = Vec<String>> {
    vec((0_usize..12).prop_map(name), 0..=most)
}

/// Something once in so many times.
fn seldom<T: Clone + std::fmt::Debug>(
    times: u32,
    what: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<T>> {
    option::weighted(1.0 / f64::from(times), what)
}

fn any_request() -> impl Strategy<Value = SelectBackendsRequest> {
    let size = (any_of(vec![1_u32, 10, 29, 38]), any::<bool>(), any_of(EXTRA_SPECS.to_vec()));
    let places =
        (seldom(4, any_of(ZONES.to_vec())), seldom(8, (0_usize..12).prop_map(name)), names(2), names(2));
    let others = (seldom(3, names(6)), names(2), seldom(4, option::of(0_usize..6)));
    (size, places, others).prop_map(
        |((size_gib, thick, spec), (zone, forced, unwanted, tried), (same, different, local))| {
            let thick = thick.then_some(("provisioning:type", "thick"));
            let specs = thick.into_iter().chain(spec);
            let id = || "a volume or instance".to_owned();
            let hints = SchedulerHints {
                force_host: forced.unwrap_or_default(),
                exclude_hosts: unwanted,
                same_host: same.iter().map(|_| id()).collect(),
                different_host: different.iter().map(|_| id()).collect(),
                local_to_instance: local.map(|_| id()).unwrap_or_default(),
                ..SchedulerHints::default()
            };
            let volume = VolumeSpec {
                size_gib,
                availability_zone: zone.unwrap_or_default().to_owned(),
                extra_specs: specs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                hints: Some(hints),
                ..VolumeSpec::default()
            };
            SelectBackendsRequest {
                volume: Some(volume),
                excluded_backends: tried,
                same_backends: same.unwrap_or_default(),
                different_backends: different,
                instance_host: local.flatten().map(|n| format!("n{n}")).unwrap_or_default(),
                ..SelectBackendsRequest::default()
            }
        },
    )
}

fn any_multipliers() -> impl Strategy<Value = BackendMultipliers> {
    let one = || any_of(vec![0.0, 1.0, -1.0, 0.5]);
    (one(), one(), one(), one()).prop_map(|(capacity, allocated_capacity, volume_number, goodness)| {
        BackendMultipliers { capacity, allocated_capacity, volume_number, goodness }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn agrees_with_the_plain_reference(
        backends in any_world(),
        request in any_request(),
        multipliers in any_multipliers(),
        count in 1_usize..5,
        alternates in 0_usize..4,
        seed: u64,
    ) {
        let mut world = world_of(&backends);
        let demand = StorageDemand::new(&request, &world);
        let wanted = Wanted { count, alternates };
        let config = BackendsConfig { multipliers: multipliers.clone(), ..BackendsConfig::default() };
        let chain = config.chain().expect("a configuration that can be used");
        let mut scan = Scan::default();
        let decision = select(&mut world, &chain, &demand, wanted, seed, &mut scan);

        let removed: u32 = decision.explanation.filters.iter().map(|filter| filter.removed).sum();
        prop_assert_eq!(removed + decision.explanation.remaining, decision.explanation.considered);
        prop_assert!(world.rows().iter().all(|row| row.held_volumes == 0 && row.held_gib == 0));
        prop_assert_eq!(&decision, &select(&mut world, &chain, &demand, wanted, seed, &mut scan));
        let name = |pick: &Pick| world.name(pick.host).to_owned();
        Plain { request: &request, backends, multipliers }.verify(&decision, wanted, name);
    }
}
