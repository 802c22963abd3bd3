//! Whatever is chosen is what a plain implementation, written from the rules alone, would have chosen.

use kilonova_proto::scheduler::v1::{GroupHosts, SelectHostsRequest};
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_proto::types::v1::{ComputeResources, Image, SchedulerHints, StoragePool};
use proptest::prelude::*;

use super::testing::{backend, group, host_with, instance, pool, volume};
use super::{ComputeDemand, ComputeRow, Decision, Pick, Scan, StorageDemand, Wanted, World, select};
use crate::config::{BackendsConfig, HostsConfig};

const ZONES: [&str; 2] = ["az1", "az2"];
const TRAITS: [&str; 3] = ["HW_A", "HW_B", "HW_C"];
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

#[derive(Debug, Clone)]
struct Host {
    name: String,
    zone: usize,
    traits: Vec<&'static str>,
    up: bool,
    enabled: bool,
    figures: ComputeResources,
}

fn any_host() -> impl Strategy<Value = Host> {
    let figures =
        (0_u32..8, 0_u32..16, 0_u32..16, 0_u32..20, 0_u32..3, 0_u32..40, 0_u32..30, 0_u32..4, 0_u32..3);
    let ratios = (0_usize..3, 0_usize..3, 0_usize..2);
    (0_usize..2, proptest::sample::subsequence(TRAITS.to_vec(), 0..=3), 0_u8..10, 0_u8..10, figures, ratios)
        .prop_map(|(zone, traits, up, enabled, figures, ratios)| {
            let (vcpus, vcpus_used, ram, ram_used, reserved, disk, disk_used, io_ops, failed) = figures;
            Host {
                name: String::new(),
                zone,
                traits,
                up: up > 0,
                enabled: enabled > 0,
                figures: ComputeResources {
                    vcpus,
                    vcpus_used,
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
                    ..ComputeResources::default()
                },
            }
        })
}

fn any_request() -> impl Strategy<Value = SelectHostsRequest> {
    let sizes = (1_u32..4, 1_u32..6, 0_u32..8);
    let wishes =
        (0_usize..6, 0_usize..12, proptest::collection::vec(0_usize..30, 0..3), 0_usize..40, 0_usize..6);
    (sizes, wishes).prop_map(|((vcpus, ram, disk), (zone, wanted_trait, excluded, forced, architecture))| {
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
        if let Some(text) = ARCHITECTURES.get(architecture) {
            let properties = [("hw_architecture".to_owned(), (*text).to_owned())].into();
            request.image = Some(Image { properties, ..Image::default() });
        }
        request
    })
}

fn any_group() -> impl Strategy<Value = Option<GroupHosts>> {
    let policies = [Policy::Affinity, Policy::AntiAffinity, Policy::SoftAffinity, Policy::SoftAntiAffinity];
    let hosts = proptest::collection::btree_map(0_usize..30, 1_u32..4, 0..6);
    (0_usize..6, 0_u32..4, hosts).prop_map(move |(policy, max_per_host, hosts)| {
        let hosts: Vec<(String, u32)> =
            hosts.into_iter().map(|(n, members)| (format!("c{n}"), members)).collect();
        let hosts: Vec<(&str, u32)> = hosts.iter().map(|(host, members)| (host.as_str(), *members)).collect();
        policies.get(policy).map(|policy| group(*policy, max_per_host, &hosts))
    })
}

/// The rules once more: no indexes, no ids, no cleverness.
struct Reference<'a> {
    request: &'a SelectHostsRequest,
    hosts: Vec<Host>,
}

fn free(total: u32, ratio: f64, default: f64, reserved: u32, used: u32) -> i64 {
    let ratio = if ratio == 0.0 { default } else { ratio };
    ((f64::from(total) * ratio).floor() as i64 - i64::from(reserved)).max(0) - i64::from(used)
}

fn free_of(host: &Host) -> [i64; 3] {
    let of = &host.figures;
    [
        free(of.vcpus, of.cpu_allocation_ratio, 4.0, 0, of.vcpus_used),
        free(of.ram_mib, of.ram_allocation_ratio, 1.0, of.ram_reserved_mib, of.ram_used_mib),
        free(of.disk_gib, of.disk_allocation_ratio, 1.0, 0, of.disk_used_gib),
    ]
}

impl Reference<'_> {
    /// How many members of a group under that rule are on a host, and how many may share one; none without such a group.
    fn members(&self, policy: Policy, host: &Host) -> Option<(u32, u32)> {
        let group = self.request.server_group.as_ref().filter(|group| group.policy() == policy)?;
        let there = group.hosts.iter().find(|there| there.host == host.name).map_or(0, |there| there.members);
        Some((there, group.max_per_host.max(1)))
    }

    fn keeps_the_rule(&self, host: &Host) -> bool {
        let is_nowhere = self.request.server_group.as_ref().is_none_or(|group| group.hosts.is_empty());
        self.members(Policy::Affinity, host).is_none_or(|(there, _)| is_nowhere || there > 0)
            && self.members(Policy::AntiAffinity, host).is_none_or(|(there, most)| there < most)
    }

    fn fits(&self, host: &Host) -> bool {
        let request = self.request;
        let flavor = request.flavor.as_ref().unwrap();
        let hints = request.hints.as_ref().unwrap();
        let architecture = request.image.as_ref().map(|image| image.properties["hw_architecture"].as_str());
        let needed = [flavor.vcpus, flavor.ram_mib, flavor.disk_gib];
        let totals = [host.figures.vcpus, host.figures.ram_mib, host.figures.disk_gib];
        let traits_are_right = flavor.extra_specs.iter().all(|(key, value)| {
            host.traits.contains(&key.strip_prefix("trait:").unwrap()) == (value == "required")
        });
        host.up
            && host.enabled
            && (request.availability_zone.is_empty() || request.availability_zone == ZONES[host.zone])
            && !request.excluded_hosts.contains(&host.name)
            && (hints.force_host.is_empty() || hints.force_host == host.name)
            && architecture.is_none_or(|wanted| wanted == host.figures.cpu_architecture)
            && traits_are_right
            && self.keeps_the_rule(host)
            && (0..3).all(|n| i64::from(needed[n]) <= free_of(host)[n] && needed[n] <= totals[n])
    }

    /// Every host that fits, with its weight.
    fn weights(&self) -> Vec<(String, f64)> {
        let fitting: Vec<&Host> = self.hosts.iter().filter(|host| self.fits(host)).collect();
        let mut weights = vec![0.0; fitting.len()];
        let mut add = |multiplier: f64, figure: &dyn Fn(&Host) -> f64| {
            let figures: Vec<f64> = fitting.iter().map(|host| figure(host)).collect();
            let least = figures.iter().copied().fold(f64::MAX, f64::min);
            let greatest = figures.iter().copied().fold(f64::MIN, f64::max);
            if greatest > least {
                let scale = multiplier / (greatest - least);
                for (weight, figure) in weights.iter_mut().zip(figures) {
                    *weight += scale * (figure - least);
                }
            }
        };
        add(1.0, &|host| free_of(host)[1] as f64);
        add(1.0, &|host| free_of(host)[0] as f64);
        add(1.0, &|host| free_of(host)[2] as f64);
        add(-1.0, &|host| f64::from(host.figures.io_ops));
        add(-1_000_000.0, &|host| f64::from(host.figures.failed_builds));
        add(1.0, &|host| f64::from(self.members(Policy::SoftAffinity, host).unwrap_or_default().0));
        add(1.0, &|host| {
            let (there, most) = self.members(Policy::SoftAntiAffinity, host).unwrap_or_default();
            -f64::from(there.saturating_sub(most.max(1) - 1))
        });
        fitting.iter().map(|host| host.name.clone()).zip(weights).collect()
    }

    fn place(&mut self, name: &str) {
        let flavor = self.request.flavor.as_ref().unwrap();
        let host = self.hosts.iter_mut().find(|host| host.name == name).unwrap();
        host.figures.vcpus_used += flavor.vcpus;
        host.figures.ram_used_mib += flavor.ram_mib;
        host.figures.disk_used_gib += flavor.disk_gib;
        host.figures.io_ops += 1;
    }

    /// Follows the decision pick by pick: each must be among the best at its turn.
    fn verify(mut self, decision: &Decision, wanted: Wanted, name: impl Fn(&Pick) -> String) {
        if decision.picks.is_empty() {
            for _ in 0..wanted.count {
                let weights = self.weights();
                let Some((best, _)) = weights.iter().max_by(|one, other| one.1.total_cmp(&other.1)) else {
                    assert_eq!(decision.explanation.remaining, 0);
                    return;
                };
                let best = best.clone();
                self.place(&best);
            }
            panic!("there was room for all, and none was placed");
        }
        assert_eq!(decision.picks.len(), wanted.count);
        let mut last = Vec::new();
        for pick in &decision.picks {
            last = self.weights();
            let best = last.iter().map(|(_, weight)| *weight).fold(f64::MIN, f64::max);
            let own =
                last.iter().find(|(host, _)| *host == name(pick)).expect("the pick passes the filters").1;
            assert_eq!(own, best, "the pick is among the best");
            self.place(&name(pick));
        }
        assert_eq!(decision.explanation.remaining as usize, last.len());
        let picked: Vec<String> = decision.picks.iter().map(&name).collect();
        last.retain(|(host, _)| !picked.contains(host));
        last.sort_by(|one, other| other.1.total_cmp(&one.1));
        let alternates: Vec<String> = decision.alternates.iter().map(&name).collect();
        assert_eq!(alternates.len(), last.len().min(wanted.alternates));
        for (n, alternate) in alternates.iter().enumerate() {
            let own = last.iter().find(|(host, _)| host == alternate).expect("an alternate fits").1;
            assert_eq!(own, last[n].1, "alternates come best first");
            assert!(!alternates[..n].contains(alternate), "alternates are distinct");
        }
    }
}

fn world_of(hosts: &[Host]) -> World<ComputeRow> {
    let mut world = World::new();
    for host in hosts {
        let id = host_with(&mut world, &host.name, ZONES[host.zone], &host.traits, host.figures.clone());
        world.update_rows(id, |row| {
            row.head.up = host.up;
            row.head.enabled = host.enabled;
        });
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn agrees_with_the_plain_reference(
        mut hosts in proptest::collection::vec(any_host(), 0..30),
        mut request in any_request(),
        server_group in any_group(),
        count in 1_usize..5,
        alternates in 0_usize..4,
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
        let chain = HostsConfig::default().chain().unwrap();
        let mut scan = Scan::default();
        let decision = select(&mut world, &chain, &demand, wanted, seed, &mut scan);

        let removed: u32 = decision.explanation.filters.iter().map(|filter| filter.removed).sum();
        prop_assert_eq!(removed + decision.explanation.remaining, decision.explanation.considered);
        prop_assert!(world.rows().iter().all(|row| row.held_instances == 0 && row.ram.held == 0));
        prop_assert_eq!(&decision, &select(&mut world, &chain, &demand, wanted, seed, &mut scan));
        let name = |pick: &Pick| world.name(pick.host).to_owned();
        Reference { request: &request, hosts }.verify(&decision, wanted, name);
    }

    #[test]
    fn volumes_go_where_the_plain_formula_has_most_room(
        backends in proptest::collection::vec(proptest::collection::vec(any_pool(), 1..4), 0..8),
        gib in 1_u32..60,
        thick: bool,
        count in 1_usize..4,
        seed: u64,
    ) {
        let mut world = World::new();
        let mut free: Vec<(String, f64)> = Vec::new();
        for (n, pools) in backends.iter().enumerate() {
            let mut pools = pools.clone();
            for (m, pool) in pools.iter_mut().enumerate() {
                pool.name = format!("p{m}");
                free.push((format!("b{n}#p{m}"), plain_virtual_free(pool, thick)));
            }
            backend(&mut world, &format!("b{n}"), &pools);
        }
        let specs: &[(&str, &str)] = if thick { &[("provisioning:type", "thick")] } else { &[] };
        let demand = StorageDemand::new(&volume(gib, specs), &world);
        let chain = BackendsConfig::default().chain().unwrap();
        let decision = select(&mut world, &chain, &demand, Wanted { count, alternates: 0 }, seed, &mut Scan::default());
        let most = |free: &[(String, f64)]| free.iter().map(|(_, free)| *free).fold(f64::MIN, f64::max);
        if decision.picks.is_empty() {
            let mut placed = 0;
            while placed < count && most(&free) >= f64::from(gib) {
                let best = most(&free);
                free.iter_mut().find(|(_, free)| *free == best).unwrap().1 -= f64::from(gib);
                placed += 1;
            }
            prop_assert!(placed < count, "there was room for all, and none was placed");
        }
        for pick in &decision.picks {
            let place = format!("{}#{}", world.name(pick.host), pick.pool);
            let best = most(&free);
            let own = free.iter_mut().find(|(name, _)| *name == place).unwrap();
            prop_assert_eq!(own.1, best);
            prop_assert!(own.1 >= f64::from(gib));
            own.1 -= f64::from(gib);
        }
    }
}

fn any_pool() -> impl Strategy<Value = StoragePool> {
    let figures = (0_u32..120, 0_u32..120, 0_u32..150, 0_u32..40);
    (figures, any::<bool>(), 0_usize..4).prop_map(|((total, free, provisioned, reserved), thin, ratio)| {
        StoragePool {
            total_gib: total,
            free_gib: free.min(total),
            provisioned_gib: provisioned,
            reserved_percentage: reserved,
            thin_provisioning: thin,
            max_over_subscription_ratio: [0.0, 1.0, 1.5, 3.0][ratio],
            ..pool("")
        }
    })
}

fn plain_virtual_free(pool: &StoragePool, thick: bool) -> f64 {
    let ratio = if pool.max_over_subscription_ratio == 0.0 { 20.0 } else { pool.max_over_subscription_ratio };
    let reserved = pool.total_gib * pool.reserved_percentage / 100;
    let usable = f64::from(pool.total_gib - reserved);
    let provisioned = f64::from(pool.provisioned_gib);
    if pool.thin_provisioning && !thick {
        usable * ratio - provisioned
    } else {
        f64::from(pool.free_gib).min(usable - provisioned)
    }
}
